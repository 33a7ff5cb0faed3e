# SPDX-License-Identifier: MIT
"""Pairs of points that are each other's nearest."""

from __future__ import annotations

import torch
from torch import Tensor

from pointloss import _checks
from pointloss.ops.nearest import Nearest, nearest_batched


def mutual_nearest(
    x: Tensor,
    y: Tensor,
    *,
    x_lengths: Tensor | None = None,
    y_lengths: Tensor | None = None,
    x_mask: Tensor | None = None,
    y_mask: Tensor | None = None,
    norm: int = 2,
) -> Nearest:
    """Reciprocal matches: pairs (i, j) with y_j nearest to x_i and x_i nearest to y_j.

    DUSt3R (Wang, Leroy, Cabon, Chidlovskii and Revaud 2024, section 3.3) matches the pixels of two
    views so, by their points in one frame; descriptors of up to 64 numbers work as well.

    Args:
        x: points [B, N, D] or [N, D], as for `nearest`.
        y: points [B, M, D] or [M, D], on x's device; dtypes as for `nearest`.
        x_lengths: int [B], the valid points of each x; the rest is padding.
        y_lengths: int [B], likewise for y.
        x_mask: bool [B, N], the points of x that count, in place of x_lengths; the others may hold
            anything, NaN too.
        y_mask: bool [B, M], likewise for y.
        norm: 2 (dist is squared) or 1.

    Returns:
        Nearest(dist, idx), both [B, N]: for each point of x its partner in y, or idx -1 and dist
        inf if there is none. No point of y is in two pairs. dist is differentiable in both clouds;
        NaN points, padding and lengths out of range have the dist that `nearest` gives them.

    Raises:
        ValueError: shapes, devices or norm do not fit.
        TypeError: dtypes do not fit.
        RuntimeError: CUDA tensors in a build without CUDA.

    Determinism: as `nearest`; of points in one place the first takes part.

    Example:
        >>> x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.1], [7.0]])
        >>> mutual_nearest(x, y).idx.tolist()
        [-1, 0]
    """
    _checks.choice("mutual_nearest", "norm", norm, (1, 2))
    c = _checks.clouds("mutual_nearest", x, y, x_lengths, y_lengths, x_mask, y_mask)
    dist, idx, _, back = nearest_batched(c, norm, both=True)
    if c.y.shape[1] > 0:
        rows = torch.arange(c.x.shape[1], device=idx.device)
        alone = (idx >= 0) & (back.gather(1, idx.clamp_min(0)) != rows)
        dist, idx = torch.where(alone, torch.inf, dist), torch.where(alone, -1, idx)
    dist, idx = c.at_x(dist), c.at_x(c.into_y(idx))
    return Nearest(dist[0], idx[0]) if c.single else Nearest(dist, idx)
