# SPDX-License-Identifier: MIT
"""Hausdorff distance."""

from __future__ import annotations

from torch import Tensor

from pointloss.losses.chamfer import chamfer


def hausdorff(
    x: Tensor,
    y: Tensor,
    *,
    x_lengths: Tensor | None = None,
    y_lengths: Tensor | None = None,
    direction: str = "both",
) -> Tensor:
    """Hausdorff distance: the largest distance of any point to the other cloud.

    max(max_i min_j |x_i - y_j|, max_j min_i |x_i - y_j|), plain distances, not squared.

    Args:
        x: points [B, N, D] or [N, D].
        y: points [B, M, D] or [M, D], on x's device; dtypes as for `nearest`.
        x_lengths: int [B], the valid points of each x.
        y_lengths: int [B], likewise for y.
        direction: "both" (the larger of the two), "x_to_y" or "y_to_x".

    Returns:
        [B], a scalar for single clouds; differentiable, with equal shares where points tie for the
        maximum. Exactly one empty cloud gives inf, two give 0; one direction alone, NaN and
        lengths out of range as in `chamfer`.

    Raises:
        ValueError: shapes, devices or direction do not fit.
        TypeError: dtypes do not fit.
        RuntimeError: CUDA tensors in a build without CUDA.

    Determinism: as `nearest`.

    Example:
        >>> hausdorff(torch.tensor([[0.0, 0], [3, 4]]), torch.tensor([[0.0, 0]])).item()
        5.0
    """
    return chamfer(
        x,
        y,
        x_lengths=x_lengths,
        y_lengths=y_lengths,
        squared=False,
        direction=direction,
        point_reduction="max",
        batch_reduction="none",
    )
