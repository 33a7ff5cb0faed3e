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
    alpha: float = 1000.0,
    squared: bool = False,
    batch_reduction: str = "mean",
) -> Tensor:
    """Density-aware Chamfer distance (Wu, Pan, Zhang, Wang, Liu and Lin 2021, eq. 5).

    Half the sum of both directions of

        1/N sum_i (1 - exp(-alpha |x_i - y_j|) / n_j),   y_j the nearest point to x_i,

    where n_j counts the points of x whose nearest point is y_j: a target that many points crowd
    around is worth less to each of them. The value lies in 0..1, and 0 means equal clouds.

    Args:
        x: points [B, N, D] or [N, D].
        y: points [B, M, D] or [M, D], of x's dtype and device.
        x_lengths: int [B], the valid points of each x.
        y_lengths: int [B], likewise for y.
        alpha: steepness, in the inverse unit of the distance. The paper's 1000 is for clouds of
            about unit size with squared distances in its published code; say which you use.
        squared: put the squared distance into the exponent instead of the plain one.
        batch_reduction: "mean", "sum" or "none" ([B]).

    Returns:
        A scalar, or [B]; differentiable in the distances, the counts are constants. For N != M the
        formula is applied as it stands: the counts are of points, without a factor for the sizes.
        A point without a neighbour contributes 1, an empty cloud 0 in its own direction.

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
    _checks.choice(name, "batch_reduction", batch_reduction, ("mean", "sum", "none"))
    c = _checks.clouds(name, x, y, x_lengths, y_lengths)
    dist_x, idx_x, dist_y, idx_y = nearest_batched(c, 2, both=True)

    def one_way(
        dist: Tensor, idx: Tensor, source: Tensor, target: Tensor, lengths: Tensor | None
    ) -> Tensor:
        dist = dist if squared else _reduce.safe_sqrt(dist)
        found = idx >= 0
        # One spare column takes the points without a neighbour. index_add on flat rows, because
        # torch has a deterministic variant of it, where it refuses scatter_add.
        column = torch.where(found, idx, target.shape[1])
        counts = dist.new_zeros(dist.shape[0], target.shape[1] + 1)
        first = torch.arange(dist.shape[0], device=dist.device).unsqueeze(1) * counts.shape[1]
        ones = torch.ones_like(dist).flatten()
        counts = counts.flatten().index_add(0, (column + first).flatten(), ones).view_as(counts)
        share = torch.where(found, (-alpha * dist).exp() / counts.gather(1, column), 0)
        # NaN distances stay visible; padding contributes nothing.
        term = torch.where(dist.isnan(), dist, 1 - share)
        count = _reduce.counts(source, lengths)
        inside = torch.arange(source.shape[1], device=source.device) < count.unsqueeze(1)
        term = torch.where(inside | dist.isnan(), term, 0)
        return _reduce.over_points(term, count, None, "mean", None)

    total = 0.5 * (
        one_way(dist_x, idx_x, c.x, c.y, c.x_lengths)
        + one_way(dist_y, idx_y, c.y, c.x, c.y_lengths)
    )
    return total[0] if c.single else _reduce.over_batch(total, batch_reduction)
