# SPDX-License-Identifier: MIT
"""Chamfer distance."""

from __future__ import annotations

from typing import Literal, NamedTuple, overload

import torch
from torch import Tensor, nn

from pointloss import _checks, _reduce
from pointloss.ops.chamfer import chamfer_batched
from pointloss.ops.nearest import nearest_batched


class PointDistances(NamedTuple):
    """Unreduced distances of each direction; None for a direction that was not asked for."""

    x_to_y: Tensor | None
    y_to_x: Tensor | None


PointDistances.x_to_y.__doc__ = "[B, N], of each point of x to its nearest of y; or None."
PointDistances.y_to_x.__doc__ = "[B, M], of each point of y to its nearest of x; or None."


@overload
def chamfer(  # type: ignore[overload-overlap]
    x: Tensor,
    y: Tensor,
    *,
    x_lengths: Tensor | None = None,
    y_lengths: Tensor | None = None,
    x_mask: Tensor | None = None,
    y_mask: Tensor | None = None,
    norm: int = 2,
    squared: bool = True,
    direction: str = "both",
    point_reduction: Literal["none"],
) -> PointDistances: ...


@overload
def chamfer(
    x: Tensor,
    y: Tensor,
    *,
    x_lengths: Tensor | None = None,
    y_lengths: Tensor | None = None,
    x_mask: Tensor | None = None,
    y_mask: Tensor | None = None,
    x_weights: Tensor | None = None,
    y_weights: Tensor | None = None,
    norm: int = 2,
    squared: bool = True,
    direction: str = "both",
    point_reduction: str = "mean",
    batch_reduction: str = "mean",
) -> Tensor: ...


def chamfer(
    x: Tensor,
    y: Tensor,
    *,
    x_lengths: Tensor | None = None,
    y_lengths: Tensor | None = None,
    x_mask: Tensor | None = None,
    y_mask: Tensor | None = None,
    x_weights: Tensor | None = None,
    y_weights: Tensor | None = None,
    norm: int = 2,
    squared: bool = True,
    direction: str = "both",
    point_reduction: str = "mean",
    batch_reduction: str = "mean",
) -> Tensor | PointDistances:
    """Chamfer distance between two batches of clouds, exact, differentiable in both.

    With the defaults, for each pair of clouds (Fan, Su and Guibas 2017, eq. 1, with means)

        1/N sum_i min_j |x_i - y_j|^2  +  1/M sum_j min_i |x_i - y_j|^2

    that is: squared distances, a mean over the points of each cloud, both directions added
    (no factor 1/2), then the mean over the batch.

    Args:
        x: points [B, N, D] or [N, D], 1 <= D <= 64, float; half types are computed in float32.
        y: points [B, M, D] or [M, D], on x's device; two dtypes are promoted as `nearest` does.
        x_lengths: int [B], the valid points of each x; the rest is padding.
        y_lengths: int [B], likewise for y.
        x_mask: bool [B, N], the points of x that count, in place of x_lengths; the others may hold
            anything, NaN too.
        y_mask: bool [B, M], likewise for y.
        x_weights: [B, N], weight of each point of x, differentiable. A mean becomes the weighted
            mean sum(w d) / sum(w), a sum becomes sum(w d).
        y_weights: [B, M], likewise for y.
        norm: 2 or 1 (sum of absolute differences; then `squared` does not apply).
        squared: squared distances, or their roots. The root's gradient at distance 0 is 0.
        direction: "both", "x_to_y" (each point of x to its nearest in y) or "y_to_x".
        point_reduction: "mean", "sum", "max" (with both directions: the larger of the two, the
            Hausdorff distance), or "none".
        batch_reduction: "mean", "sum" or "none" ([B]). An empty batch gives 0.

    Returns:
        A scalar, or [B] for batch_reduction "none" (a scalar for single clouds); for
        point_reduction "none" PointDistances, whatever batch_reduction says.
        A direction with an empty source contributes 0, one with an empty target inf; so with both
        directions exactly one empty cloud gives inf, two give 0. The gradient is 0 there. NaN
        points and lengths out of range give NaN. Differentiable twice and more. It works wherever
        `nearest` works.

    Raises:
        ValueError: shapes, devices or options do not fit.
        TypeError: dtypes do not fit.
        RuntimeError: CUDA tensors in a build without CUDA.

    Determinism: the value always (without weights, means and sums are taken in float64 and in a
    fixed order); gradients as those of `nearest`.

    Example:
        >>> x, y = torch.zeros(1, 1, 3), torch.ones(1, 1, 3)
        >>> chamfer(x, y).item(), chamfer(x, y, squared=False, direction="x_to_y").item()
        (6.0, 1.7320507764816284)
    """
    _check_options("chamfer", norm, direction, point_reduction, batch_reduction)
    c = _checks.clouds("chamfer", x, y, x_lengths, y_lengths, x_mask, y_mask)
    weights = (
        _checks.per_point("chamfer", "x_weights", x_weights, c.x, c.x_order),
        _checks.per_point("chamfer", "y_weights", y_weights, c.y, c.y_order),
    )
    if point_reduction in ("max", "none") and weights != (None, None):
        raise ValueError(f"chamfer: weights do not apply to point_reduction={point_reduction!r}")

    # Without rows no distance carries the NaN of a length out of range.
    lengths = c.x_lengths is not None or c.y_lengths is not None
    mute = lengths and 0 in (c.x.shape[1], c.y.shape[1])
    if point_reduction in ("mean", "sum") and weights == (None, None) and not mute:
        return chamfer_batched(
            c.swapped() if direction == "y_to_x" else c,
            norm,
            squared,
            both=direction == "both",
            point_reduction=point_reduction,
            batch_reduction="sum" if c.single else batch_reduction,
        )
    to_y, to_x = _distances(c, norm, squared or norm == 1, direction)
    if point_reduction == "none":
        to_y, to_x = to_y if to_y is None else c.at_x(to_y), to_x if to_x is None else c.at_y(to_x)
        if c.single:
            to_y, to_x = (None if d is None else d[0] for d in (to_y, to_x))
        return PointDistances(to_y, to_x)
    parts = [
        _reduce.over_points(dist, _reduce.counts(cloud, lengths), weight, point_reduction, lengths)
        for dist, cloud, lengths, weight in (
            (to_y, c.x, c.x_lengths, weights[0]),
            (to_x, c.y, c.y_lengths, weights[1]),
        )
        if dist is not None
    ]
    if len(parts) == 1:
        total = parts[0]
    else:
        total = parts[0].maximum(parts[1]) if point_reduction == "max" else parts[0] + parts[1]
    total = _reduce.settle(total, c, torch.inf if direction == "both" else None)
    return total[0] if c.single else _reduce.over_batch(total, batch_reduction)


