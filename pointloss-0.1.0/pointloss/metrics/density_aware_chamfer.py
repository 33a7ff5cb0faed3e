# SPDX-License-Identifier: MIT
"""Density-aware Chamfer distance."""

from __future__ import annotations

import torch
from torch import Tensor

from pointloss import _checks, _reduce
from pointloss.ops.nearest import nearest_batched


def density_aware_chamfer(
    x: Tensor,
    y: Tensor,
    *,
    x_lengths: Tensor | None = None,
    y_lengths: Tensor | None = None,
    x_mask: Tensor | None = None,
    y_mask: Tensor | None = None,
    alpha: float = 1000.0,
    n_lambda: float = 1.0,
    size_factor: str = "none",
    squared: bool = True,
    batch_reduction: str = "mean",
) -> Tensor:
    """Density-aware Chamfer distance (Wu, Pan, Zhang, Wang, Liu and Lin 2021, eq. 5).

    Half the sum of both directions of

        1/N sum_i (1 - f exp(-alpha |x_i - y_j|^2) / n_j^n_lambda),   y_j the nearest point to x_i,

    where n_j counts the points of x whose nearest point is y_j: a target that many points crowd
    around is worth less to each of them. f is 1 by default; then the value lies in 0..1, and 0
    means equal clouds.

    The distance is squared by default, as in the published code, whose `calc_dcd` this equals with
    size_factor "ratio" (but for the 1e-6 that it adds to each n_j). The published configurations
    train with n_lambda 0.5.

    Args:
        x: points [B, N, D] or [N, D].
        y: points [B, M, D] or [M, D], on x's device; dtypes as for `nearest`.
        x_lengths: int [B], the valid points of each x.
        y_lengths: int [B], likewise for y.
        x_mask: bool [B, N], the points of x that count, in place of x_lengths; the others may hold
            anything, NaN too.
        y_mask: bool [B, M], likewise for y.
        alpha: steepness >= 0, in the inverse unit of the (squared) distance. The paper's 1000 is
            for clouds of about unit size; with plain distances it is far too steep.
        n_lambda: exponent >= 0 of the counts n_j; 0 leaves them out.
        size_factor: f, for clouds of unequal size, by the valid points n of a direction's source
            and m of its target: "none" 1; "ratio" n / m, with which the smaller n_j of a direction
            from few points to many do not count as better; "ratio_at_least_1" max(1, n / m), the
            published `non_reg`. With the latter two a value can lie below 0 or above 1.
        squared: put the squared distance into the exponent, or the plain one.
        batch_reduction: "mean", "sum" or "none" ([B]).

    Returns:
        A scalar, or [B]; differentiable in the distances, the counts are constants. A point without
        a neighbour contributes 1. Exactly one empty cloud gives 1, two give 0. NaN points and
        lengths out of range give NaN.

    Raises:
        ValueError: shapes, devices or options do not fit.
        TypeError: dtypes do not fit.
        RuntimeError: CUDA tensors in a build without CUDA.

    Determinism: as `nearest`.

    Example:
        >>> x = torch.tensor([[0.0, 0], [1, 0]])
        >>> density_aware_chamfer(x, x).item(), density_aware_chamfer(x[[0, 0]], x).item()
        (0.0, 0.625)
    """
    name = "density_aware_chamfer"
    _checks.not_negative(name, "alpha", alpha)
    _checks.not_negative(name, "n_lambda", n_lambda)
    _checks.choice(name, "size_factor", size_factor, ("none", "ratio", "ratio_at_least_1"))
    _checks.choice(name, "batch_reduction", batch_reduction, ("mean", "sum", "none"))
    c = _checks.clouds(name, x, y, x_lengths, y_lengths, x_mask, y_mask)
    dist_x, idx_x, dist_y, idx_y = nearest_batched(c, 2, both=True)
    x_count, y_count = _reduce.counts(c.x, c.x_lengths), _reduce.counts(c.y, c.y_lengths)

    def one_way(
        dist: Tensor, idx: Tensor, columns: int, count: Tensor, other_count: Tensor
    ) -> Tensor:
        found = idx >= 0
        near = torch.where(found, dist if squared else _reduce.safe_sqrt(dist), 0)
        # One spare column takes the points without a neighbour. index_add on flat rows, because
        # torch has a deterministic variant of it, where it refuses scatter_add.
        column = torch.where(found, idx, columns)
        crowd = dist.new_zeros(dist.shape[0], columns + 1)
        first = torch.arange(dist.shape[0], device=dist.device).unsqueeze(1) * crowd.shape[1]
        ones = torch.ones_like(dist).flatten()
        crowd = crowd.flatten().index_add(0, (column + first).flatten(), ones).view_as(crowd)
        factor = crowd.gather(1, column) ** -n_lambda
        if size_factor != "none":
            ratio = count / other_count.clamp_min(1)
            ratio = ratio if size_factor == "ratio" else ratio.clamp_min(1)
            factor = factor * ratio.unsqueeze(1)
        term = 1 - torch.where(found, factor * (-alpha * near).exp(), 0)
        # NaN distances stay visible; padding contributes nothing.
        inside = torch.arange(dist.shape[1], device=dist.device) < count.unsqueeze(1)
        term = torch.where(dist.isnan(), dist, torch.where(inside, term, 0))
        return _reduce.over_points(term, count, None, "mean", None)

    total = 0.5 * (
        one_way(dist_x, idx_x, c.y.shape[1], x_count, y_count)
        + one_way(dist_y, idx_y, c.x.shape[1], y_count, x_count)
    )
    total = _reduce.settle(total, c, 1.0)
    return total[0] if c.single else _reduce.over_batch(total, batch_reduction)
