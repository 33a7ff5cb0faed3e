# SPDX-License-Identifier: MIT
"""Reductions that the losses share: over the points of a cloud, then over the batch."""

from __future__ import annotations

import torch
from torch import Tensor


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
    if lengths is not None and values.shape[1] == 0:
        # No row is there to carry the NaN of a length out of range.
        return torch.where(lengths == 0, values.sum(1), torch.nan)
    if how == "max":
        return values.amax(1) if values.shape[1] > 0 else values.sum(1)
    if weights is None:
        total = values.sum(1)
        return total if how == "sum" else total / count.clamp_min(1)
    if lengths is not None:
        inside = torch.arange(values.shape[1], device=values.device) < lengths.unsqueeze(1)
        weights = torch.where(inside, weights, 0)
    total = (weights * values).sum(1)
    if how == "sum":
        return total
    norm = weights.sum(1)
    return total / torch.where(norm == 0, 1, norm)


def over_batch(values: Tensor, how: str) -> Tensor:
    """Reduce [B] to a scalar; an empty batch gives 0, not NaN."""
    if how == "none":
        return values
    total = values.sum()
    return total / max(values.shape[0], 1) if how == "mean" else total
