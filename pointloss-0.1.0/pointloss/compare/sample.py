# SPDX-License-Identifier: MIT
"""The cloud to compare: what a file holds, a mesh sampled, a large cloud thinned."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pointloss import io
from pointloss._optional import need
from pointloss.io import Array

MESH_POINTS = 100_000  # sampled of a mesh, unless the caller says how many


class Cloud(NamedTuple):
    """Points to compare, in the unit of their file."""

    points: Array  # [N, 3], finite
    normals: Array | None  # [N, 3], of any length
    origin: str  # in words: what it was, and what was done


def read(path: Path, points: int | None, seed: int) -> Cloud:
    """The cloud in a file; a mesh is sampled uniformly by area, with the normals of its faces.

    Args:
        path: a file that io.read reads.
        points: how many to sample of a mesh (None: MESH_POINTS), and at most to take of a cloud
            (None: all).
        seed: of the sampling and of the choice.

    Returns:
        Cloud with points and normals [N, 3] float64, N > 0.

    Raises:
        ValueError: as io.read does, or the mesh has no surface.
        OSError: it cannot be read.
        ImportError: what reads this format is not installed; the message has the pip command.
    """
    shape, rng = io.read(path), np.random.default_rng(seed)
    if shape.faces is not None:
        wanted = MESH_POINTS if points is None else points
        origin = f"mesh of {len(shape.faces)} triangles, {wanted} points sampled by area"
        try:
            return Cloud(*_sample(shape.points, shape.faces, wanted, rng), origin)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    found, normals = shape.points, shape.normals
    origin = f"cloud of {len(found)} points"
    if points is not None and len(found) > points:
        keep = rng.choice(len(found), points, replace=False)
        found, normals = found[keep], None if normals is None else normals[keep]
        origin += f", {points} of them chosen at random"
    return Cloud(found, normals, origin + shape.note)


def _sample(
    vertices: Array, faces: NDArray[np.int64], count: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    trimesh = need("trimesh", "sampling a mesh")
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    if not mesh.area > 0:
        raise ValueError("the mesh has no surface area")
    points, face = trimesh.sample.sample_surface(mesh, count, seed=rng)
    # Not face_normals, which leaves triangles without area out of its rows.
    corner = vertices[faces[face]]
    return np.asarray(points), np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
