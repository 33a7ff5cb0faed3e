# SPDX-License-Identifier: MIT
"""Views of a mesh by ray casting (trimesh + embreex): no display, no OpenGL."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from models.data.camera import FOV, Camera
from models.data.prepare.rig import lamp

AMBIENT = 0.35
BLACK = 0.12  # what a black material reflects, so that its edges still show
SUPERSAMPLE = 3  # rays a pixel and axis; odd, so that one ray passes through the pixel's centre


class Rendering(NamedTuple):
    """What one camera sees."""

    image: np.ndarray  # [size, size, 4] uint8 RGBA, alpha = share of the pixel that is covered
    depth: np.ndarray  # [size, size] float64 along the optical axis at the pixel's centre, 0: none
    normal: np.ndarray  # [size, size, 3] float64, unit, x right, y down, z forward; 0: none


class Renderer:
    """One mesh, ready to be seen: vertices [V, 3], faces [F, 3], colours [F, 3] in 0..1.

    fov: degrees across the image.
    """

    def __init__(
        self, vertices: np.ndarray, faces: np.ndarray, colours: np.ndarray, fov: float = FOV
    ) -> None:
        # Imported here so that reading the finished set needs neither package.
        import trimesh
        from trimesh.ray.ray_pyembree import RayMeshIntersector

        # process=False: merging vertices would drop faces and break the match with colours.
        mesh = trimesh.Trimesh(vertices, faces, process=False)
        self.caster = RayMeshIntersector(mesh)
        self._fov = fov
        corner = np.asarray(mesh.vertices)[mesh.faces]
        self._corner = corner[:, 0]
        self._radius = np.linalg.norm(mesh.vertices, axis=1).max()
        normals = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
        self._normals = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)
        self._colours = BLACK + (1 - BLACK) * np.asarray(colours, dtype=np.float64)

    def hits(self, camera: Camera, size: int) -> np.ndarray:
        """Index of the first face through each pixel centre: [size, size] int, -1 is none."""
        axes = camera.axes()
        rays = _rays(axes, size, self._fov).reshape(-1, 3)
        origins = np.broadcast_to(axes[2] * camera.distance, rays.shape)
        return self.caster.intersects_first(origins, rays).reshape(size, size)

    def render(self, camera: Camera, size: int, light: np.ndarray | None = None) -> Rendering:
        """Image, depth and normals of size x size pixels.

        light: unit vector to it [3], object frame; None: beside the camera.
        """
        hit = self.hits(camera, size * SUPERSAMPLE)
        middle = slice(SUPERSAMPLE // 2, None, SUPERSAMPLE)
        depth, normal = self._surface(camera, hit[middle, middle])
        light = lamp(camera) if light is None else light
        return Rendering(self._shade(camera, hit, light), depth, normal)

    def _shade(self, camera: Camera, hit: np.ndarray, light: np.ndarray) -> np.ndarray:
        size = len(hit) // SUPERSAMPLE
        covered = hit >= 0
        back = camera.axes()[2]
        # Furniture meshes are wound either way, so every face shows its lit side to the camera.
        towards = np.where(self._normals @ back < 0, -1.0, 1.0)
        shade = AMBIENT + (1 - AMBIENT) * np.clip(towards * (self._normals @ light), 0, 1)
        colour = (self._colours * shade[:, None])[hit] * covered[..., None]
        block = (size, SUPERSAMPLE, size, SUPERSAMPLE)
        alpha = covered.reshape(block).mean(axis=(1, 3))
        colour = colour.reshape(*block, 3).mean(axis=(1, 3)) / np.maximum(alpha, 1e-9)[..., None]
        return np.rint(np.dstack([colour, alpha]) * 255).clip(0, 255).astype(np.uint8)

    def _surface(self, camera: Camera, hit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Depth [S, S] and normal [S, S, 3] where the central rays meet the faces' planes."""
        covered = hit >= 0
        axes = camera.axes()
        # One unit deep each, so that length along the ray is depth.
        rays = _rays(axes, len(hit), self._fov)
        normals = self._normals[hit]
        slope = (rays * normals).sum(axis=-1)
        reach = ((self._corner[hit] - axes[2] * camera.distance) * normals).sum(axis=-1)
        depth = reach / np.where(slope == 0, 1e-30, slope)
        # A ray within its face's plane meets it anywhere: its depth cannot be told from the plane.
        covered &= np.abs(depth - camera.distance) <= self._radius + 1e-6
        towards = np.where(slope > 0, -1.0, 1.0) * covered
        normals = normals * towards[..., None] @ (axes * [[1], [-1], [-1]]).T
        return np.where(covered, depth, 0), normals


def _rays(axes: np.ndarray, size: int, fov: float) -> np.ndarray:
    """[size, size, 3], object frame: from the camera through the pixel centres, one unit deep."""
    right, up, back = axes
    grid = ((np.arange(size) + 0.5) / size * 2 - 1) * np.tan(np.deg2rad(fov) / 2)
    return grid[None, :, None] * right - grid[:, None, None] * up - back
