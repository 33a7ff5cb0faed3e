# SPDX-License-Identifier: MIT
"""Earth mover's distance between clouds of points of equal weight."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from pointloss import _checks
from pointloss.losses import _reduce
from pointloss.ops import _function
from pointloss.ops.assign import Assignment, assign_batched


def emd(
    x: Tensor,
    y: Tensor,
    *,
    x_lengths: Tensor | None = None,
    y_lengths: Tensor | None = None,
    squared: bool = False,
    rtol: float = 1e-2,
    price: Tensor | None = None,
    idx: Tensor | None = None,
    max_rounds: int | None = None,
    point_reduction: str = "mean",
    batch_reduction: str = "mean",
) -> Tensor:
    """Earth mover's distance: the least mean distance of a one-to-one matching, within rtol.

    For clouds of equal size (Fan, Su and Guibas 2017, eq. 2, with a mean)

        min over bijections phi of 1/N sum_i |x_i - y_phi(i)|

    For unequal sizes every point of the smaller cloud is matched and the mean is over those pairs.
    The matching comes from `assign`: its mean distance lies at most `rtol` (relative) above the
    optimum, certified; call `assign` itself to read the certificate. The gradient holds the
    matching fixed and is 0 at a coincident pair.

    Args:
        x: points [B, N, D] or [N, D], 1 <= D <= 64, float; half types are computed in float32.
        y: points [B, M, D] or [M, D], of x's dtype and device.
        x_lengths: int [B], the valid points of each x; the rest is padding.
        y_lengths: int [B], likewise for y.
        squared: match by, and average, squared distances.
        rtol: certified relative gap of the matching.
        price: [B, max(N, M)], prices of an earlier `assign` as a warm start.
        idx: int [B, N], the matching that came with those prices.
        max_rounds: see `assign`.
        point_reduction: "mean" over the matched pairs, "sum", or "none" ([B, N], 0 for a point of
            x that has no partner).
        batch_reduction: "mean", "sum" or "none" ([B]). An empty batch gives 0.

    Returns:
        A scalar, or [B] for batch_reduction "none" (a scalar for single clouds), or [B, N] for
        point_reduction "none". NaN where `assign` says NaN; an empty cloud contributes 0.
        The distances are squared on the way: beyond about 1e19 float32 says inf, below 1e-22 it
        says 0, where `assign` still tells the cost in float64.
        Differentiable twice and more. It works wherever `nearest` works, but more than 2^31 numbers
        have not been tried.

    Raises:
        ValueError: shapes, devices or options do not fit.
        TypeError: dtypes do not fit.
        RuntimeError: CUDA tensors in a build without CUDA.

    Determinism: the matching's as in `assign`; for one matching, value and gradient are
    deterministic, without atomics, because a matching is one-to-one.

    Example:
        >>> x = torch.tensor([[0.0, 0], [4, 0]])
        >>> emd(x, torch.tensor([[4.0, 3], [0, 0]])).item()
        1.5
    """
    _check_reductions("emd", point_reduction, batch_reduction)
    c = _checks.clouds("emd", x, y, x_lengths, y_lengths)
    found = assign_batched("emd", c, squared, rtol, price, idx, max_rounds)
    return _matched_distance(c, found, squared, point_reduction, batch_reduction)


def _check_reductions(op: str, point_reduction: str, batch_reduction: str) -> None:
    _checks.choice(op, "point_reduction", point_reduction, ("mean", "sum", "none"))
    _checks.choice(op, "batch_reduction", batch_reduction, ("mean", "sum", "none"))


def _matched_distance(
    c: _checks.Clouds, found: Assignment, squared: bool, point_reduction: str, batch_reduction: str
) -> Tensor:
    """The reduced distance of a matching, differentiable in x and y."""
    partner = _matched(c.y, found.idx, _inverse(found.idx, c.y.shape[1]))
    # Masked before any arithmetic: NaN in the padding would come back as 0 * NaN.
    diff = torch.where((found.idx >= 0).unsqueeze(-1), c.x - partner, 0)
    sqdist = diff.square().sum(-1)
    dist = sqdist if squared else _reduce.safe_sqrt(sqdist)
    # Where assign could not judge a cloud the loss must show it, matched or not.
    unknown = found.cost.isnan()
    if point_reduction == "none":
        dist = torch.where(unknown.unsqueeze(1), torch.nan, dist)
        return dist[0] if c.single else dist
    count = _reduce.counts(c.x, c.x_lengths).minimum(_reduce.counts(c.y, c.y_lengths))
    total = _reduce.over_points(dist, count, None, point_reduction, None)
    total = torch.where(unknown, torch.nan, total)
    return total[0] if c.single else _reduce.over_batch(total, batch_reduction)


def _inverse(idx: Tensor, size: int) -> Tensor:
    """The inverse of an injection [B, N] into range(size): [B, size], -1 where nothing maps."""
    batch, n = idx.shape
    # Unmatched entries go to one spare column, which is cut off again.
    inverse = idx.new_full((batch, size + 1), -1)
    position = torch.arange(n, device=idx.device).expand(batch, n)
    return inverse.scatter(1, torch.where(idx >= 0, idx, size), position)[:, :size]


class _Matched(torch.autograd.Function):
    """values[b, idx[b, i]], 0 where idx is -1, for an injection idx with its inverse.

    The adjoint of a gather by an injection is the gather by its inverse: no atomics, the same bits
    every time, and its own derivative of every order.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor, idx: Tensor, inverse: Tensor) -> Tensor:
        if values.shape[1] == 0:
            return values.new_zeros((values.shape[0], idx.shape[1], values.shape[2]))
        found = (idx >= 0).unsqueeze(-1)
        column = idx.clamp_min(0).unsqueeze(-1).expand(-1, -1, values.shape[2])
        return torch.where(found, values.gather(1, column), 0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1], inputs[2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        idx, inverse = ctx.saved_tensors
        return _matched(grad, inverse, idx), None, None


def _matched(values: Tensor, idx: Tensor, inverse: Tensor) -> Tensor:
    return cast("Tensor", _function.call(_Matched, values, idx, inverse))


class EMDLoss(nn.Module):
    """`emd` with its options fixed, as a module; it can keep prices per sample between steps.

    Prices of the last epoch make a good start for the next: give `price_cache=(samples, points)`
    (the number of training samples, and of points of the larger cloud) and call with `ids`, the
    sample numbers [B]. The cache is a float32 buffer of that shape, saved with the state dict.

    Example:
        >>> loss = EMDLoss(price_cache=(10, 5))
        >>> x = torch.rand(2, 5, 3)
        >>> loss(x, x, ids=torch.tensor([3, 7])).item()
        0.0
    """

    price_cache: Tensor | None

    def __init__(
        self,
        *,
        squared: bool = False,
        rtol: float = 1e-2,
        max_rounds: int | None = None,
        point_reduction: str = "mean",
        batch_reduction: str = "mean",
        price_cache: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        _check_reductions("EMDLoss", point_reduction, batch_reduction)
        self.squared = squared
        self.rtol = rtol
        self.max_rounds = max_rounds
        self.point_reduction = point_reduction
        self.batch_reduction = batch_reduction
        # float32 halves the memory; a rounded price is still a safe one.
        cache = None if price_cache is None else torch.zeros(price_cache)
        self.register_buffer("price_cache", cache)

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        ids: Tensor | None = None,
        *,
        x_lengths: Tensor | None = None,
        y_lengths: Tensor | None = None,
    ) -> Tensor:
        """See `emd`; ids int64 [B] are the samples' rows in the price cache."""
        if (ids is None) != (self.price_cache is None):
            raise ValueError("EMDLoss: ids and price_cache go together; give both or neither")
        c = _checks.clouds("EMDLoss", x, y, x_lengths, y_lengths)
        price = None if self.price_cache is None else self.price_cache[ids]
        found = assign_batched("EMDLoss", c, self.squared, self.rtol, price, None, self.max_rounds)
        if self.price_cache is not None:
            self.price_cache[ids] = found.price.to(self.price_cache.dtype)
        return _matched_distance(c, found, self.squared, self.point_reduction, self.batch_reduction)

    def extra_repr(self) -> str:
        """The options, for print(model)."""
        return (
            f"squared={self.squared}, rtol={self.rtol}, max_rounds={self.max_rounds}, "
            f"point_reduction={self.point_reduction!r}, batch_reduction={self.batch_reduction!r}"
        )
