# SPDX-License-Identifier: MIT
"""Nearest neighbours between two batches of clouds."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from pointloss import _checks
from pointloss.ops import _function

MAX_NEIGHBOURS = 64


class Nearest(NamedTuple):
    """For each point of x its nearest point of y, or its k nearest."""

    dist: Tensor
    idx: Tensor


Nearest.dist.__doc__ = "[B, N] or [B, N, k]; squared for norm 2, plain for norm 1."
Nearest.idx.__doc__ = "int64 [B, N] or [B, N, k] into y; -1 where there is none."


def nearest(
    x: Tensor,
    y: Tensor,
    *,
    x_lengths: Tensor | None = None,
    y_lengths: Tensor | None = None,
    x_mask: Tensor | None = None,
    y_mask: Tensor | None = None,
    norm: int = 2,
    k: int | None = None,
    method: str = "auto",
) -> Nearest:
    """For each point of x, the nearest point of y, or the k nearest: exact, by direct differences.

    dist[b, i] = min_j sum_d (x[b, i, d] - y[b, j, d])^2 for norm 2, and with the absolute value in
    place of the square for norm 1; dist[b, i, p] is the p-th least of these, from p = 0.

    Args:
        x: points [B, N, D] or [N, D], 1 <= D <= 64; float32 and float64 run natively, float16 and
            bfloat16 are computed in float32.
        y: points [B, M, D] or [M, D], on x's device. Two dtypes are promoted as
            torch.promote_types says; each gradient comes back in its own cloud's dtype.
        x_lengths: int [B], the valid points of each x; the rest is padding.
        y_lengths: int [B], likewise for y.
        x_mask: bool [B, N], the points of x that count, in place of x_lengths; the others may hold
            anything, NaN too, and count as padding.
        y_mask: bool [B, M], likewise for y.
        norm: 2 (squared euclidean distance) or 1 (sum of absolute differences, not squared).
        k: how many neighbours of each point, 1 to 64, the nearest first; None is one, without an
            axis for it.
        method: "auto" takes the faster one by size; "brute" compares all pairs; "tree" searches a
            spatial index (on the CPU for D <= 8, on CUDA for float32, D = 3 and norm 2). All give
            the same bits.

    Returns:
        Nearest(dist, idx), both [B, N] or, with k, [B, N, k] ([N], [N, k] for single clouds). dist
        has the compute dtype and is differentiable with respect to both clouds, twice and more; idx
        is int64. With k, distances rise along the last axis, and equal ones are in the order of
        their indices. A y of fewer than k points fills the first places; the others have dist inf
        and idx -1.
        A point that has a NaN coordinate is never anyone's neighbour; its own dist is NaN and its
        idx -1, at all k places as in what follows. Where y has no point at a finite distance, dist
        is inf and idx -1. Padding has dist 0 and idx -1. A cloud whose length is negative or larger
        than the tensor gets dist NaN and idx -1. Wherever idx is -1 the gradient is 0. What reaches
        a point from those that it is a neighbour of is summed to the rounding of the result,
        however many they are. The backward pass needs idx: change a clone of it, or torch raises
        there.

    Works on strided and expanded inputs, any batch size and more than 2^31 numbers or pairs; under
    autocast, which rounds nothing here; in torch.func.vmap, also over grad; in
    torch.compile(fullgraph=True); in CUDA graphs, with other lengths in each replay; on any stream,
    and on a GPU that is not the current one. Nothing waits for the GPU.

    Raises:
        ValueError: shapes, devices, norm or k do not fit.
        TypeError: dtypes do not fit, or k is not an integer.
        RuntimeError: CUDA tensors in a build without CUDA; k and 2^31 - 1 points or more in a
            cloud of y.

    Determinism: the forward pass is deterministic, ties take the lowest index, and CPU and CUDA
    agree bit for bit. On CUDA the gradients add in any order, except under
    torch.use_deterministic_algorithms(True). Forward-mode AD raises.

    Source: the lists of k on CUDA are those of WarpSelect (Johnson, Douze and Jegou, Billion-scale
    similarity search with GPUs, 2017) without its thread queues.

    Example:
        >>> x, y = torch.zeros(1, 3), torch.tensor([[0.0, 0, 2], [0, 1, 0]])
        >>> dist, idx = nearest(x, y)
        >>> dist.tolist(), idx.tolist()
        ([1.0], [1])
        >>> nearest(x, y, k=3).dist.tolist()
        [[1.0, 4.0, inf]]
    """
    _checks.choice("nearest", "norm", norm, (1, 2))
    check_neighbours("nearest", k)
    c = _checks.clouds("nearest", x, y, x_lengths, y_lengths, x_mask, y_mask)
    _check_method("nearest", method, c, norm)
    if k is None:
        dist, idx, _, _ = nearest_batched(c, norm, both=False, method=method)
    else:
        dist, idx = k_nearest_batched(c, None, norm, k, method)
    dist, idx = c.at_x(dist), c.at_x(c.into_y(idx))
    return Nearest(dist[0], idx[0]) if c.single else Nearest(dist, idx)


def nearest_both(
    x: Tensor,
    y: Tensor,
    *,
    x_lengths: Tensor | None = None,
    y_lengths: Tensor | None = None,
    x_mask: Tensor | None = None,
    y_mask: Tensor | None = None,
    norm: int = 2,
    method: str = "auto",
) -> tuple[Nearest, Nearest]:
    """`nearest` of x in y and of y in x in one call, which shares what both searches need.

    Args:
        x: points [B, N, D] or [N, D], see `nearest`.
        y: points [B, M, D] or [M, D], on x's device.
        x_lengths: int [B], the valid points of each x; the rest is padding.
        y_lengths: int [B], likewise for y.
        x_mask: bool [B, N], the points of x that count, in place of x_lengths; the others may hold
            anything, NaN too, and count as padding.
        y_mask: bool [B, M], likewise for y.
        norm: see `nearest`.
        method: see `nearest`.

    Returns:
        Two Nearest: of shape [B, N] with indices into y, and [B, M] with indices into x.

    Raises:
        ValueError: shapes, devices or options do not fit.
        TypeError: dtypes do not fit.
        RuntimeError: CUDA tensors in a build without CUDA.

    Determinism: as `nearest`.

    Example:
        >>> there, back = nearest_both(torch.zeros(1, 3), torch.tensor([[0.0, 0, 2], [0, 1, 0]]))
        >>> there.dist.tolist(), back.dist.tolist()
        ([1.0], [4.0, 1.0])
    """
    _checks.choice("nearest_both", "norm", norm, (1, 2))
    c = _checks.clouds("nearest_both", x, y, x_lengths, y_lengths, x_mask, y_mask)
    _check_method("nearest_both", method, c, norm)
    dist_x, idx_x, dist_y, idx_y = nearest_batched(c, norm, both=True, method=method)
    there = Nearest(c.at_x(dist_x), c.at_x(c.into_y(idx_x)))
    back = Nearest(c.at_y(dist_y), c.at_y(c.into_x(idx_y)))
    if c.single:
        return Nearest(*(t[0] for t in there)), Nearest(*(t[0] for t in back))
    return there, back


def _check_method(op: str, method: str, c: _checks.Clouds, norm: int) -> None:
    _checks.choice(op, "method", method, ("auto", "brute", "tree"))
    dim = c.x.shape[2]
    if c.x.device.type == "cuda":
        possible = dim == 3 and norm == 2 and c.x.dtype == torch.float32
    else:
        possible = dim <= 8
    if method == "tree" and not possible:
        raise ValueError(
            f"{op}: method 'tree' needs D <= 8 on the CPU, and float32, D = 3 and norm 2 on CUDA; "
            f"got D = {dim}, norm {norm}, {c.x.dtype} on {c.x.device}"
        )


def nearest_batched(
    c: _checks.Clouds, norm: int, *, both: bool, method: str = "auto"
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`nearest` of x in y and, with `both`, of y in x, for what _checks.clouds returned.

    Returns (dist_x, idx_x, dist_y, idx_y), [B, N] and [B, M]; without `both` the latter are [B, 0].
    """
    out = _function.call(_Nearest, c.x, c.y, c.x_lengths, c.y_lengths, norm, both, method)
    return cast("tuple[Tensor, Tensor, Tensor, Tensor]", out)


