# SPDX-License-Identifier: MIT
"""Voxel grids of the objects of a set, carved out of what its views see, and points of such grids.

A grid is bool [R, R, R], indexed by x, y, z, over the cube [-0.5, 0.5]^3 of the object frame, whose
longest side is 1. A voxel is occupied if the surface or the inside of the object touches it.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from models.data.dataset import ReconstructionDataset
from pointloss import voxelize

FINER = 2  # a voxel is carved as so many cells a side, and is occupied if one of them is left
AHEAD = 64  # objects whose views are kept in memory
BRIDGE = 7  # voxels: what is narrower in a sampled surface is a gap between samples, not a hole


class Views(NamedTuple):
    """What the V views of an object see."""

    depth: Tensor  # [V, H, W] along the optical axis; inf: past the object; 0: it stops there
    extrinsics: Tensor  # [V, 3, 4]
    intrinsics: Tensor  # [V, 3, 3] pixels of `depth`


def occupancies(data: ReconstructionDataset, source: str, resolution: int, device: str) -> Tensor:
    """The grids of all objects of a split, bool [O, R, R, R], on the CPU.

    Three things are put together.

    - The views: a cell that one of them sees past is empty. By "depth" a view sees up to the
      surface; by "silhouette" (a set without depth maps) it only sees past the object's outline.
    - The cloud, looked at along the six axes: what lies before its first point is empty. The views
      of a set look down from 25 to 30 degrees, so that nothing else shows the underside.
    - The cloud again: a voxel with a point in it is occupied, however thin the part.

    What no view and no axis can look into stays full, such as the inside of a closed cupboard, or a
    niche that opens to none of them.

    Args:
        data: opened at the images' own size.
        source: see above.
        resolution: R.
        device: where the work is done.

    Raises:
        ValueError: a camera of the set is not known.
        FileNotFoundError: "depth" of a set that has no depth maps.
    """
    if not data.objects:
        return torch.zeros(0, *3 * [resolution], dtype=torch.bool)
    touched = voxelize(data.points.to(device), resolution) > 0
    seen = seen_along_axes(touched)
    solid = [carve(views, resolution, device) for views in _views_of_all(data, source)]
    return ((torch.stack(solid) & ~seen) | touched).cpu()


def carve(views: Views, resolution: int, device: str) -> Tensor:
    """The voxels bool [R, R, R] that no view sees past."""
    fine = FINER * resolution
    centres = (torch.arange(fine, device=device) + 0.5) / fine - 0.5
    cells = torch.cartesian_prod(centres, centres, centres)  # [fine^3, 3]
    left = torch.arange(len(cells), device=device)  # those that no view has seen past yet
    margin = 0.5 / fine  # half a cell: what holds a bit of the surface stays
    for depth, extrinsics, intrinsics in zip(*(t.to(device) for t in views), strict=True):
        placed = cells[left] @ extrinsics[:, :3].T + extrinsics[:, 3]
        pixel = placed @ intrinsics.T
        along = pixel[:, 2]
        left = left[~_past(depth, pixel[:, 1] / along, pixel[:, 0] / along, along + margin)]
    grid = torch.zeros(len(cells), device=device)
    grid[left] = 1
    return F.max_pool3d(grid.view(1, fine, fine, fine), FINER)[0] > 0


def _past(depth: Tensor, row: Tensor, column: Tensor, along: Tensor) -> Tensor:
    """Whether a view's depth [H, W] goes past places [n] in it at the depth `along`.

    Past the object it does if the pixel says so; past its surface if all of the four pixels say so
    whose middles are around the place: between them a surface that is seen at a grazing angle rises
    by more than a voxel.
    """
    height, width = depth.shape

    def at(row: Tensor, column: Tensor) -> Tensor:
        return depth[row.long().clamp(0, height - 1), column.long().clamp(0, width - 1)]

    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    top, left = (row - 0.5).floor(), (column - 0.5).floor()
    reach = at(top, left)
    for down, right in ((0, 1), (1, 0), (1, 1)):
        reach = reach.minimum(at(top + down, left + right))
    return inside & (at(row, column).isinf() | (reach > along))


def seen_along_axes(touched: Tensor) -> Tensor:
    """The voxels before the first touched one of their row, from one of the six directions.

    touched: bool [O, R, R, R]. The surface is sampled, so a row may miss it between two samples:
    gaps of the first hits that are narrower than BRIDGE voxels are closed (a morphological opening
    of the depth), while what stands out, however thin, stays.
    """
    seen = torch.zeros_like(touched)
    resolution = touched.shape[1]
    place = torch.arange(resolution, device=touched.device)
    for axis in (1, 2, 3):
        for backwards in (False, True):
            rows = (touched.flip(axis) if backwards else touched).movedim(axis, 3)
            first = torch.where(rows, place, resolution).amin(3).float()
            nearest = -F.max_pool2d(-first, BRIDGE, 1, BRIDGE // 2)
            first = F.max_pool2d(nearest, BRIDGE, 1, BRIDGE // 2)
            before = (place < first[..., None]).movedim(3, axis)
            seen |= before.flip(axis) if backwards else before
    return seen


def _views_of_all(data: ReconstructionDataset, source: str) -> Iterator[Views]:
    """The views of each object, in their order; images are decoded by threads."""
    owners: list[list[int]] = [[] for _ in data.objects]
    for index, (owner, _) in enumerate(data.samples):
        owners[owner].append(index)

    def read(indices: list[int]) -> Views:
        depths, cameras = [], []
        for index in indices:
            camera = data.camera(index)
            if not camera.extrinsics.isfinite().all():
                raise ValueError(f"{data.name(index)}: nothing can be carved without its camera")
            if source == "depth":
                depth = data.depth(index)
                depths.append(torch.where(depth > 0, depth, torch.inf))
            else:
                depths.append(torch.where(data[index].alpha[0] > 0, 0.0, torch.inf))
            cameras.append((camera.extrinsics, camera.intrinsics))
        return Views(torch.stack(depths), *map(torch.stack, zip(*cameras, strict=True)))

    with ThreadPoolExecutor() as pool:
        for first in range(0, len(owners), AHEAD):  # the pool would read all of them at once
            yield from pool.map(read, owners[first : first + AHEAD])


def thin_parts(grids: Tensor) -> Tensor:
    """The occupied voxels that no full block of 3^3 voxels covers: legs, plates, rails.

    grids: bool [O, R, R, R]; the result is of that shape. (The grid minus its opening.)
    """
    padded = F.pad(grids[:, None].float(), 6 * [1])
    blocks = -F.max_pool3d(-padded, 3, 1)  # 1 in the middle of a full block
    return grids & (F.max_pool3d(blocks, 3, 1, 1)[:, 0] == 0)


def around(grids: Tensor) -> Tensor:
    """Each grid and the voxels that touch it, bool [O, R, R, R]."""
    return F.max_pool3d(grids[:, None].float(), 3, 1, 1)[:, 0] > 0


def surface_points(grid: Tensor, count: int, seed: int = 0) -> Tensor:
    """`count` points [count, 3] float32 on the surface of a grid, bool [R, R, R]; [0, 3] if empty.

    They are spread evenly over the faces between an occupied and an empty voxel, and lie half a
    voxel further in: a surface that crosses a voxel does so in its middle, on the average. The same
    grid and seed give the same points.
    """
    generator = torch.Generator().manual_seed(seed)
    resolution = len(grid)
    padded = F.pad(grid.cpu(), 6 * [1])  # False around
    faces = []
    for axis in range(3):
        for step in (-1, 1):
            beside = padded.roll(-step, axis)[1:-1, 1:-1, 1:-1]
            cell = (grid.cpu() & ~beside).nonzero()
            faces.append(torch.cat([cell, torch.full((len(cell), 1), axis)], dim=1))
    every = torch.cat(faces)
    if not len(every):
        return torch.empty(0, 3)
    chosen = every[torch.randint(len(every), (count,), generator=generator)]
    offset = torch.rand(count, 3, generator=generator)
    offset.scatter_(1, chosen[:, 3:], 0.5)
    return (chosen[:, :3] + offset) / resolution - 0.5
