# SPDX-License-Identifier: MIT
"""Reductions that losses and metrics share: over the points of a cloud, then over the batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pointloss import _checks
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


class PointDistances(NamedTuple):
    """Unreduced distances of each direction; None for a direction that was not asked for."""

    x_to_y: Tensor | None
    y_to_x: Tensor | None


PointDistances.x_to_y.__doc__ = "[B, N], of each point of x to its nearest of y; or None."
PointDistances.y_to_x.__doc__ = "[B, M], of each point of y to its nearest of x; or None."


class Reduction(NamedTuple):
    """What becomes of a number for each point of two clouds, for losses of both directions."""

    points: str  # "mean", "sum", "max" or "none"
    batch: str  # "mean", "sum" or "none"
    x_weights: Tensor | None  # [B, N]
    y_weights: Tensor | None  # [B, M]
    cloud_weights: Tensor | None  # [B]

    @staticmethod
    def of(
        op: str,
        c: Clouds,
        points: str,
        batch: str,
        weights: tuple[Tensor | None, Tensor | None],
        cloud_weights: Tensor | None,
        most: bool = True,
    ) -> Reduction:
        """Check the options and weights of a call; "max" exists if `most`."""
        check_reductions(op, points, batch, most)
        if points in ("max", "none") and weights != (None, None):
            raise ValueError(f"{op}: weights do not apply to point_reduction={points!r}")
        if cloud_weights is not None and "none" in (points, batch):
            which = "point_reduction" if points == "none" else "batch_reduction"
            raise ValueError(f"{op}: cloud_weights do not apply to {which}='none'")
        return Reduction(
            points,
            batch,
            _checks.per_point(op, "x_weights", weights[0], c.x, c.x_order),
            _checks.per_point(op, "y_weights", weights[1], c.y, c.y_order),
            _checks.per_cloud(op, "cloud_weights", cloud_weights, c.x),
        )

    def apply(
        self, c: Clouds, to_y: Tensor | None, to_x: Tensor | None, alone: float | None
    ) -> Tensor | PointDistances:
        """Reduce values [B, N] and [B, M], 0 in padding; `alone` as in settle."""
        if self.points == "none":
            return PointDistances(given(c.at_x, to_y, c), given(c.at_y, to_x, c))
        parts = [
            over_points(values, counts(cloud, lengths), weight, self.points, lengths)
            for values, cloud, lengths, weight in (
                (to_y, c.x, c.x_lengths, self.x_weights),
                (to_x, c.y, c.y_lengths, self.y_weights),
            )
            if values is not None
        ]
        if len(parts) == 1:
            total = parts[0]
        else:
            total = parts[0].maximum(parts[1]) if self.points == "max" else parts[0] + parts[1]
        return self.over_batch(c, settle(total, c, alone))

    def over_batch(self, c: Clouds, values: Tensor) -> Tensor:
        """Reduce [B]; a single cloud has no batch to reduce, but a weight."""
        if c.single and (self.cloud_weights is None or self.batch == "none"):
            return values[0]
        return over_batch(values, self.batch, self.cloud_weights)


def given(place: Callable[[Tensor], Tensor], values: Tensor | None, c: Clouds) -> Any:
    """What a point has, in the rows in which the points were given; None stays."""
    if values is None:
        return None
    values = place(values)
    return values[0] if c.single else values


def check_reductions(op: str, points: str, batch: str, most: bool = True) -> None:
    """Raise ValueError for a reduction that does not exist; "max" exists if `most`."""
    choices = ("mean", "sum", "max", "none") if most else ("mean", "sum", "none")
    _checks.choice(op, "point_reduction", points, choices)
    _checks.choice(op, "batch_reduction", batch, ("mean", "sum", "none"))