class _Nearest(torch.autograd.Function):
    """The op with its derivative; a Function, so that vmap works and forward-mode AD raises."""

    @staticmethod
    def forward(  # not *args: torch.compile counts the parameters
        x: Tensor,
        y: Tensor,
        x_lengths: Tensor | None,
        y_lengths: Tensor | None,
        norm: int,
        both: bool,
        method: str,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        out = torch.ops.pointloss.nearest.default(x, y, x_lengths, y_lengths, norm, both, method)
        return cast("tuple[Tensor, Tensor, Tensor, Tensor]", out)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, y, _, _, ctx.norm, ctx.both, _ = inputs
        _, idx_x, _, idx_y = output
        ctx.mark_non_differentiable(idx_x, idx_y)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, y, idx_x, idx_y)

    @staticmethod
    def backward(
        ctx: Any, grad_x: Tensor | None, _: None, grad_y: Tensor | None, __: None
    ) -> tuple[Tensor | None, ...]:
        x, y, idx_x, idx_y = ctx.saved_tensors
        if not ctx.both:  # torch.compile hands over zeros [B, 0] in place of None
            grad_y = None
        grads = nearest_gradients(grad_x, grad_y, x, y, idx_x, idx_y, ctx.norm)
        return *grads, None, None, None, None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], *args: Any
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        batch, joined = _function.join(info.batch_size, in_dims, args)
        out = _function.call(_Nearest, *joined)
        return tuple(t.unflatten(0, (info.batch_size, batch)) for t in out), (0,) * 4


