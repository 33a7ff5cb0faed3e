# SPDX-License-Identifier: MIT
"""Chamfer distance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict, cast, overload

import torch
from torch import Tensor, nn

from pointloss import _checks, _reduce
from pointloss._reduce import PointDistances, Reduction
from pointloss.ops import _function
from pointloss.ops.nearest import differences, gradients_in_torch, nearest_batched

if TYPE_CHECKING:
    from typing_extensions import Unpack


class PointIndices(NamedTuple):
    """The nearest point of each point; None for a direction that was not asked for."""

    x_to_y: Tensor | None
    y_to_x: Tensor | None


PointIndices.x_to_y.__doc__ = "int64 [B, N] into y; -1 where there is none. Or None."
PointIndices.y_to_x.__doc__ = "int64 [B, M] into x; -1 where there is none. Or None."


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
        clouds = c.swapped() if direction == "y_to_x" else c
        found: tuple[Tensor, Tensor] = _function.call(
            _Chamfer, clouds.x, clouds.y, clouds.x_lengths, clouds.y_lengths, norm, squared,
            direction == "both", point_reduction, whole,
        )  # fmt: skip
        total, flat = found
        value = how.over_batch(c, total) if whole == "none" else total
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
        _reduce.given(lambda i: c.at_x(c.into_y(i)), x_to_y, c),
        _reduce.given(lambda i: c.at_y(c.into_x(i)), y_to_x, c),
    )


_Ways = tuple[Tensor | None, Tensor | None]  # from x to y, and from y to x


def _split(flat: Tensor, c: _checks.Clouds, direction: str) -> _Ways:
    """The neighbours that the op returned in one row, by direction."""
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
        _reduce.check_reductions("ChamferLoss", point_reduction, batch_reduction)
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


class _Chamfer(torch.autograd.Function):
    """The op with its derivative; a Function, so that vmap works and forward-mode AD raises.

    Returns the value, added in float64 and in a fixed order, and the neighbours of all points of x,
    then of y, in one row that the backward pass still needs.
    """

    @staticmethod
    def forward(  # not *args: torch.compile counts the parameters
        x: Tensor,
        y: Tensor,
        x_lengths: Tensor | None,
        y_lengths: Tensor | None,
        norm: int,
        squared: bool,
        both: bool,
        point_reduction: str,
        batch_reduction: str,
    ) -> tuple[Tensor, Tensor]:
        out = torch.ops.pointloss.chamfer.default(
            x, y, x_lengths, y_lengths, norm, squared, both, point_reduction, batch_reduction
        )
        return cast("tuple[Tensor, Tensor]", out)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, y, x_lengths, y_lengths, *options = inputs
        idx = output[1]
        ctx.options = options
        ctx.mark_non_differentiable(idx)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, y, x_lengths, y_lengths, idx)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 9
        args, needed = (grad, *ctx.saved_tensors, *ctx.options), ctx.needs_input_grad[:2]
        if torch.is_grad_enabled():  # create_graph: the kernel has no derivative of its own
            grads = _backward_in_torch(*args)
        else:
            deterministic = torch.are_deterministic_algorithms_enabled()
            grads = torch.ops.pointloss.chamfer_backward.default(*args, *needed, deterministic)
        return *_function.chosen(grads, needed), None, None, None, None, None, None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], *args: Any
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        size: int = info.batch_size
        batch, (*joined, batch_reduction) = _function.join(size, in_dims, args)
        value, idx = _function.call(_Chamfer, *joined, "none")
        value = _function.over_batch(value.unflatten(0, (size, batch)), batch_reduction)
        # Each sample's neighbours of x, then of y.
        split = size * batch * joined[0].shape[1]
        parts = [
            part.unflatten(0, (size, part.shape[0] // max(size, 1)))
            for part in (idx[:split], idx[split:])
        ]
        return (value, torch.cat(parts, dim=1)), (0, 0)


def _backward_in_torch(
    grad: Tensor,
    x: Tensor,
    y: Tensor,
    x_lengths: Tensor | None,
    y_lengths: Tensor | None,
    idx: Tensor,
    norm: int,
    squared: bool,
    both: bool,
    point_reduction: str,
    batch_reduction: str,
) -> tuple[Tensor, Tensor]:
    """chamfer_backward in differentiable torch ops: what higher derivatives are taken of."""
    batch, rows = x.shape[:2]
    idx_x = idx[: batch * rows].unflatten(0, (batch, rows))
    idx_y = idx[batch * rows :].unflatten(0, (batch, y.shape[1] if both else 0))
    grad = grad.expand(batch)
    if batch_reduction == "mean":
        grad = grad / max(batch, 1)

    def of_distances(a: Tensor, b: Tensor, idx: Tensor, lengths: Tensor | None) -> Tensor:
        share = grad
        if point_reduction == "mean":
            share = grad / (max(a.shape[1], 1) if lengths is None else lengths.clamp_min(1))
        share = share.unsqueeze(1).expand(a.shape[:2])
        return share if squared or norm == 1 else share * root_slope(differences(a, b, idx))

    grad_x = of_distances(x, y, idx_x, x_lengths)
    grad_y = of_distances(y, x, idx_y, y_lengths) if both else None
    return gradients_in_torch(grad_x, grad_y, x, y, idx_x, idx_y, norm)


def root_slope(diff: Tensor) -> Tensor:
    """Derivative of sqrt(d) by d = sum diff^2; 0 at 0."""
    dist = diff.square().sum(-1)
    positive = dist > 0
    return torch.where(positive, 0.5 / torch.where(positive, dist, 1).sqrt(), 0)


def _chamfer_fake(
    x: Tensor, y: Tensor, _x_lengths: Any, _y_lengths: Any, _norm: int, _squared: bool, both: bool,
    _point_reduction: str, batch_reduction: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    points = x.shape[1] + (y.shape[1] if both else 0)
    return (
        x.new_empty(x.shape[:1] if batch_reduction == "none" else ()),
        x.new_empty(x.shape[0] * points, dtype=torch.int64),
    )


def _chamfer_backward_fake(
    _grad: Tensor, x: Tensor, y: Tensor, _x_lengths: Any, _y_lengths: Any, _idx: Tensor, _norm: int,
    _squared: bool, _both: bool, _point_reduction: str, _batch_reduction: str, need_x: bool,
    need_y: bool, _deterministic: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return _function.new_gradient(x, need_x), _function.new_gradient(y, need_y)


torch.library.register_fake("pointloss::chamfer", _chamfer_fake)
torch.library.register_fake("pointloss::chamfer_backward", _chamfer_backward_fake)
