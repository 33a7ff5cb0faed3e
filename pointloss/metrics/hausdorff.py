# SPDX-License-Identifier: MIT
"""Hausdorff distance, and its percentiles."""

from __future__ import annotations

import torch
from torch import Tensor

from pointloss import _checks, _reduce
from pointloss.ops.chamfer import chamfer, neighbours


def hausdorff(
    x: Tensor,
    y: Tensor,
    *,
    x_lengths: Tensor | None = None,
    y_lengths: Tensor | None = None,
    x_mask: Tensor | None = None,
    y_mask: Tensor | None = None,
    direction: str = "both",
    percentile: float = 100.0,
) -> Tensor:
    """Hausdorff distance: the largest distance of any point to the other cloud.

    max(max_i min_j |x_i - y_j|, max_j min_i |x_i - y_j|), plain distances, not squared. With a
    percentile below 100 it takes the place of the inner maxima, so that a few stray points do not
    decide: percentile=95 is the HD95 of medical imaging.

    Args:
        x: points [B, N, D] or [N, D].
        y: points [B, M, D] or [M, D], on x's device; dtypes as for `nearest`.
        x_lengths: int [B], the valid points of each x.
        y_lengths: int [B], likewise for y.
        x_mask: bool [B, N], the points of x that count, in place of x_lengths; the others may hold
            anything, NaN too.
        y_mask: bool [B, M], likewise for y.
        direction: "both" (the larger of the two), "x_to_y" or "y_to_x".
        percentile: 0 to 100, of each direction's distances; between two of them it interpolates, as
            numpy.percentile does.

    Returns:
        [B], a scalar for single clouds; differentiable, with equal shares where points tie for the
        maximum (below percentile 100 one of the tied points takes it all). Exactly one empty cloud
        gives inf, two give 0; one direction alone, NaN and lengths out of range as in `chamfer`.

    Raises:
        ValueError: shapes, devices, direction or percentile do not fit.
        TypeError: dtypes do not fit.
        RuntimeError: CUDA tensors in a build without CUDA.

    Determinism: as `nearest`.

    Example:
        >>> hausdorff(torch.tensor([[0.0, 0], [3, 4]]), torch.tensor([[0.0, 0]])).item()
        5.0
    """
    if not 0 <= percentile <= 100:
        raise ValueError(f"hausdorff: percentile must be from 0 to 100, got {percentile}")
    _checks.choice("hausdorff", "direction", direction, ("both", "x_to_y", "y_to_x"))
    if percentile == 100:
        return chamfer(
            x,
            y,
            x_lengths=x_lengths,
            y_lengths=y_lengths,
            x_mask=x_mask,
            y_mask=y_mask,
            squared=False,
            direction=direction,
            point_reduction="max",
            batch_reduction="none",
        )
    c = _checks.clouds("hausdorff", x, y, x_lengths, y_lengths, x_mask, y_mask)
    found, _ = neighbours(c, 2, False, direction)
    parts = [
        percentile_of(dist, percentile, lengths)
        for dist, lengths in zip(found, (c.x_lengths, c.y_lengths), strict=True)
        if dist is not None
    ]
    value = parts[0] if len(parts) == 1 else parts[0].maximum(parts[1])
    value = _reduce.settle(value, c, torch.inf if direction == "both" else None)
    return value[0] if c.single else value


def percentile_of(values: Tensor, percentile: float, lengths: Tensor | None = None) -> Tensor:
    """The percentile of each row of values [B, N], its first `lengths` [B]; 0 of an empty row.

    torch.quantile takes no lengths and at most 2^24 values.
    """
    most = values.shape[1]
    if most == 0:
        return values.sum(1)
    unknown = values.isnan().any(1)
    if lengths is None:
        ordered, count = values.sort(1).values, torch.full_like(unknown, most, dtype=torch.int64)
    else:
        count = lengths.clamp(0, most)
        inside = torch.arange(most, device=values.device) < count.unsqueeze(1)
        ordered = torch.where(inside, values, torch.inf).sort(1).values
    place = (percentile / 100) * (count - 1).clamp_min(0).double()
    low = ordered.gather(1, place.floor().long().unsqueeze(1)).squeeze(1)
    high = ordered.gather(1, place.ceil().long().unsqueeze(1)).squeeze(1)
    step = torch.where(high > low, high - low, 0)  # inf less inf is no step
    value = low + (place - place.floor()).to(values.dtype) * step
    return torch.where(unknown, torch.nan, torch.where(count > 0, value, 0))
