# SPDX-License-Identifier: MIT
"""Reductions that losses and metrics share: over the points of a cloud, then over the batch."""

from __future__ import annotations

import torch
from torch import Tensor

from pointloss._checks import Clouds


def safe_sqrt(values: Tensor) -> Tensor:
    """Square root whose derivative at 0 is 0 (the plain one gives inf * 0 = NaN there)."""
    positive = values > 0
    # The inner where keeps the infinite slope out of the graph; NaN and inf pass through.
    root = torch.where(positive, values, 1).sqrt()
    return torch.where(positive, root, values.detach())  # 0, inf or NaN: no slope either


def counts(cloud: Tensor, lengths: Tensor | None) -> Tensor:
    """Valid points per cloud, [B], in the cloud's dtype."""
    if lengths is None:
        return cloud.new_full((cloud.shape[0],), cloud.shape[1])
    return lengths.to(cloud.dtype)


def over_points(
    values: Tensor, count: Tensor, weights: Tensor | None, how: str, lengths: Tensor | None
) -> Tensor:
    """Reduce [B, N] (0 in padding) to [B]; an empty cloud contributes 0."""
    if how == "max":
        return values.amax(1) if values.shape[1] > 0 else values.sum(1)
    if weights is None:
        total = values.sum(1)
        return total if how == "sum" else total / count.clamp_min(1)
    if lengths is not None:
        inside = torch.arange(values.shape[1], device=values.device) < lengths.unsqueeze(1)
        weights = torch.where(inside, weights, 0)
    # An infinite distance is added as a constant: the slope of w * inf is infinite in w, and NaN
    # after the next product with 0.
    far = values == torch.inf
    beyond = torch.where(far & (weights != 0), values, 0).detach().sum(1)
    total = (weights * torch.where(far, 0, values)).sum(1)
    if how == "sum":
        return total + beyond
    norm = weights.sum(1)
    return total / torch.where(norm == 0, 1, norm) + beyond


def settle(values: Tensor, c: Clouds, alone: float | None = None) -> Tensor:
    """What a reduction over points cannot tell of values [B, ...], one row per pair of clouds.

    They become NaN where a length is out of range, and `alone`, unless that is None, where exactly
    one of the two clouds is empty: such clouds are as far apart as the measure allows. Their
    gradient is 0 there.
    """
    n, m = c.x.shape[1], c.y.shape[1]
    if c.x_lengths is None and c.y_lengths is None and (alone is None or (n == 0) == (m == 0)):
        return values
    shape = (values.shape[0],) + (1,) * (values.dim() - 1)
    x_size, y_size = (
        torch.full(shape, most, device=values.device) if lengths is None else lengths.view(shape)
        for most, lengths in ((n, c.x_lengths), (m, c.y_lengths))
    )
    if alone is not None:
        values = torch.where((x_size == 0) != (y_size == 0), alone, values)
    unknown = (x_size < 0) | (x_size > n) | (y_size < 0) | (y_size > m)
    return torch.where(unknown, torch.nan, values)


def over_batch(values: Tensor, how: str, weights: Tensor | None = None) -> Tensor:
    """Reduce [B] to a scalar; an empty batch gives 0, not NaN."""
    if how == "none":
        return values
    if weights is not None:
        rows = values.unsqueeze(0)
        return over_points(rows, rows.new_ones(1), weights.unsqueeze(0), how, None)[0]
    total = values.sum()
    return total / max(values.shape[0], 1) if how == "mean" else total
