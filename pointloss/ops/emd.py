# SPDX-License-Identifier: MIT
"""Earth mover's distance between clouds of points of equal weight."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Literal, TypedDict, cast, overload

import torch
from torch import Tensor

from pointloss import _checks
from pointloss._reduce import Reduction, given
from pointloss.ops import _certificate, _function, _injection
from pointloss.ops.assign import Assignment, as_given, assign_batched
from pointloss.ops.chamfer import root_slope

if TYPE_CHECKING:
    from typing_extensions import Unpack


class _Options(TypedDict, total=False):
    """Keyword arguments of `emd` that do not decide what it returns."""

    x_lengths: Tensor | None
    y_lengths: Tensor | None
    x_mask: Tensor | None
    y_mask: Tensor | None
    squared: bool
    rtol: float
    atol: float
    price: Tensor | None
    idx: Tensor | None
    max_rounds: int | None
    cloud_weights: Tensor | None
    point_reduction: str
    batch_reduction: str


@overload
def emd(
    x: Tensor,
    y: Tensor,
    *,
    return_assignment: Literal[False] = False,
    **options: Unpack[_Options],
) -> Tensor: ...


@overload
def emd(
    x: Tensor, y: Tensor, *, return_assignment: Literal[True], **options: Unpack[_Options]
) -> tuple[Tensor, Assignment]: ...


def emd(
    x: Tensor,
    y: Tensor,
    *,
    x_lengths: Tensor | None = None,
    y_lengths: Tensor | None = None,
    x_mask: Tensor | None = None,
    y_mask: Tensor | None = None,
    squared: bool = False,
    rtol: float = 1e-2,
    atol: float = 0.0,
    price: Tensor | None = None,
    idx: Tensor | None = None,
    max_rounds: int | None = None,
    cloud_weights: Tensor | None = None,
    point_reduction: str = "mean",
    batch_reduction: str = "mean",
    return_assignment: bool = False,
) -> Tensor | tuple[Tensor, Assignment]:
    """Earth mover's distance: the least mean distance of a one-to-one matching, within rtol.

    For clouds of equal size (Fan, Su and Guibas 2017, eq. 2, with a mean)

        min over bijections phi of 1/N sum_i |x_i - y_phi(i)|

    For unequal sizes every point of the smaller cloud is matched and the mean is over those pairs.
    The others stay free; `transport` moves all mass, takes weights, and is never less than this.
    The matching comes from `assign`: its mean distance lies at most `rtol` (relative) above the
    optimum, certified. The gradient holds the matching fixed and is 0 at a coincident pair.

    Args:
        x: points [B, N, D] or [N, D], D >= 1, float; half types are computed in float32.
        y: points [B, M, D] or [M, D], on x's device; dtypes as for `nearest`.
        x_lengths: int [B], the valid points of each x; the rest is padding.
        y_lengths: int [B], likewise for y.
        x_mask: bool [B, N], the points of x that count, in place of x_lengths; the others may hold
            anything, NaN too.
        y_mask: bool [B, M], likewise for y.
        squared: match by, and average, squared distances.
        rtol: certified relative gap of the matching.
        atol: certified gap in the unit of the mean distance that is small enough whatever rtol
            says.
        price: [B, max(N, M)], prices of an earlier `assign` as a warm start.
        idx: int [B, N], the matching that came with those prices.
        max_rounds: see `assign`. Only without it a missed certificate is worth a warning.
        cloud_weights: [B], weight of each pair of clouds, differentiable: the mean over the batch
            becomes sum(w v) / sum(w), the sum becomes sum(w v).
        point_reduction: "mean" over the matched pairs, "sum", or "none" ([B, N], 0 for a point of
            x that has no partner).
        batch_reduction: "mean", "sum" or "none" ([B]). An empty batch gives 0.
        return_assignment: return the matching beside the value, with gap, prices and whether it has
            converged. Then nothing warns.

    Returns:
        A scalar, or [B] for batch_reduction "none" (a scalar for single clouds), or [B, N] for
        point_reduction "none". NaN where `assign` says NaN. If only one of two clouds is empty, inf
        with gradient 0, in all of its row for point_reduction "none"; if both are, 0.
        With return_assignment (value, Assignment), the latter as from `assign`.
        The value is the cost that `assign` tells in float64, rounded to the clouds' dtype. Where
        the square of a distance leaves the range of float64 its gradient is 0.
        Differentiable twice and more. It works wherever `nearest` works, but more than 2^31 numbers
        have not been tried.

    Raises:
        ValueError: shapes, devices or options do not fit.
        TypeError: dtypes do not fit.
        RuntimeError: CUDA tensors in a build without CUDA.

    Warns:
        RuntimeWarning: a matching missed its certificate (`converged` is False). Nothing waits for
            the GPU, so on CUDA it comes with a later call. In torch.compile, torch.func and CUDA
            graphs there is no warning; return_assignment tells everywhere.

    Determinism: the matching's as in `assign`; for one matching, value and gradient are
    deterministic, without atomics, because a matching is one-to-one.

    Example:
        >>> x = torch.tensor([[0.0, 0], [4, 0]])
        >>> emd(x, torch.tensor([[4.0, 3], [0, 0]])).item()
        1.5
    """
    c = _checks.clouds("emd", x, y, x_lengths, y_lengths, x_mask, y_mask, max_dim=None)
    how = reduction_of("emd", c, point_reduction, batch_reduction, cloud_weights)
    found = assign_batched("emd", c, squared, rtol, atol, price, idx, max_rounds)
    warns = max_rounds is None and not return_assignment
    missed = _certificate.flag(c.x.device) if warns else None
    value = value_of(c, found, squared, how, missed)
    if return_assignment:
        # The gradient keeps its own partners, whatever becomes of those that are given away.
        found = as_given(c, found, copy=True)
        return value, Assignment(*[t[0] for t in found]) if c.single else found
    _certificate.watch("emd", missed)
    return value


def reduction_of(
    op: str, c: _checks.Clouds, points: str, batch: str, cloud_weights: Tensor | None
) -> Reduction:
    """Check the reductions and weights of a call."""
    return Reduction.of(op, c, points, batch, (None, None), cloud_weights, most=False)


def value_of(
    c: _checks.Clouds, found: Assignment, squared: bool, how: Reduction, missed: Tensor | None
) -> Tensor:
    """The reduced distance of a matching, differentiable in x and y."""
    whole = how.batch if how.cloud_weights is None and not c.single else "none"
    value = matched_distance(
        c, found, squared, point_reduction=how.points, batch_reduction=whole, missed=missed
    )
    if how.points == "none":
        return cast("Tensor", given(c.at_x, value, c))
    return how.over_batch(c, value) if whole == "none" else value


def matched_distance(
    c: _checks.Clouds,
    found: Assignment,
    squared: bool,
    *,
    point_reduction: str,
    batch_reduction: str,
    missed: Tensor | None = None,
) -> Tensor:
    """Mean or sum over the pairs, then sum, mean or none over the batch; see `emd`.

    Takes what _checks.clouds and assign_batched returned. For point_reduction "none" [B, N], and
    batch_reduction does not apply. The gradient holds the matching fixed. `missed`, a bool on the
    CPU, in pinned memory for CUDA clouds, is set if a matching that could be judged has not
    converged.

    Example:
        >>> from pointloss.ops.assign import assign_batched
        >>> c = _checks.clouds("emd", torch.zeros(2, 5, 3), torch.ones(2, 7, 3))
        >>> found = assign_batched("emd", c, True, 0.01, 0.0, None, None, None)
        >>> reductions = {"point_reduction": "sum", "batch_reduction": "none"}
        >>> matched_distance(c, found, True, **reductions).tolist()
        [15.0, 15.0]
    """
    out = _function.call(
        _Emd, c.x, c.y, c.x_lengths, c.y_lengths, found.idx, found.cost, found.converged, missed,
        squared, point_reduction, batch_reduction,
    )  # fmt: skip
    return cast("Tensor", out)


class _Emd(torch.autograd.Function):
    """The op with its derivative; a Function, so that vmap works and forward-mode AD raises."""

    @staticmethod
    def forward(  # not *args: torch.compile counts the parameters
        x: Tensor,
        y: Tensor,
        x_lengths: Tensor | None,
        y_lengths: Tensor | None,
        idx: Tensor,
        cost: Tensor,
        converged: Tensor,
        missed: Tensor | None,
        squared: bool,
        point_reduction: str,
        batch_reduction: str,
    ) -> Tensor:
        op = torch.ops.pointloss.emd
        args = (x, y, x_lengths, y_lengths, idx, cost, converged, squared, point_reduction,
                batch_reduction)  # fmt: skip
        value = op.default(*args) if missed is None else op.watched(*args, missed)
        return cast("Tensor", value)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, _, _, squared, point_reduction, batch_reduction = inputs
        ctx.options = squared, point_reduction, batch_reduction
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 11
        args, needed = (grad, *ctx.saved_tensors, *ctx.options), ctx.needs_input_grad[:2]
        if torch.is_grad_enabled():  # create_graph: the kernel has no derivative of its own
            grads = _backward_in_torch(*args)
        else:
            grads = torch.ops.pointloss.emd_backward.default(*args, *needed)
        return *_function.chosen(grads, needed), *(None,) * 9

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        size: int = info.batch_size
        batch, (*joined, batch_reduction) = _function.join(size, in_dims, args)
        value = _function.call(_Emd, *joined, "none").unflatten(0, (size, batch))
        if joined[-1] == "none":
            return value, 0
        return _function.over_batch(value, batch_reduction), 0


def _pairs(
    x: Tensor, y: Tensor, x_lengths: Tensor | None, y_lengths: Tensor | None
) -> Tensor | int:
    """How many pairs a matching has, at least 1, as a number or int64 [B]."""
    most = max(min(x.shape[1], y.shape[1]), 1)
    lengths = [sizes.clamp(1, most) for sizes in (x_lengths, y_lengths) if sizes is not None]
    return functools.reduce(torch.minimum, lengths) if lengths else most


def _differences(x: Tensor, y: Tensor, idx: Tensor) -> Tensor:
    """Points of x minus their partners, and 0 where there is none; [B, N, D] in float64."""
    partner = _injection.gather(y, idx, _injection.inverse(idx, y.shape[1]))
    # Masked before any arithmetic: NaN in the padding would come back as 0 * NaN.
    return torch.where((idx >= 0).unsqueeze(-1), x.double() - partner.double(), 0)


def _backward_in_torch(
    grad: Tensor,
    x: Tensor,
    y: Tensor,
    x_lengths: Tensor | None,
    y_lengths: Tensor | None,
    idx: Tensor,
    cost: Tensor,
    squared: bool,
    point_reduction: str,
    batch_reduction: str,
) -> tuple[Tensor, Tensor]:
    """emd_backward in differentiable torch ops: what higher derivatives are taken of."""
    batch, n = idx.shape
    if point_reduction != "none":
        grad = grad.expand(batch)
        if batch_reduction == "mean":
            grad = grad / max(batch, 1)
        if point_reduction == "mean":
            grad = grad / _pairs(x, y, x_lengths, y_lengths)
        grad = grad.unsqueeze(1).expand(batch, n)
    diff = _differences(x, y, idx)
    slope = 2 * diff if squared else 2 * diff * root_slope(diff).unsqueeze(-1)
    # Masked again, for a gradient that is NaN itself.
    judged = ((idx >= 0) & ~cost.isnan().unsqueeze(1)).unsqueeze(-1)
    own = torch.where(judged, grad.unsqueeze(-1) * slope, 0).to(x.dtype)
    return own, -_injection.gather(own, _injection.inverse(idx, y.shape[1]), idx)


def _emd_fake(
    x: Tensor, _y: Tensor, _x_lengths: Any, _y_lengths: Any, idx: Tensor, cost: Tensor,
    _converged: Tensor, _squared: bool, point_reduction: str, batch_reduction: str, *_missed: Any,
) -> Tensor:  # fmt: skip
    if point_reduction == "none":
        return x.new_empty(idx.shape)
    return x.new_empty(cost.shape if batch_reduction == "none" else ())


def _emd_backward_fake(
    _grad: Tensor, x: Tensor, y: Tensor, _x_lengths: Any, _y_lengths: Any, _idx: Tensor,
    _cost: Tensor, _squared: bool, _point_reduction: str, _batch_reduction: str, need_x: bool,
    need_y: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return _function.new_gradient(x, need_x), _function.new_gradient(y, need_y)


torch.library.register_fake("pointloss::emd", _emd_fake)
torch.library.register_fake("pointloss::emd.watched", _emd_fake)
torch.library.register_fake("pointloss::emd_backward", _emd_backward_fake)
