# SPDX-License-Identifier: MIT
"""Which points of a surface can be seen from outside: what a picture can tell of an object."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from models.data.prepare.sample import sample_surface

DIRECTIONS = 96
_CLEAR = 1e-4  # object units by which a ray starts off its own face
_LEAST = 0.01  # share of the surface that must be visible

Seen = Callable[[np.ndarray], np.ndarray]  # points [N, 3] -> bool [N]


def directions(count: int = DIRECTIONS) -> np.ndarray:
    """Unit vectors spread evenly over the sphere, [count, 3], neighbours far apart in the order."""
    # A Fibonacci lattice; the shuffle lets a few directions see most points.
    number = np.arange(count) + 0.5
    height, angle = 1 - 2 * number / count, np.pi * (1 + 5**0.5) * number
    level = np.sqrt(1 - height**2)
    vectors = np.column_stack([level * np.cos(angle), height, level * np.sin(angle)])
    return np.random.default_rng(0).permutation(vectors)


def seen_from_outside(caster: Any) -> Seen:
    """A test of points on a mesh: whether a ray in any of 96 directions leaves without a hit.

    caster: trimesh's ray intersector of the mesh.
    """

    def seen(points: np.ndarray) -> np.ndarray:
        hidden = np.arange(len(points))
        for direction in directions():
            starts = points[hidden] + _CLEAR * direction
            rays = np.broadcast_to(direction, starts.shape)
            hidden = hidden[caster.intersects_first(starts, rays) >= 0]
            if not len(hidden):
                break
        result = np.ones(len(points), dtype=bool)
        result[hidden] = False
        return result

    return seen


def sample_seen(
    vertices: np.ndarray, faces: np.ndarray, count: int, rng: np.random.Generator, seen: Seen
) -> np.ndarray:
    """Independent points, uniform over the part of the surface that `seen` accepts: [count, 3]."""
    kept, found, tried = [np.zeros((0, 3))], 0, 0
    while found < count:
        points = sample_surface(vertices, faces, int(1.3 * (count - found)) + 64, rng)
        tried += len(points)
        kept.append(points[seen(points)])
        found += len(kept[-1])
        if found < _LEAST * tried:
            raise ValueError(f"less than {_LEAST:.0%} of the surface can be seen from outside")
    return np.concatenate(kept)[:count]
