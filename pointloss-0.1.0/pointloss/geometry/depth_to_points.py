# SPDX-License-Identifier: MIT
"""Depth maps lifted to points in the camera's frame."""

from __future__ import annotations

import torch
from torch import Tensor

from pointloss import _checks


def depth_to_points(depth: Tensor, intrinsics: Tensor) -> Tensor:
    """The point that each pixel sees, in the camera's frame: depth * K^-1 (u, v, 1).

    Camera frame: x right, y down, z forward (OpenCV's). The pixel in row r and column c has its
    centre at u = c + 0.5, v = r + 0.5; for intrinsics that count pixel centres in whole numbers,
    add 0.5 to both coordinates of the principal point.

    Args:
        depth: [B, H, W] or [H, W] along the optical axis (not along the ray), in any unit.
        intrinsics: K, [3, 3] for all or [B, 3, 3], in pixels: rows (fx, skew, cx), (0, fy, cy),
            (0, 0, 1).

    Returns:
        Points [B, H, W, 3] or [H, W, 3] in the unit of the depth, differentiable in both arguments.
        Where the depth is 0 (nothing seen) so is the point: mask with depth > 0.

    Raises:
        ValueError: shapes or devices do not fit.
        TypeError: dtypes do not fit.

    Determinism: deterministic, values and gradients.

    Example:
        >>> k = torch.tensor([[2.0, 0, 1], [0, 2, 1], [0, 0, 1]])
        >>> depth_to_points(torch.full((2, 2), 4.0), k)[0, 1].tolist()
        [1.0, -1.0, 4.0]
    """
    arrays = _checks.Arrays("depth_to_points", depth=depth, intrinsics=intrinsics)
    depth = arrays.take("depth", depth, "B H W")
    points = lift(depth, arrays.take("intrinsics", intrinsics, "B 3 3", shared=True))
    return points[0] if arrays.single else points


def lift(depth: Tensor, intrinsics: Tensor) -> Tensor:
    """`depth_to_points` of [B, H, W] and [B, 3, 3] that were checked."""
    height, width = depth.shape[1:]
    u = torch.arange(width, device=depth.device, dtype=depth.dtype) + 0.5
    v = torch.arange(height, device=depth.device, dtype=depth.dtype)[:, None] + 0.5
    k = intrinsics[:, :2, :, None, None]
    y = (v - k[:, 1, 2]) / k[:, 1, 1]  # [B, H, 1]
    x = (u - k[:, 0, 2] - k[:, 0, 1] * y) / k[:, 0, 0]  # [B, H or 1, W]
    return torch.stack([x * depth, y * depth, depth], -1)
