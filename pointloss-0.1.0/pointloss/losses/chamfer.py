# SPDX-License-Identifier: MIT
"""Chamfer distance."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict, overload

import torch
from torch import Tensor, nn

from pointloss import _checks, _reduce
from pointloss.ops.chamfer import chamfer_batched
from pointloss.ops.nearest import nearest_batched

if TYPE_CHECKING:
    from typing_extensions import Unpack


class PointDistances(NamedTuple):
    """Unreduced distances of each direction; None for a direction that was not asked for."""

    x_to_y: Tensor | None
    y_to_x: Tensor | None


PointDistances.x_to_y.__doc__ = "[B, N], of each point of x to its nearest of y; or None."
PointDistances.y_to_x.__doc__ = "[B, M], of each point of y to its nearest of x; or None."


class PointIndices(NamedTuple):
    """The nearest point of each point; None for a direction that was not asked for."""

    x_to_y: Tensor | None
    y_to_x: Tensor | None


PointIndices.x_to_y.__doc__ = "int64 [B, N] into y; -1 where there is none. Or None."
PointIndices.y_to_x.__doc__ = "int64 [B, M] into x; -1 where there is none. Or None."


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
        c: _checks.Clouds,
        points: str,
        batch: str,
        weights: tuple[Tensor | None, Tensor | None],
        cloud_weights: Tensor | None,
    ) -> Reduction:
        """Check the options and weights of a call."""
        check_reductions(op, points, batch)
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
        self, c: _checks.Clouds, to_y: Tensor | None, to_x: Tensor | None, alone: float | None
    ) -> Tensor | PointDistances:
        """Reduce values [B, N] and [B, M], 0 in padding; `alone` as in _reduce.settle."""
        if self.points == "none":
            return PointDistances(_given(c.at_x, to_y, c), _given(c.at_y, to_x, c))
        parts = [
            _reduce.over_points(
                values, _reduce.counts(cloud, lengths), weight, self.points, lengths
            )
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
        return self.over_batch(c, _reduce.settle(total, c, alone))

    def over_batch(self, c: _checks.Clouds, values: Tensor) -> Tensor:
        """Reduce [B]; a single cloud has no batch to reduce, but a weight."""
        if c.single and (self.cloud_weights is None or self.batch == "none"):
            return values[0]
        return _reduce.over_batch(values, self.batch, self.cloud_weights)


def _given(place: Callable[[Tensor], Tensor], values: Tensor | None, c: _checks.Clouds) -> Any:
    """What a point has, in the rows in which the points were given; None stays."""
    if values is None:
        return None
    values = place(values)
    return values[0] if c.single else values


class _Options(TypedDict, total=False):
    """Keyword arguments of `chamfer` that do not decide what it returns."""

    x_lengths: Tensor | None
    y_lengths: Tensor | None
    x_mask: Tensor | None
    y_mask: Tensor | None
    x_weights: Tensor | None
    y_weights: Tensor | None
    cloud_weights: Tensor | None
    norm: int
    squared: bool
    direction: str
    batch_reduction: str


@overload
def chamfer(  # type: ignore[overload-overlap]
    x: Tensor,
    y: Tensor,
    *,
    point_reduction: Literal["none"],
    return_idx: Literal[False] = False,
    **options: Unpack[_Options],
) -> PointDistances: ...


@overload
def chamfer(
    x: Tensor,
    y: Tensor,
    *,
    point_reduction: str = "mean",
    return_idx: Literal[False] = False,
    **options: Unpack[_Options],
) -> Tensor: ...


@overload
def chamfer(
    x: Tensor,
    y: Tensor,
    *,
    point_reduction: str = "mean",
    return_idx: Literal[True],
    **options: Unpack[_Options],
) -> tuple[Any, PointIndices]: ...


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
    cloud_weights: Tensor | None = None,
    norm: int = 2,
    squared: bool = True,
    direction: str = "both",
    point_reduction: str = "mean",
    batch_reduction: str = "mean",
    return_idx: bool = False,
) -> Tensor | PointDistances | tuple[Any, PointIndices]:
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
        cloud_weights: [B], weight of each pair of clouds, differentiable, likewise for the mean and
            the sum over the batch.
        norm: 2 or 1 (sum of absolute differences; then `squared` does not apply).
        squared: squared distances, or their roots. The root's gradient at distance 0 is 0.
        direction: "both", "x_to_y" (each point of x to its nearest in y) or "y_to_x".
        point_reduction: "mean", "sum", "max" (with both directions: the larger of the two, the
            Hausdorff distance), or "none".
        batch_reduction: "mean", "sum" or "none" ([B]). An empty batch gives 0.
        return_idx: return the neighbours, too; `normal_loss` compares the normals there.

    Returns:
        A scalar, or [B] for batch_reduction "none" (a scalar for single clouds); for
        point_reduction "none" PointDistances, whatever batch_reduction says. With return_idx
        (that, PointIndices).
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
    _check_options("chamfer", norm, direction)
    c = _checks.clouds("chamfer", x, y, x_lengths, y_lengths, x_mask, y_mask)
    weights = (x_weights, y_weights)
    how = Reduction.of("chamfer", c, point_reduction, batch_reduction, weights, cloud_weights)
    # Without rows no distance carries the NaN of a length out of range.
    lengths = c.x_lengths is not None or c.y_lengths is not None
    mute = lengths and 0 in (c.x.shape[1], c.y.shape[1])
    value: Tensor | PointDistances
    if point_reduction in ("mean", "sum") and weights == (None, None) and not mute:
        whole = batch_reduction if cloud_weights is None and not c.single else "none"
        value, flat = chamfer_batched(
            c.swapped() if direction == "y_to_x" else c,
            norm,
            squared,
            both=direction == "both",
            point_reduction=point_reduction,
            batch_reduction=whole,
        )
        if whole == "none":
            value = how.over_batch(c, value)
        if not return_idx:
            return value
        idx = _split(flat, c, direction)
    else:
        dist, idx = neighbours(c, norm, squared or norm == 1, direction)
        value = how.apply(c, *dist, torch.inf if direction == "both" else None)
        if not return_idx:
            return value
    # Copies, because the gradient keeps its own whatever becomes of those that are given away.
    x_to_y, y_to_x = (None if i is None else i.clone() for i in idx)
    return value, PointIndices(
        _given(lambda i: c.at_x(c.into_y(i)), x_to_y, c),
        _given(lambda i: c.at_y(c.into_x(i)), y_to_x, c),
    )


_Ways = tuple[Tensor | None, Tensor | None]  # from x to y, and from y to x


def _split(flat: Tensor, c: _checks.Clouds, direction: str) -> _Ways:
    """The neighbours that chamfer_batched returned, by direction."""
    batch, n, m = *c.x.shape[:2], c.y.shape[1]
    if direction == "y_to_x":
        return None, flat[: batch * m].view(batch, m)
    x_to_y = flat[: batch * n].view(batch, n)
    return x_to_y, flat[batch * n :].view(batch, m) if direction == "both" else None


def neighbours(c: _checks.Clouds, norm: int, as_found: bool, direction: str) -> tuple[_Ways, _Ways]:
    """Distances, or their roots unless `as_found`, and neighbours of each direction asked for."""
    found: list[Tensor | None]
    if direction == "both":
        found = list(nearest_batched(c, norm, both=True))
    elif direction == "x_to_y":
        found = [*nearest_batched(c, norm, both=False)[:2], None, None]
    else:
        found = [None, None, *nearest_batched(c.swapped(), norm, both=False)[:2]]
    to_y, idx_x, to_x, idx_y = found
    if not as_found:
        to_y, to_x = (None if d is None else _reduce.safe_sqrt(d) for d in (to_y, to_x))
    return (to_y, to_x), (idx_x, idx_y)


def _check_options(op: str, norm: int, direction: str) -> None:
    _checks.choice(op, "norm", norm, (1, 2))
    _checks.choice(op, "direction", direction, ("both", "x_to_y", "y_to_x"))


def check_reductions(op: str, points: str, batch: str) -> None:
    """Raise ValueError for a reduction that does not exist."""
    _checks.choice(op, "point_reduction", points, ("mean", "sum", "max", "none"))
    _checks.choice(op, "batch_reduction", batch, ("mean", "sum", "none"))


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
        _check_options("ChamferLoss", norm, direction)
        check_reductions("ChamferLoss", point_reduction, batch_reduction)
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
        cloud_weights: Tensor | None = None,
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
            cloud_weights=cloud_weights,
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