def check_neighbours(op: str, k: object) -> None:
    """Raise unless k is None or a number of neighbours."""
    if k is None:
        return
    if not isinstance(k, int) or isinstance(k, bool):
        raise TypeError(f"{op}: k must be an int or None, got {type(k).__name__}")
    if not 1 <= k <= MAX_NEIGHBOURS:
        raise ValueError(f"{op}: k must be from 1 to {MAX_NEIGHBOURS}, got {k}")


def k_nearest_batched(
    c: _checks.Clouds, index: Tensor | None, norm: int, k: int, method: str = "auto"
) -> tuple[Tensor, Tensor]:
    """(dist, idx) of the k nearest, [B, N, k]; `index` is what nearest_index made of y, or None."""
    args = (c.x, c.y, c.x_lengths, c.y_lengths, index, norm, k, method)
    return cast("tuple[Tensor, Tensor]", _function.call(_KNearest, *args))


class _KNearest(torch.autograd.Function):
    """The op with its derivative, which is that of `nearest` for rows that occur k times."""

    @staticmethod
    def forward(
        x: Tensor,
        y: Tensor,
        x_lengths: Tensor | None,
        y_lengths: Tensor | None,
        index: Tensor | None,
        norm: int,
        k: int,
        method: str,
    ) -> tuple[Tensor, Tensor]:
        args = (x, y, x_lengths, y_lengths, index, norm, k, method)
        out = torch.ops.pointloss.k_nearest.default(*args)
        return cast("tuple[Tensor, Tensor]", out)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, y, _, _, _, ctx.norm, _, _ = inputs
        idx = output[1]
        ctx.mark_non_differentiable(idx)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, y, idx)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        x, y, idx = ctx.saved_tensors
        grad_x = grad_y = None
        if grad is not None:
            rows = x.unsqueeze(2).expand(*idx.shape, -1).flatten(1, 2)
            found = idx.flatten(1)
            args = (grad.flatten(1), None, rows, y, found, found[:, :0], ctx.norm)
            terms, grad_y = nearest_gradients(*args)
            grad_x = terms.view(*idx.shape, -1).sum(2)
        return grad_x, grad_y, None, None, None, None, None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], *args: Any
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        # The index knows nothing of a mapped axis; the search needs none.
        batch, joined = _function.join(info.batch_size, in_dims, (*args[:4], None, *args[5:]))
        out = _function.call(_KNearest, *joined)
        return tuple(t.unflatten(0, (info.batch_size, batch)) for t in out), (0, 0)


def nearest_gradients(*args: Any) -> tuple[Tensor, Tensor]:
    """Gradients to x and y from those of the distances, by the arguments of gradients_in_torch."""
    if torch.is_grad_enabled():  # create_graph: the kernel has no derivative of its own
        return gradients_in_torch(*args)
    deterministic = torch.are_deterministic_algorithms_enabled()
    grads = torch.ops.pointloss.nearest_backward.default(*args, deterministic)
    return cast("tuple[Tensor, Tensor]", grads)


