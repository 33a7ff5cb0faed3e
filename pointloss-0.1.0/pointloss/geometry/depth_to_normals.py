# SPDX-License-Identifier: MIT
"""Surface normals of depth maps."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from pointloss import _checks, _masked
from pointloss.geometry.depth_to_points import lift


def depth_to_normals(depth: Tensor, intrinsics: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Unit normals of the surface that a depth map shows, towards the camera.

    The cross product of the differences between the points (`depth_to_points`) of a pixel's
    neighbours: below minus above, and right minus left (as in Wu, Rupprecht and Vedaldi 2020). At
    the border and beside pixels without depth the pixel itself stands in for the missing neighbour.

    Args:
        depth: [B, H, W] or [H, W] along the optical axis.
        intrinsics: [3, 3] or [B, 3, 3], in pixels, as for `depth_to_points`.
        mask: bool [B, H, W], the pixels that show a surface; those with a depth that is not above 0
            or not finite never do.

    Returns:
        [B, H, W, 3] or [H, W, 3] in the camera's frame (x right, y down, z forward), so that a
        surface that faces the camera has (0, 0, -1). It is 0 where the mask or all neighbours in a
        row or a column are missing. Differentiable in both arguments. Across an edge of the depth
        the surface is taken as closed: mask such pixels if they matter.

    Raises:
        ValueError: shapes or devices do not fit.
        TypeError: dtypes do not fit.

    Determinism: deterministic, values and gradients.

    Example:
        >>> k = torch.tensor([[8.0, 0, 2], [0, 8, 2], [0, 0, 1]])
        >>> depth_to_normals(torch.full((4, 4), 2.0), k)[0, 3].abs().tolist()
        [0.0, 0.0, 1.0]
    """
    arrays = _checks.Arrays("depth_to_normals", depth=depth, intrinsics=intrinsics)
    depth = arrays.take("depth", depth, "B H W")
    k = arrays.take("intrinsics", intrinsics, "B 3 3", shared=True)
    normals = normals_of(depth, k, arrays.mask("mask", mask, "B H W"))
    return normals[0] if arrays.single else normals


def normals_of(depth: Tensor, intrinsics: Tensor, mask: Tensor) -> Tensor:
    """`depth_to_normals` of [B, H, W], [B, 3, 3] and [B, H, W] that were checked."""
    seen = mask & (depth > 0) & depth.isfinite()
    points = lift(torch.where(seen, depth, 0), intrinsics)
    there = seen.unsqueeze(-1)
    # One row and column of nothing around, so that every pixel has four neighbours.
    wide, held = pad(points, (0, 0, 1, 1, 1, 1)), pad(there, (0, 0, 1, 1, 1, 1))

    def neighbour(down: int, right: int) -> Tensor:
        rows = slice(1 + down, 1 + down + depth.shape[1])
        columns = slice(1 + right, 1 + right + depth.shape[2])
        return torch.where(held[:, rows, columns], wide[:, rows, columns], points)

    across = _masked.unit(neighbour(0, 1) - neighbour(0, -1))
    along = _masked.unit(neighbour(1, 0) - neighbour(-1, 0))
    return torch.where(there, _masked.unit(torch.linalg.cross(along, across)), 0)
