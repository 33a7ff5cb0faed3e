# SPDX-License-Identifier: MIT
"""Views of a mesh by ray casting (trimesh + embreex): no display, no OpenGL.

Object frame: y up, longest side 1, centred. Azimuth and elevation are in degrees and follow the
3D-R2N2 renderings: azimuth 0 looks at the object from +x, azimuth 270 from +z.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

FOV = 49.13  # degrees across the image: the 35 mm lens on a 32 mm sensor of 3D-R2N2
AMBIENT = 0.35
BLACK = 0.12  # what a black material reflects, so that its edges still show


class Camera(NamedTuple):
    """Looks at the origin. Angles in degrees, distance in units of the object's longest side."""

    azimuth: float
    elevation: float
    distance: float
    fov: float = FOV

    def axes(self) -> np.ndarray:
        """[3, 3] float64, rows right, up, back (from the origin to the camera), object frame."""
        azimuth, elevation = np.deg2rad([self.azimuth, self.elevation])
        # The Blender scenes of 3D-R2N2 are z up; there y up becomes (x, -z, y).
        back = np.array(
            [
                np.cos(elevation) * np.cos(azimuth),
                np.sin(elevation),
                -np.cos(elevation) * np.sin(azimuth),
            ]
        )
        right = np.cross([0.0, 1.0, 0.0], back)
        right /= np.linalg.norm(right)
        return np.stack([right, np.cross(back, right), back])

    def metadata(self) -> str:
        """One line of rendering_metadata.txt: az el inplane dist fov."""
        return f"{self.azimuth:.4f} {self.elevation:.4f} 0 {self.distance:.6f} {self.fov:.2f}"


def fitting_distance(vertices: np.ndarray, camera: Camera) -> float:
    """Least distance from which every vertex [V, 3] falls inside the square image."""
    right, up, back = camera.axes() @ np.asarray(vertices, dtype=np.float64).T
    across = np.maximum(np.abs(right), np.abs(up)) / np.tan(np.deg2rad(camera.fov) / 2)
    return float((across + back).max())


def orbit(vertices: np.ndarray, views: int, rng: np.random.Generator) -> list[Camera]:
    """Cameras once around the object: one per equal slice of the circle, jittered inside it."""
    azimuths = (np.arange(views) + rng.random(views)) * 360 / views
    elevations = rng.uniform(25, 30, views)
    margins = rng.uniform(1.05, 1.20, views)
    cameras = []
    for azimuth, elevation, margin in zip(azimuths, elevations, margins, strict=True):
        camera = Camera(float(azimuth), float(elevation), 1.0)
        distance = margin * fitting_distance(vertices, camera)
        cameras.append(camera._replace(distance=float(distance)))
    return cameras


class Renderer:
    """One mesh, ready to be seen: vertices [V, 3], faces [F, 3], colours [F, 3] in 0..1."""

    def __init__(self, vertices: np.ndarray, faces: np.ndarray, colours: np.ndarray) -> None:
        # Imported here so that reading the finished set needs neither package.
        import trimesh
        from trimesh.ray.ray_pyembree import RayMeshIntersector

        # process=False: merging vertices would drop faces and break the match with colours.
        mesh = trimesh.Trimesh(vertices, faces, process=False)
        self._caster = RayMeshIntersector(mesh)
        corner = mesh.vertices[mesh.faces]
        normals = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
        self._normals = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)
        self._colours = BLACK + (1 - BLACK) * np.asarray(colours, dtype=np.float64)

    def hits(self, camera: Camera, size: int) -> np.ndarray:
        """Index of the first face through each pixel centre: [size, size] int, -1 is none."""
        axes = camera.axes()
        reach = np.tan(np.deg2rad(camera.fov) / 2)
        grid = (np.arange(size) + 0.5) / size * 2 - 1
        x, y = np.meshgrid(grid * reach, -grid * reach)
        rays = np.stack([x, y, -np.ones_like(x)], axis=-1).reshape(-1, 3) @ axes
        origins = np.broadcast_to(axes[2] * camera.distance, rays.shape)
        return self._caster.intersects_first(origins.copy(), rays).reshape(size, size)

    def render(self, camera: Camera, size: int, supersample: int = 3) -> np.ndarray:
        """[size, size, 4] uint8 RGBA; alpha is the share of the pixel that the object covers."""
        hit = self.hits(camera, size * supersample)
        covered = hit >= 0
        right, up, back = camera.axes()
        # A lamp beside the camera: nothing that is seen is black, yet edges keep a contrast.
        light = back + 0.45 * up - 0.35 * right
        light /= np.linalg.norm(light)
        normals = self._normals[hit]
        # Furniture meshes are wound either way, so every face shows its lit side to the camera.
        normals = normals * np.where(normals @ back < 0, -1.0, 1.0)[..., None]
        shade = AMBIENT + (1 - AMBIENT) * np.clip(normals @ light, 0, 1)
        colour = self._colours[hit] * shade[..., None] * covered[..., None]
        block = (size, supersample, size, supersample)
        alpha = covered.reshape(block).mean(axis=(1, 3))
        colour = colour.reshape(*block, 3).mean(axis=(1, 3)) / np.maximum(alpha, 1e-9)[..., None]
        return np.rint(np.dstack([colour, alpha]) * 255).clip(0, 255).astype(np.uint8)