def gradients_in_torch(
    grad_x: Tensor | None,
    grad_y: Tensor | None,
    x: Tensor,
    y: Tensor,
    idx_x: Tensor,
    idx_y: Tensor,
    norm: int,
) -> tuple[Tensor, Tensor]:
    """nearest_backward in differentiable torch ops: what higher derivatives are taken of.

    grad_x [B, N] and grad_y [B, M] are the distances' gradients, None for a direction without.
    """
    total_x, total_y = torch.zeros_like(x), torch.zeros_like(y)
    if grad_x is not None:
        own, other = _direction_in_torch(grad_x, x, y, idx_x, norm)
        total_x, total_y = total_x + own, total_y + other
    if grad_y is not None:
        own, other = _direction_in_torch(grad_y, y, x, idx_y, norm)
        total_y, total_x = total_y + own, total_x + other
    return total_x, total_y


def _direction_in_torch(
    grad: Tensor, a: Tensor, b: Tensor, idx: Tensor, norm: int
) -> tuple[Tensor, Tensor]:
    # d dist / da = 2 (a - b[idx]), or sign(a - b[idx]) for norm 1; b gets the opposite.
    if b.shape[1] == 0:
        return torch.zeros_like(a), torch.zeros_like(b)
    diff = differences(a, b, idx)
    slope = 2 * diff if norm == 2 else diff.sign()
    # Masked again, for a gradient that is NaN itself.
    found = _found(idx, b).unsqueeze(-1)
    own = torch.where(found, grad.unsqueeze(-1) * slope, 0)
    # index_add on flat rows, because torch has a deterministic variant of exactly this; in float64,
    # because a row of b may be the neighbour of very many.
    first = torch.arange(b.shape[0], device=b.device).unsqueeze(1) * b.shape[1]
    rows = (idx.clamp(0, b.shape[1] - 1) + first).flatten()
    flat = torch.zeros_like(b, dtype=torch.float64).flatten(0, 1)
    other = flat.index_add(0, rows, -own.flatten(0, 1).double()).to(b.dtype)
    # An index that was set out of range is no neighbour and not "none": the gradient shows it.
    own = torch.where(found | (idx == -1).unsqueeze(-1), own, torch.nan)
    return own, other.view_as(b)


def _found(idx: Tensor, b: Tensor) -> Tensor:
    return (idx >= 0) & (idx < b.shape[1])


def differences(a: Tensor, b: Tensor, idx: Tensor) -> Tensor:
    """Rows a minus their neighbours b[idx], and 0 where there is none."""
    if b.shape[1] == 0:
        return torch.zeros_like(a)
    column = idx.clamp(0, b.shape[1] - 1).unsqueeze(-1).expand(-1, -1, b.shape[2])
    # Masked before any other arithmetic, so that no derivative meets 0 * NaN.
    return torch.where(_found(idx, b).unsqueeze(-1), a - b.gather(1, column), 0)


def _nearest_fake(
    x: Tensor, y: Tensor, _x_lengths: Any, _y_lengths: Any, _norm: int, both: bool, _method: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows, columns = x.shape[:2], (x.shape[0], y.shape[1] if both else 0)
    return (
        x.new_empty(rows),
        x.new_empty(rows, dtype=torch.int64),
        x.new_empty(columns),
        x.new_empty(columns, dtype=torch.int64),
    )


def _k_nearest_fake(
    x: Tensor, _y: Tensor, _n: Any, _m: Any, _index: Any, _norm: int, k: int, _method: str
) -> tuple[Tensor, Tensor]:
    rows = (*x.shape[:2], k)
    return x.new_empty(rows), x.new_empty(rows, dtype=torch.int64)


def _nearest_backward_fake(
    _grad_x: Any, _grad_y: Any, x: Tensor, y: Tensor, *_: Any
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), y.new_empty(y.shape)


torch.library.register_fake("pointloss::nearest", _nearest_fake)
torch.library.register_fake("pointloss::k_nearest", _k_nearest_fake)
torch.library.register_fake("pointloss::nearest_backward", _nearest_backward_fake)
