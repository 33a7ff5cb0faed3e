# SPDX-License-Identifier: MIT
"""Pairs of views of one object, with the point that each of their pixels sees."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from models.data.dataset import ReconstructionDataset
from pointloss import depth_to_points, transform_points


class Pair(NamedTuple):
    """A batch of pairs. Frames are those of cameras: x right, y down, z forward."""

    image: Tensor  # [B, 2, 4, H, W] float32 in 0..1: colours on white, and alpha
    points: Tensor  # [B, 2, H, W, 3] float32, first camera's frame, object units; 0: nothing seen
    mask: Tensor  # [B, 2, H, W] bool, pixels that see a point
    motion: Tensor  # [B, 3, 4] float32, second camera's frame -> first camera's


class Views(NamedTuple):
    """Every view of a split, on one device."""

    image: Tensor  # [S, 4, H, W] uint8
    depth: Tensor  # [S, H, W] float32, object units, 0: nothing seen
    intrinsics: Tensor  # [S, 3, 3] float32, pixels
    extrinsics: Tensor  # [S, 3, 4] float32, object -> camera frame

    def points(self, samples: Tensor) -> Tensor:
        """What the pixels of `samples` [B] see, in their own camera's frame: [B, H, W, 3]."""
        return depth_to_points(self.depth[samples], self.intrinsics[samples])

    def to(self, device: str | torch.device) -> "Views":
        """The same views there."""
        return Views(*(part.to(device) for part in self))


def read_views(data: ReconstructionDataset) -> Views:
    """Images, depth maps and cameras of a split.

    Raises:
        FileNotFoundError: the set has no depth maps; models.data.prepare makes them unless it is
            told --no-geometry.
        ValueError: the split is too large to be kept in memory, or a camera is not told.
    """
    if data.images is None:
        raise ValueError(f"{data.root}: {data.split!r} is too large to be kept in memory")
    samples = range(len(data.samples))
    cameras = [data.camera(index) for index in samples]
    if not cameras:
        nothing = torch.empty(0, 0, 0)
        return Views(data.images, nothing, torch.empty(0, 3, 3), torch.empty(0, 3, 4))
    extrinsics = torch.stack([camera.extrinsics for camera in cameras])
    if not extrinsics.isfinite().all():
        raise ValueError(f"{data.root}: the set does not tell the cameras of its images")
    with ThreadPoolExecutor() as pool:  # decoding leaves the interpreter's lock alone
        depth = torch.stack(list(pool.map(data.depth, samples)))
    return Views(data.images, depth, torch.stack([c.intrinsics for c in cameras]), extrinsics)


def relative_motion(extrinsics: Tensor, one: Tensor, two: Tensor) -> Tensor:
    """The second camera's frame -> the first's, [B, 3, 4]; `one` and `two` [B] are samples."""
    first, second = extrinsics[one], extrinsics[two]
    rotation = first[:, :, :3] @ second[:, :, :3].mT
    moved = first[:, :, 3:] - rotation @ second[:, :, 3:]
    return torch.cat([rotation, moved], dim=2)


def turn(rotation: Tensor) -> Tensor:
    """Degrees by which rotations [..., 3, 3] turn, [...]; exact also for small angles."""
    sides = rotation - rotation.mT
    axis = torch.stack([sides[..., 2, 1], sides[..., 0, 2], sides[..., 1, 0]], dim=-1)
    sine = torch.linalg.vector_norm(axis, dim=-1)  # twice
    cosine = rotation.diagonal(dim1=-2, dim2=-1).sum(-1) - 1  # twice
    return torch.rad2deg(torch.atan2(sine, cosine))


class Pairs:
    """The ordered pairs of views of one object whose cameras are turned by some angle.

    Args:
        data: the split.
        least, most: degrees between the two cameras, inclusive.

    `index` [P, 2] int64 holds the samples of each pair, by object; `angle` [P] its degrees;
    `owners` its object.
    """

    def __init__(self, data: ReconstructionDataset, least: float, most: float):
        self.data = data
        self.views = read_views(data)
        owners = torch.tensor([owner for owner, _ in data.samples], dtype=torch.int64)
        index, angles = [torch.empty(0, 2, dtype=torch.int64)], [torch.empty(0)]
        for owner in range(len(data.objects)):
            own = (owners == owner).nonzero()[:, 0]
            pairs = torch.cartesian_prod(own, own)
            motion = relative_motion(self.views.extrinsics, *pairs.unbind(1))
            angle = turn(motion[:, :, :3])
            taken = (least <= angle) & (angle <= most)
            index.append(pairs[taken])
            angles.append(angle[taken])
        self.index, self.angle = torch.cat(index), torch.cat(angles)
        self.owners: list[int] = owners[self.index[:, 0]].tolist()

    def __len__(self) -> int:
        return len(self.index)

    def to(self, device: str | torch.device) -> "Pairs":
        """Move the views there, and the table of the pairs; returns itself."""
        self.views = self.views.to(device)
        self.index, self.angle = self.index.to(device), self.angle.to(device)
        return self

    def __call__(self, numbers: Tensor) -> Pair:
        """The pairs of these numbers [B], on the device; nothing waits for a GPU."""
        samples = self.index.index_select(0, numbers)  # [B, 2]
        one, two = samples.unbind(1)
        motion = relative_motion(self.views.extrinsics, one, two)
        second = transform_points(self.views.points(two), motion)
        mask = self.views.depth[samples] > 0
        points = torch.stack([self.views.points(one), second], dim=1)
        image = self.views.image[samples].float() / 255
        return Pair(image, points * mask.unsqueeze(-1), mask, motion)

    def name(self, number: int) -> str:
        """A pair as people find it: synset/model/view-view."""
        one, two = self.index[number].tolist()
        return f"{self.data.name(one)}-{self.data.samples[two][1]:02d}"

    def category(self, number: int) -> int:
        """The category of a pair's object, an index into the split's categories."""
        return self.data.object_categories[self.owners[number]]

    def spread(self, wanted: int) -> list[int]:
        """`wanted` pairs of each object, spread evenly over its own; 0: all."""
        groups: dict[int, list[int]] = {}
        for number, owner in enumerate(self.owners):
            groups.setdefault(owner, []).append(number)
        return [number for group in groups.values() for number in _evenly(group, wanted)]


def _evenly(group: list[int], wanted: int) -> Iterable[int]:
    if not wanted or wanted >= len(group):
        return group
    return [group[(2 * n + 1) * len(group) // (2 * wanted)] for n in range(wanted)]
