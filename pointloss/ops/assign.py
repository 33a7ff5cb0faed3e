# SPDX-License-Identifier: MIT
"""One-to-one assignment between two batches of clouds, or by costs, with a certificate."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pointloss import _checks
from pointloss.ops import _function
from pointloss.ops._injection import Order


class Assignment(NamedTuple):
    """A one-to-one matching of the smaller cloud into the larger, and what it is worth."""

    idx: Tensor
    cost: Tensor
    gap: Tensor
    price: Tensor
    rounds: Tensor
    converged: Tensor


Assignment.idx.__doc__ = "int64 [B, N], the partner in y of each point of x; -1 where it has none."
Assignment.cost.__doc__ = "float64 [B], the mean distance or cost of the min(n, m) matched pairs."
Assignment.gap.__doc__ = (
    "float64 [B], certified (cost - lower bound) / cost, at least the true gap; of a matrix of "
    "costs relative to the mean |cost| of the matched pairs."
)
Assignment.price.__doc__ = "float64 [B, max(N, M)], dual prices of the larger cloud's points."
Assignment.rounds.__doc__ = "int64 [B], sequential bidding rounds."
Assignment.converged.__doc__ = (
    "bool [B], gap <= rtol, or cost - lower bound <= atol, or as small as float64 certifies."
)


def assign(
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    cost: Tensor | None = None,
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
) -> Assignment:
    """Give every point of the smaller cloud its own partner in the larger, at least mean distance.

    With `cost` instead of x and y the same for any matrix of costs, as scipy's
    linear_sum_assignment: every row of fewer rows than columns gets its own column, at least mean
    cost, and the other way round.

    Solved by an eps-scaled auction (Bertsekas 1988, "The auction algorithm"); clouds of equal size
    on a line, as in one dimension, by sorting them along it (0 rounds). The matching is an
    injection on every input, a bijection for equal sizes, never many-to-one; how far it may be
    from the optimum is certified by linear-programming duality: for any prices p >= 0 the sum of
    min_j (c_ij + p_j) over the smaller cloud's points less the sum of the prices bounds the
    optimum from below.

    Args:
        x: points [B, N, D] or [N, D], D >= 1, float; half types are computed in float32.
        y: points [B, M, D] or [M, D], on x's device; dtypes as for `nearest`.
        cost: [B, N, M] or [N, M] in place of x and y, dtypes as theirs: what it costs to give row i
            the column j, of any sign. Infinity forbids the pair. The rows are what is said of the
            points of x here, the columns those of y.
        x_lengths: int [B], the valid points of each x; the rest is padding and stays unmatched.
        y_lengths: int [B], likewise for y.
        x_mask: bool [B, N], the points of x that count, in place of x_lengths; the others may hold
            anything, NaN too.
        y_mask: bool [B, M], likewise for y.
        squared: match by squared instead of plain euclidean distance. The optima differ. Not of
            `cost`.
        rtol: certified relative gap to stop at; 0 asks for all that float64 costs allow. The
            certificate of an optimum keeps a gap of some 1e-13 times (costs + prices) / costs,
            which counts as converged at any rtol. The gap of a matrix of costs is relative to the
            mean |cost| of the matched pairs, which is the mean cost if no cost is below 0.
        atol: certified gap cost - lower bound, in the costs' unit (squared, if they are), that is
            small enough whatever rtol says.
        price: [B, max(N, M)], an earlier result's prices as a warm start. Any values are safe: bad
            ones cost time, never certainty.
        idx: int [B, N], that result's matching, beside its prices. Where it still is within rtol
            by those prices it is returned as it is, which costs one look at the distances: so for
            points that move towards their partners. Else the solver may begin with the pairs that
            are still good. Any values are safe: what is no matching is left out. On CUDA only of
            clouds whose bidders race (see below); elsewhere only the prices are taken.
        max_rounds: stop after this many rounds, complete the matching greedily and report the gap
            that it has. None is a bound that ordinary inputs do not reach. On the CPU a bound
            counts every step of the path searches too, so more than `rounds` tells without one.

    Returns:
        Assignment, without batch axis for single clouds. Nothing in it is differentiable. `emd` is,
        and so are the matched costs that a gather takes from a matrix: of one with no more rows
        than columns, cost.gather(1, idx.unsqueeze(1)).mean(). If exactly one of two clouds is
        empty, cost is inf, if both are, 0; gap is 0, converged True, idx -1. A coordinate that is
        not finite gives cost NaN, gap inf, converged False, and some injection, and so does a cost
        of NaN or -infinity; a length out of range the same with idx -1. If every matching has a
        forbidden pair, cost and gap are inf, converged False, idx -1; likewise if max_rounds ended
        the search before it had found one without. Distances below 1e-150 of the clouds' extent
        underflow when squared: they count as 0 and certify nothing (gap 1 if no others remain). It
        works wherever `nearest` works, but more than 2^31 numbers have not been tried. Ctrl-C ends
        the CPU solver within a second or two.

    Raises:
        ValueError: shapes, devices, rtol, atol or max_rounds do not fit; idx without price;
            squared with cost.
        TypeError: dtypes do not fit; neither x and y nor cost, or both.
        RuntimeError: CUDA tensors in a build without CUDA.

    Determinism: each cloud's result is independent of the rest of the batch. The CPU returns the
    same bits for the same input. On CUDA, bidders race if the points have up to three dimensions
    and the larger cloud has at most 4096 of them, or fewer than 2^18 and at most a quarter more
    than the smaller; so another call may return another matching within its certificate. Clouds
    of equal size on a line, or so close to one that rtol allows it, are matched in order without
    bids, the same every time. Under torch.use_deterministic_algorithms(True) bidders bid in rounds,
    and the bits are the same, in a batch of any size. All other clouds give the same bits without
    it. CPU and CUDA may return different matchings.

    Example:
        >>> x = torch.tensor([[0.0, 0], [1, 0]])
        >>> a = assign(x, x.flip(0))
        >>> a.idx.tolist(), a.cost.item(), a.gap.item()
        ([1, 0], 0.0, 0.0)
        >>> a = assign(cost=torch.tensor([[4.0, 1, 3], [2, 1, 5]]), rtol=0)
        >>> a.idx.tolist(), a.cost.item()
        ([1, 0], 1.5)
    """
    valid = (x_lengths, y_lengths, x_mask, y_mask)
    if cost is not None:
        if x is not None or y is not None:
            raise TypeError("assign: give x and y, or cost, not both")
        if squared:
            raise ValueError("assign: squared is for points; square the cost instead")
        c = _checks.costs("assign", cost, *valid)
    elif x is None or y is None:
        raise TypeError("assign: x and y are missing, or cost in their place")
    else:
        c = _checks.clouds("assign", x, y, *valid, max_dim=None)
    points = cost is None
    found = assign_batched("assign", c, squared, rtol, atol, price, idx, max_rounds, points=points)
    out = as_given(c, found)
    return Assignment(*(t[0] for t in out)) if c.single else out


def assign_batched(
    op: str,
    c: _checks.Clouds,
    squared: bool,
    rtol: float,
    atol: float,
    price: Tensor | None,
    idx: Tensor | None,
    max_rounds: int | None,
    *,
    points: bool = True,
) -> Assignment:
    """`assign` for clouds that _checks.clouds has brought into form; always with a batch axis.

    Without `points`, for costs that _checks.costs has. Takes prices and matching as given, and
    returns them in the order of `c`; see `as_given`.
    """
    _checks.tolerance(op, "rtol", rtol)
    _checks.tolerance(op, "atol", atol)
    if max_rounds is not None and max_rounds < 1:
        raise ValueError(f"{op}: max_rounds must be at least 1 or None, got {max_rounds}")
    most = max(c.x.shape[1], c.y.shape[1])
    if most >= 2**31 - 1:
        raise ValueError(f"{op}: a cloud must have fewer than 2^31 - 1 points, got {most}")
    return Assignment(
        *torch.ops.pointloss.assign.default(
            c.x.detach(),
            c.y.detach() if points else None,
            c.x_lengths,
            c.y_lengths,
            squared,
            rtol,
            atol,
            _start_price(op, price, c),
            _start_idx(op, idx, price, c),
            max_rounds or 0,
            torch.are_deterministic_algorithms_enabled(),
        )
    )


def as_given(c: _checks.Clouds, found: Assignment, *, copy: bool = False) -> Assignment:
    """A matching of masked clouds in the rows in which they, and prices, are given.

    With `copy`, idx is one that nobody else holds.
    """
    order = _price_order(c)
    price = found.price if order is None else order.undo(found.price)
    idx = found.idx.clone() if copy else found.idx
    # Not _replace: torch.compile of torch 2.11 cannot return what that has made.
    idx = c.at_x(c.into_y(idx))
    return Assignment(idx, found.cost, found.gap, price, found.rounds, found.converged)


def _price_order(c: _checks.Clouds) -> Order | None:
    """The order of the prices of masked clouds, which is that of the larger cloud's points."""
    if c.x_order is None and c.y_order is None:
        return None
    points = max(c.x.shape[1], c.y.shape[1])
    same = torch.arange(points, device=c.x.device).expand(c.x.shape[0], points)
    sides = [
        (same, same)
        if order is None
        else (torch.cat([part, same[:, part.shape[1] :]], 1) for part in order)
        for order in (c.x_order, c.y_order)
    ]
    x_size, y_size = (
        torch.full_like(same[:, :1], cloud.shape[1]) if lengths is None else lengths.unsqueeze(1)
        for cloud, lengths in ((c.x, c.x_lengths), (c.y, c.y_lengths))
    )
    return Order(*(torch.where(x_size > y_size, x, y) for x, y in zip(*sides, strict=True)))


