# SPDX-License-Identifier: MIT
"""Balanced optimal transport between clouds of weighted points, with a certificate."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pointloss import _checks
from pointloss.ops import _function
from pointloss.ops import _transport as _op
from pointloss.ops._injection import Order


class Transport(NamedTuple):
    """The least cost of moving all mass of x to y, and what is known of it."""

    cost: Tensor
    gap: Tensor
    x_potential: Tensor
    y_potential: Tensor
    iterations: Tensor
    converged: Tensor
    plan: Tensor | None


Transport.cost.__doc__ = "[B], the mean distance that the mass is moved; differentiable."
Transport.gap.__doc__ = "float64 [B], certified (cost - lower bound) / cost, at least the true gap."
Transport.x_potential.__doc__ = (
    "float64 [B, N], f of the dual: f_i + g_j <= the distance of x_i and y_j, up to rounding."
)
Transport.y_potential.__doc__ = "float64 [B, M], g of the dual."
Transport.iterations.__doc__ = "int64 [B], Sinkhorn's iterations, or the rounds of `assign`."
Transport.converged.__doc__ = (
    "bool [B], cost less bound <= max(rtol * cost, atol), or as small as float64 certifies."
)
Transport.plan.__doc__ = "[B, N, M], the mass moved from x_i to y_j; None if it was not asked for."


def transport(
    x: Tensor,
    y: Tensor,
    x_weights: Tensor | None = None,
    y_weights: Tensor | None = None,
    *,
    x_lengths: Tensor | None = None,
    y_lengths: Tensor | None = None,
    x_mask: Tensor | None = None,
    y_mask: Tensor | None = None,
    squared: bool = False,
    rtol: float = 1e-2,
    atol: float = 0.0,
    max_iterations: int = 10_000,
    return_plan: bool = False,
) -> Transport:
    """Earth mover's distance with all mass moved: the 1-Wasserstein distance of weighted clouds.

    With weights a of x and b of y, each normalised to the sum 1, and d the euclidean distance

        min over plans P >= 0 with row sums a and column sums b of sum_ij P_ij d(x_i, y_j)

    Clouds of equal size without weights have the cost that `emd` has. Otherwise the two differ: the
    matching of `emd` leaves the surplus points of the larger cloud free, `transport` must serve
    them all. At equal weights emd <= transport, and nothing bounds transport by emd: if x is a part
    of y, emd is 0, and transport grows with the distance of the rest of y.

    Where the weights are equal and each point stands for at most 4 copies, that is where the least
    common multiple of the two sizes is at most 4 times the larger, `assign` matches the copies.
    All else is solved by Sinkhorn's iterations at a falling eps, over-relaxed; the plan is made
    feasible as by Altschuler, Weed and Rigollet 2017. The certificate is that of linear
    programming: sum a f + sum b g bounds the cost from below for all potentials that are feasible.

    Args:
        x: points [B, N, D] or [N, D], 1 <= D <= 64, float; half types are computed in float32.
        y: points [B, M, D] or [M, D], on x's device; dtypes as for `nearest`.
        x_weights: [B, N] or [N], mass of each point, >= 0, of any sum, differentiable; None is
            equal mass. A weight of 0 takes a point out of the cost.
        y_weights: [B, M] or [M], likewise for y.
        x_lengths: int [B], the valid points of each x; the rest is padding.
        y_lengths: int [B], likewise for y.
        x_mask: bool [B, N], the points of x that count, in place of x_lengths; the others may hold
            anything, NaN too.
        y_mask: bool [B, M], likewise for y.
        squared: squared distances: the squared 2-Wasserstein distance.
        rtol: certified relative gap to stop at. Small ones are slow: each decimal of rtol can cost
            several times the iterations.
        atol: certified gap to stop at, in the unit of the cost; whichever is reached first.
        max_iterations: stop Sinkhorn's iterations here and report the gap of what was found; copies
            are matched without a limit.
        return_plan: return the plan too.

    Returns:
        Transport, without batch axis for single clouds. `cost` is in the clouds' dtype and
        differentiable once, in points (the plan held fixed; 0 from coincident pairs) and weights
        (their potentials, as they act through the normalised weights; at an optimum that is the
        derivative wherever there is one); the rest is not differentiable. Potentials are 0 in the
        padding. If exactly one of two clouds is empty or without mass, cost is inf, if both are, 0,
        with gradient 0; gap is 0, converged True. A coordinate that is not finite, a weight that is
        negative or not finite, and a length out of range give cost NaN, gap inf, converged False.

        Memory: matrices [N, M] in float64, about 70 bytes per pair of points, of as many clouds at
        once as make 2^25 pairs on CUDA and 2^22 on the CPU (of one at least); return_plan keeps
        that of the whole batch.

    Raises:
        ValueError: shapes, devices, rtol, atol or max_iterations do not fit.
        TypeError: dtypes do not fit.
        RuntimeError: CUDA tensors in a build without CUDA; a CUDA graph is being captured. Forward
            mode and second derivatives raise too.

    Waits: the CPU looks at the errors every 20 to 100 iterations, which on CUDA waits for the GPU.
    So it cannot be captured in a CUDA graph. torch.compile takes it as one op; torch.vmap does not.

    Determinism: the CPU returns the same bits for the same batch. On CUDA it is as deterministic as
    torch's sums and matrix products, and where `assign` solves, as `assign`.

    Example:
        >>> x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [1.0], [4.0]])
        >>> found = transport(x, y, y_weights=torch.tensor([2.0, 1.0, 1.0]), rtol=1e-4)
        >>> round(found.cost.item(), 3)
        0.75
    """
    c = _checks.clouds("transport", x, y, x_lengths, y_lengths, x_mask, y_mask)
    _check_goal(rtol, atol, max_iterations)
    a, known = _side("x_weights", x_weights, c.x, c.x_lengths, c.x_order)
    b, others = _side("y_weights", y_weights, c.y, c.y_lengths, c.y_order)
    equal = x_weights is None and y_weights is None
    here, there = (s._replace(points=s.points.detach(), share=s.share.detach()) for s in (a, b))
    found = _op.transport(
        here, there, known & others, squared, rtol, atol, max_iterations, equal, return_plan
    )
    cost = _function.call(_Cost, c.x, c.y, a.share, b.share, *found[:5])
    plan = c.at_y(c.at_x(found.plan).transpose(1, 2)).transpose(1, 2) if return_plan else None
    f, g = c.at_x(found.f), c.at_y(found.g)

    def batched(t: Tensor) -> Tensor:
        return t[0] if c.single else t

    return Transport(
        batched(cost),
        batched(found.gap),
        batched(f),
        batched(g),
        batched(found.iterations),
        batched(found.converged),
        None if plan is None else batched(plan),
    )


def _check_goal(rtol: float, atol: float, max_iterations: int) -> None:
    for name, value in (("rtol", rtol), ("atol", atol)):
        if not 0 <= value < math.inf:
            raise ValueError(f"transport: {name} must be a number >= 0, got {value}")
    if max_iterations < 1:
        raise ValueError(f"transport: max_iterations must be at least 1, got {max_iterations}")


def _side(
    name: str, weights: Tensor | None, cloud: Tensor, lengths: Tensor | None, order: Order | None
) -> tuple[_op.Side, Tensor]:
    """Points with normalised weights, and bool [B]: length, points and weights can be judged."""
    weights = _checks.per_point("transport", name, weights, cloud, order)
    batch, most = cloud.shape[:2]
    size = torch.full((batch,), most, device=cloud.device) if lengths is None else lengths
    inside = torch.arange(most, device=cloud.device) < size.unsqueeze(1)
    known = (size >= 0) & (size <= most) & (cloud.isfinite().all(2) | ~inside).all(1)
    mass = inside.double() if weights is None else torch.where(inside, weights.double(), 0)
    known = known & ((mass >= 0) & (mass < math.inf)).all(1)
    mass = torch.where(known.unsqueeze(1), mass, 0)
    total = mass.sum(1, keepdim=True)
    # The padding stands in the place of the first point, once more and without weight.
    points = torch.where(inside.unsqueeze(2), cloud, cloud[:, :1])
    return _op.Side(points, mass / torch.where(total > 0, total, 1), inside), known


class _Cost(torch.autograd.Function):
    """The cost as a function of points and weights, with plan and potentials held fixed."""

    @staticmethod
    def forward(
        x: Tensor, y: Tensor, a: Tensor, b: Tensor,
        cost: Tensor, f: Tensor, g: Tensor, x_slope: Tensor, y_slope: Tensor,
    ) -> Tensor:  # fmt: skip
        return cost.to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        x, y, a, b, _, f, g, x_slope, y_slope = inputs
        ctx.save_for_backward(x, y, a, b, x_slope, y_slope, f, g)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *_function.call(_Slopes, grad, *ctx.saved_tensors), None, None, None, None, None


class _Slopes(torch.autograd.Function):
    """The gradients of the cost. They depend on points and weights in a way that is not known."""

    @staticmethod
    def forward(grad: Tensor, *saved: Tensor) -> tuple[Tensor, ...]:
        to, slopes = saved[:4], saved[4:]
        return tuple(
            # 0 times the gradient of an infinite cost is 0, too.
            torch.where(s == 0, 0, s * grad.double().view(-1, *[1] * (s.dim() - 1))).to(t.dtype)
            for t, s in zip(to, slopes, strict=True)
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, ...]:
        raise RuntimeError(
            "transport: it has no second derivative; emd has one, with the matching held fixed"
        )
