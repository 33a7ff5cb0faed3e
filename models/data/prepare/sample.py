# SPDX-License-Identifier: MIT
"""Points on a triangle mesh, and the unit frame that every object of the set lives in."""

from __future__ import annotations

import hashlib

import numpy as np


def seed_of(*parts: object) -> int:
    """A seed that depends on the words alone, so that no object moves when another is added."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "big")


def unit_box(vertices: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Centre the bounding box on 0 and make its longest side 1.

    vertices: [V, 3] -> (vertices [V, 3] float64, centre [3], longest side), both in source units.
    """
    vertices = np.asarray(vertices, dtype=np.float64)
    if len(vertices) == 0 or not np.isfinite(vertices).all():
        raise ValueError("mesh has no vertices, or some that are not finite")
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    side = float((high - low).max())
    if side <= 0:
        raise ValueError("mesh is a single point")
    centre = (low + high) / 2
    return (vertices - centre) / side, centre, side


def sample_surface(
    vertices: np.ndarray, faces: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Independent points, uniform over the surface area.

    vertices: [V, 3], faces: [F, 3] int -> points [count, 3] float64, same frame as the vertices.
    """
    corner = np.asarray(vertices, dtype=np.float64)[faces]
    edge1, edge2 = corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]
    cumulative = np.cumsum(np.linalg.norm(np.cross(edge1, edge2), axis=1))
    if len(cumulative) == 0 or not cumulative[-1] > 0:
        raise ValueError("mesh has no surface area")
    # Scaling by a number below 1 can never step past the last face with area.
    face = np.searchsorted(cumulative, rng.random(count) * cumulative[-1], side="right")
    u, v = rng.random((2, count))
    # Fold the unit square onto the triangle: uniform, and no rejection loop.
    outside = u + v > 1
    u[outside], v[outside] = 1 - u[outside], 1 - v[outside]
    return corner[face, 0] + u[:, None] * edge1[face] + v[:, None] * edge2[face]
