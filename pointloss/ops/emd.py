# SPDX-License-Identifier: MIT
"""The distance of a matching, differentiable in both clouds."""

from __future__ import annotations

import functools
from typing import Any, cast

import torch
from torch import Tensor

from pointloss import _checks
from pointloss.ops import _function, _injection
from pointloss.ops.assign import Assignment
from pointloss.ops.chamfer import root_slope


def matched_distance(
    c: _checks.Clouds,
    found: Assignment,
    squared: bool,
    *,
    point_reduction: str,
    batch_reduction: str,
    missed: Tensor | None = None,
) -> Tensor:
    """Mean or sum over the pairs, then sum, mean or none over the batch; see losses.emd.

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
