# SPDX-License-Identifier: MIT
"""Points counted in the cells of a grid."""

from __future__ import annotations

import torch
from torch import Tensor

from pointloss import _checks


def voxelize(
    points: Tensor,
    resolution: int,
    *,
    low: float = -0.5,
    high: float = 0.5,
    mask: Tensor | None = None,
) -> Tensor:
    """How many points lie in each voxel of the cube [low, high]^3; `> 0` gives the occupancy.

    A voxel holds its lower faces; the cube's upper faces belong to its last voxels, so that a cloud
    in its own bounding box loses no point.

    Args:
        points: [B, N, 3] or [N, 3], float.
        resolution: R, voxels along each axis.
        low: the cube's lower end on each axis; the default cube is that of a unit box at 0.
        high: its upper end.
        mask: bool [B, N], the points that count.

    Returns:
        int64 [B, R, R, R] or [R, R, R], indexed by x, y, z. Points outside of the cube, also those
        with NaN, count nowhere. Not differentiable.

    Raises:
        ValueError: shapes, devices or options do not fit.
        TypeError: dtypes do not fit.

    Determinism: deterministic.

    Example:
        >>> grid = voxelize(torch.tensor([[-0.4, -0.4, 0.4], [0.1, 0.5, 0], [7, 0, 0]]), 2)
        >>> grid.nonzero().tolist()
        [[0, 0, 1], [1, 1, 1]]
    """
    op = "voxelize"
    arrays = _checks.Arrays(op, points=points)
    points = arrays.take("points", points, "B N 3").detach()
    valid = arrays.mask("mask", mask, "B N")
    if resolution < 1:
        raise ValueError(f"{op}: resolution must be at least 1, got {resolution}")
    if not low < high:
        raise ValueError(f"{op}: low must be less than high, got {low} and {high}")
    batch = points.shape[0]
    valid = valid & ((points >= low) & (points <= high)).all(-1)
    cell = torch.where(valid.unsqueeze(-1), (points - low) * (resolution / (high - low)), 0)
    x, y, z = cell.long().clamp_max(resolution - 1).unbind(-1)
    first = torch.arange(batch, device=points.device).unsqueeze(1) * resolution
    flat = ((first + x) * resolution + y) * resolution + z
    counts = torch.zeros(batch * resolution**3, dtype=torch.int64, device=points.device)
    counts = counts.index_add(0, flat.flatten(), valid.long().flatten())
    counts = counts.view(batch, resolution, resolution, resolution)
    return counts[0] if arrays.single else counts