def _start_price(op: str, price: Tensor | None, c: _checks.Clouds) -> Tensor | None:
    if price is None:
        return None
    shape = (c.x.shape[0], max(c.x.shape[1], c.y.shape[1]))
    price = _checks.in_shape(op, "price", price, shape, c.x, c.single)
    price, order = price.detach().to(torch.float64), _price_order(c)
    return price if order is None else order.apply(price)


def _start_idx(
    op: str, idx: Tensor | None, price: Tensor | None, c: _checks.Clouds
) -> Tensor | None:
    if idx is None:
        return None
    if price is None:
        raise ValueError(f"{op}: idx needs the price that came with it")
    shape = tuple(c.x.shape[:2])
    idx = _checks.in_shape(op, "idx", idx, shape, c.x, c.single, integer=True).to(torch.int64)
    idx = idx if c.x_order is None else c.x_order.apply(idx)
    return idx if c.y_order is None else c.y_order.find(idx)


def _assign_fake(
    x: Tensor,
    y: Tensor | None,
    x_lengths: Tensor | None,
    y_lengths: Tensor | None,
    squared: bool,
    rtol: float,
    atol: float,
    price: Tensor | None,
    idx: Tensor | None,
    max_rounds: int,
    deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    batch, n, m = x.shape[0], x.shape[1], x.shape[2] if y is None else y.shape[1]
    return (
        x.new_empty((batch, n), dtype=torch.int64),
        x.new_empty((batch,), dtype=torch.float64),
        x.new_empty((batch,), dtype=torch.float64),
        x.new_empty((batch, max(n, m)), dtype=torch.float64),
        x.new_empty((batch,), dtype=torch.int64),
        x.new_empty((batch,), dtype=torch.bool),
    )


def _assign_vmap(
    info: Any, in_dims: tuple[int | None, ...], *args: Any
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    batch, joined = _function.join(info.batch_size, in_dims, args)
    out = torch.ops.pointloss.assign(*joined)
    return tuple(t.unflatten(0, (info.batch_size, batch)) for t in out), (0,) * 6


torch.library.register_fake("pointloss::assign", _assign_fake)
torch.library.register_vmap("pointloss::assign", _assign_vmap)
