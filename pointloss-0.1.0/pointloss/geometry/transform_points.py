# SPDX-License-Identifier: MIT
"""Points moved from one frame to another."""

from __future__ import annotations

from torch import Tensor

from pointloss import _checks
from pointloss.geometry._rotation import rotate


def transform_points(points: Tensor, extrinsics: Tensor, *, inverse: bool = False) -> Tensor:
    """R p + t for each point p, with extrinsics [R | t], such as object frame -> camera frame.

    Args:
        points: [..., 3], float; with batched extrinsics the first axis is the batch.
        extrinsics: [3, 4], or [4, 4] with last row (0, 0, 0, 1), which is not looked at; or one for
            each sample, [B, 3, 4] or [B, 4, 4].
        inverse: map back, R^T (p - t), such as camera frame -> object frame; R must be a rotation.

    Returns:
        Points in their shape, differentiable in both arguments.

    Raises:
        ValueError: shapes or devices do not fit.
        TypeError: dtypes do not fit.

    Determinism: deterministic, values and gradients.

    Example:
        >>> motion = torch.tensor([[0.0, -1, 0, 5], [1, 0, 0, 0], [0, 0, 1, 0]])
        >>> transform_points(torch.tensor([[1.0, 2, 3]]), motion).tolist()
        [[3.0, 1.0, 3.0]]
    """
    op = "transform_points"
    dtype = _checks.Arrays(op, points=points, extrinsics=extrinsics).dtype
    if points.dim() == 0 or points.shape[-1] != 3:
        raise ValueError(f"{op}: points must have shape [..., 3], got {list(points.shape)}")
    given = tuple(extrinsics.shape)
    if given[-2:] not in ((3, 4), (4, 4)) or len(given) > 3:
        raise ValueError(
            f"{op}: extrinsics must have shape [3, 4], [4, 4], [B, 3, 4] or [B, 4, 4], "
            f"got {list(given)}"
        )
    if len(given) == 3 and (points.dim() == 1 or points.shape[0] != given[0]):
        raise ValueError(
            f"{op}: points must have shape [{given[0]}, ..., 3] as the extrinsics are batched, "
            f"got {list(points.shape)}"
        )
    return move(points.to(dtype), extrinsics.to(dtype), inverse)


def move(points: Tensor, extrinsics: Tensor, inverse: bool = False) -> Tensor:
    """`transform_points` of what was checked."""
    rows = points.flatten(1, -2) if extrinsics.dim() == 3 and points.dim() > 2 else points
    rotation, translation = extrinsics[..., :3, :3], extrinsics[..., :3, 3]
    if extrinsics.dim() == 3:
        rows = rows if points.dim() > 2 else rows.unsqueeze(1)
        translation = translation.unsqueeze(1)
    moved = (
        rotate(rows - translation, rotation.mT) if inverse else rotate(rows, rotation) + translation
    )
    return moved.reshape(points.shape)
