# SPDX-License-Identifier: MIT
"""Where the cameras of a set stand, what lights its objects, and what lies behind them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from models.data.camera import FOV, Camera

_LAMP = (-0.35, 0.45, 1.0)  # right, up, back: beside the camera
_CONE = 60.0  # degrees from the camera within which a random light shines
BACKGROUNDS = {"white": (255, 255, 255), "grey": (128, 128, 128), "black": (0, 0, 0)}


class Rig(NamedTuple):
    """How views are taken; the defaults are those of 3D-R2N2's renderings."""

    azimuth: tuple[float, float] = (0, 360)  # degrees; 0 looks from +x, 90 from +z
    elevation: tuple[float, float] = (25, 30)  # degrees
    fov: float = FOV  # degrees across the image
    light: str = "camera"  # beside the camera, or "random": anywhere within 60 degrees of it
    background: str = "none"  # alpha, a colour of BACKGROUNDS, or "random": a colour a view


R2N2 = Rig()


def fitting_distance(vertices: np.ndarray, camera: Camera, fov: float = FOV) -> float:
    """Least distance from which every vertex [V, 3] falls inside the square image."""
    right, up, back = camera.axes() @ np.asarray(vertices, dtype=np.float64).T
    across = np.maximum(np.abs(right), np.abs(up)) / np.tan(np.deg2rad(fov) / 2)
    return float((across + back).max())


def orbit(
    vertices: np.ndarray, views: int, rng: np.random.Generator, rig: Rig = R2N2
) -> list[Camera]:
    """Cameras around the object: one per equal slice of the azimuths, jittered inside it."""
    low, high = rig.azimuth
    azimuths = high - (np.arange(views) + rng.random(views)) * (high - low) / views
    elevations = rng.uniform(*rig.elevation, views)
    margins = rng.uniform(1.05, 1.20, views)
    cameras = []
    for azimuth, elevation, margin in zip(azimuths, elevations, margins, strict=True):
        camera = Camera(float(azimuth), float(elevation), 1.0)
        distance = margin * fitting_distance(vertices, camera, rig.fov)
        cameras.append(camera._replace(distance=float(distance)))
    return cameras


def lamp(camera: Camera) -> np.ndarray:
    """Unit vector to the light beside the camera, object frame: no visible face is black."""
    light = np.array(_LAMP) @ camera.axes()
    return light / np.linalg.norm(light)


def lights(cameras: list[Camera], rng: np.random.Generator, rig: Rig = R2N2) -> np.ndarray:
    """Unit vectors to the light of each view, object frame: [views, 3]."""
    if rig.light == "camera":
        return np.stack([lamp(camera) for camera in cameras])
    # Uniform over the cap of the sphere around the camera.
    height = rng.uniform(np.cos(np.deg2rad(_CONE)), 1, len(cameras))
    angle, level = rng.uniform(0, 2 * np.pi, len(cameras)), np.sqrt(1 - height**2)
    local = np.column_stack([level * np.cos(angle), level * np.sin(angle), height])
    return np.stack([v @ camera.axes() for v, camera in zip(local, cameras, strict=True)])


def on_background(image: np.ndarray, rng: np.random.Generator, background: str) -> np.ndarray:
    """[S, S, 4] uint8 RGBA as it is (none), or opaque on a colour: [S, S, 3]."""
    if background == "none":
        return image
    colour = rng.integers(0, 256, 3) if background == "random" else BACKGROUNDS[background]
    alpha = image[..., 3:] / 255
    return np.rint(alpha * image[..., :3] + (1 - alpha) * np.asarray(colour)).astype(np.uint8)
