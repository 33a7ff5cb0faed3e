# SPDX-License-Identifier: MIT
"""The cameras of 3D-R2N2's renderings, in which every set of this layout is seen.

A line of rendering_metadata.txt is "azimuth elevation inplane distance 25": degrees, and the
distance as a share of 1.75 object units. The last number is the lens angle that 3D-R2N2 asked its
renderer for and that had no effect; the lens is Blender's, 35 mm on a 32 mm sensor.
Object frame: y up. Azimuth 0 looks from +x, azimuth 90 from +z: Blender turns (x, y, z) of a mesh
into (x, -z, y), and the camera's parent by minus the azimuth about Blender's z.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

FOV = 49.13  # degrees across the image: 2 atan(16 / 35)
FURTHEST = 1.75  # distance, in object units, that the metadata calls 1
_UNUSED_ANGLE = 25


class Camera(NamedTuple):
    """Looks at the origin. Angles in degrees, distance in object units (metadata: times 1.75)."""

    azimuth: float
    elevation: float
    distance: float

    def axes(self) -> np.ndarray:
        """[3, 3] float64, rows right, up, back (from the origin to the camera), object frame."""
        azimuth, elevation = np.deg2rad([self.azimuth, self.elevation])
        level = np.cos(elevation)
        back = np.array([level * np.cos(azimuth), np.sin(elevation), level * np.sin(azimuth)])
        right = np.cross([0.0, 1.0, 0.0], back)
        right /= np.linalg.norm(right)
        return np.stack([right, np.cross(back, right), back])

    def extrinsics(self) -> np.ndarray:
        """[3, 4] float64, object -> camera frame, x right, y down, z forward (as in OpenCV)."""
        rotation = self.axes() * [[1], [-1], [-1]]
        return np.column_stack([rotation, [0, 0, self.distance]])

    def metadata(self) -> str:
        """The camera's line of rendering_metadata.txt."""
        ratio = self.distance / FURTHEST
        return f"{self.azimuth:.4f} {self.elevation:.4f} 0 {ratio:.6f} {_UNUSED_ANGLE}"


def read_metadata(text: str) -> list[Camera]:
    """Cameras of a rendering_metadata.txt, one a line. Raises ValueError on anything else."""
    cameras = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            azimuth, elevation, inplane, ratio, _ = map(float, line.split())
        except ValueError:
            raise ValueError(f"line {number}: expected five numbers, got {line!r}") from None
        if inplane != 0:
            raise ValueError(f"line {number}: a camera rolled by {inplane} degrees")
        cameras.append(Camera(azimuth, elevation, ratio * FURTHEST))
    return cameras


def window(width: int, size: int | None) -> tuple[int, int]:
    """Offset and side of the square that is cut from a `width` pixel image before it is resized.

    3D-LMNet and 3D-ReconstNet cut 3D-R2N2's 137 pixels to [4:-5], 128 pixels; others stay whole.
    """
    return (4, 128) if width == 137 and size not in (None, 137) else (0, width)


def intrinsics(width: int, size: int | None, fov: float = FOV) -> np.ndarray:
    """[3, 3] float64 in pixels for a `width` pixel rendering that is read at `size`.

    fov: degrees across the rendering; a set's manifest tells it as image.fov.
    The pixel in row r and column c has its centre at (c + 0.5, r + 0.5).
    """
    offset, side = window(width, size)
    scale = (size or width) / side
    focal = width / 2 / np.tan(np.deg2rad(fov) / 2) * scale
    centre = (width / 2 - offset) * scale
    return np.array([[focal, 0, centre], [0, focal, centre], [0, 0, 1.0]])
