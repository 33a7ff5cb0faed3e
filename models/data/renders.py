# SPDX-License-Identifier: MIT
"""Every view of a split with its depth and normals, in units of the camera's distance."""

import math
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from models.data.dataset import ReconstructionDataset

FRONT = {"+x": 0.0, "+z": 90.0, "-x": 180.0, "-z": 270.0}  # azimuth of the view from the front


class Renders(NamedTuple):
    """The views of a split, on one device. Truth is for scores, and for training with it."""

    image: Tensor  # [S, 4, H, W] uint8: colours on white, alpha
    depth: Tensor  # [S, H, W] float32 over the camera's distance, 0: nothing seen
    normal: Tensor  # [S, H, W, 3] float32, camera frame, 0: nothing seen; [0, ...]: not read
    yaw: Tensor  # [S] radians, from the front, to the object's left

    def to(self, device: str | torch.device) -> "Renders":
        """The same views there."""
        return Renders(*(part.to(device) for part in self))


def field_of_view(data: ReconstructionDataset) -> float:
    """Degrees across the images of a set, NaN if it has none or does not tell its cameras."""
    if not data.samples:
        return math.nan
    focal = data.camera(0).intrinsics[0, 0].item()
    return math.degrees(2 * math.atan((data.image_size or data.width) / 2 / focal))


def read_renders(data: ReconstructionDataset, *, depth: bool, normal: bool) -> Renders:
    """Images of a split; its depth maps and normals if asked for, else no pixel has any.

    Raises:
        FileNotFoundError: the set has no depth maps or normals; models.data.prepare makes them
            unless it is told --no-geometry.
        ValueError: the split is too large to be kept in memory, or a camera is not told.
    """
    if data.images is None:
        raise ValueError(f"{data.root}: {data.split!r} is too large to be kept in memory")
    samples = range(len(data.samples))
    cameras = [data.camera(index) for index in samples]
    side = data.images.shape[-1]
    depths, normals = torch.zeros(len(samples), side, side), torch.empty(0, side, side, 3)
    if not cameras:
        return Renders(data.images, depths, normals, torch.empty(0))
    extrinsics = torch.stack([camera.extrinsics for camera in cameras])
    if not extrinsics.isfinite().all():
        raise ValueError(f"{data.root}: the set does not tell the cameras of its images")
    with ThreadPoolExecutor() as pool:  # decoding leaves the interpreter's lock alone
        if depth:
            depths = torch.stack(list(pool.map(data.depth, samples)))
        if normal:
            normals = torch.stack(list(pool.map(data.normal, samples))).permute(0, 2, 3, 1)
    front = FRONT.get(data.front or "", 90.0)
    yaw = torch.deg2rad((front - data.azimuth + 180) % 360 - 180)
    return Renders(data.images, depths / extrinsics[:, 2, 3, None, None], normals, yaw)