def _distances(
    c: _checks.Clouds, norm: int, as_found: bool, direction: str
) -> tuple[Tensor | None, Tensor | None]:
    """Distances of each direction that was asked for; their roots unless `as_found`."""
    dist: tuple[Tensor | None, Tensor | None]
    if direction == "both":
        dist_x, _, dist_y, _ = nearest_batched(c, norm, both=True)
        dist = dist_x, dist_y
    elif direction == "x_to_y":
        dist = nearest_batched(c, norm, both=False)[0], None
    else:
        dist = None, nearest_batched(c.swapped(), norm, both=False)[0]
    if as_found:
        return dist
    return tuple(None if d is None else _reduce.safe_sqrt(d) for d in dist)  # type: ignore[return-value]


def _check_options(
    op: str, norm: int, direction: str, point_reduction: str, batch_reduction: str
) -> None:
    _checks.choice(op, "norm", norm, (1, 2))
    _checks.choice(op, "direction", direction, ("both", "x_to_y", "y_to_x"))
    _checks.choice(op, "point_reduction", point_reduction, ("mean", "sum", "max", "none"))
    _checks.choice(op, "batch_reduction", batch_reduction, ("mean", "sum", "none"))


class ChamferLoss(nn.Module):
    """`chamfer` with its options fixed, as a module.

    Example:
        >>> loss = ChamferLoss(squared=False)
        >>> loss(torch.zeros(2, 5, 3), torch.zeros(2, 7, 3)).item()
        0.0
    """

    def __init__(
        self,
        *,
        norm: int = 2,
        squared: bool = True,
        direction: str = "both",
        point_reduction: str = "mean",
        batch_reduction: str = "mean",
    ) -> None:
        super().__init__()
        _check_options("ChamferLoss", norm, direction, point_reduction, batch_reduction)
        self.norm = norm
        self.squared = squared
        self.direction = direction
        self.point_reduction = point_reduction
        self.batch_reduction = batch_reduction

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        *,
        x_lengths: Tensor | None = None,
        y_lengths: Tensor | None = None,
        x_mask: Tensor | None = None,
        y_mask: Tensor | None = None,
        x_weights: Tensor | None = None,
        y_weights: Tensor | None = None,
    ) -> Tensor:
        """See `chamfer`; PointDistances for point_reduction "none"."""
        return chamfer(
            x,
            y,
            x_lengths=x_lengths,
            y_lengths=y_lengths,
            x_mask=x_mask,
            y_mask=y_mask,
            x_weights=x_weights,
            y_weights=y_weights,
            norm=self.norm,
            squared=self.squared,
            direction=self.direction,
            point_reduction=self.point_reduction,
            batch_reduction=self.batch_reduction,
        )

    def extra_repr(self) -> str:
        """The options, for print(model)."""
        return (
            f"norm={self.norm}, squared={self.squared}, direction={self.direction!r}, "
            f"point_reduction={self.point_reduction!r}, batch_reduction={self.batch_reduction!r}"
        )
