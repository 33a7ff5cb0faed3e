# SPDX-License-Identifier: MIT
"""Chamfer distance in one op: the search for neighbours and the sum over them."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from pointloss import _checks
from pointloss.ops import _function
from pointloss.ops.nearest import differences, gradients_in_torch


def chamfer_batched(
    c: _checks.Clouds,
    norm: int,
    squared: bool,
    *,
    both: bool,
    point_reduction: str,
    batch_reduction: str,
) -> tuple[Tensor, Tensor]:
    """Sum or mean over points, then sum, mean or none over the batch; see losses.chamfer.

    Takes what _checks.clouds returned; of x in y and, with `both`, also of y in x. Returns a
    scalar, or [B] for batch_reduction "none", added in float64 and in a fixed order; and the
    neighbours of all points of x, then of y, in one row that the backward pass still needs.

    Example:
        >>> c = _checks.clouds("chamfer", torch.zeros(2, 5, 3), torch.ones(2, 7, 3))
        >>> reductions = {"point_reduction": "sum", "batch_reduction": "none"}
        >>> chamfer_batched(c, 2, True, both=False, **reductions)[0].tolist()
        [15.0, 15.0]
    """
    out = _function.call(
        _Chamfer, c.x, c.y, c.x_lengths, c.y_lengths, norm, squared, both, point_reduction,
        batch_reduction,
    )  # fmt: skip
    return cast("tuple[Tensor, Tensor]", out)


class _Chamfer(torch.autograd.Function):
    """The op with its derivative; a Function, so that vmap works and forward-mode AD raises."""

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
        args = (grad, *ctx.saved_tensors, *ctx.options)
        if torch.is_grad_enabled():  # create_graph: the kernel has no derivative of its own
            grads = _backward_in_torch(*args)
        else:
            deterministic = torch.are_deterministic_algorithms_enabled()
            grads = torch.ops.pointloss.chamfer_backward.default(*args, deterministic)
        return *grads, None, None, None, None, None, None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], *args: Any
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        size: int = info.batch_size
        batch, (*joined, batch_reduction) = _function.join(size, in_dims, args)
        value, idx = _function.call(_Chamfer, *joined, "none")
        value = value.unflatten(0, (size, batch))
        if batch_reduction != "none":
            value = value.sum(1)
        if batch_reduction == "mean":
            value = value / max(batch, 1)
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
        return share if squared or norm == 1 else share * _root_slope(differences(a, b, idx))

    grad_x = of_distances(x, y, idx_x, x_lengths)
    grad_y = of_distances(y, x, idx_y, y_lengths) if both else None
    return gradients_in_torch(grad_x, grad_y, x, y, idx_x, idx_y, norm)


def _root_slope(diff: Tensor) -> Tensor:
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


def _chamfer_backward_fake(_grad: Tensor, x: Tensor, y: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), y.new_empty(y.shape)


torch.library.register_fake("pointloss::chamfer", _chamfer_fake)
torch.library.register_fake("pointloss::chamfer_backward", _chamfer_backward_fake)
