# SPDX-License-Identifier: MIT
"""The op under `transport`: plans and potentials of a batch, without gradients.

It is an op because its loops wait for the device: torch.compile takes it as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pointloss.ops import _sinkhorn
from pointloss.ops.assign import assign

MOST_COPIES = 4  # replicas of a point for which `assign` is faster than Sinkhorn's iterations
# Pairs of points that are worked on at once, at about 70 bytes each.
PAIRS = {"cpu": 2**22, "cuda": 2**25}


class Found(NamedTuple):
    """What the solvers find; slopes are the derivatives of the cost."""

    cost: Tensor  # float64 [B], the certified upper bound
    f: Tensor  # float64 [B, N]
    g: Tensor  # float64 [B, M]
    x_slope: Tensor  # float64 [B, N, D]
    y_slope: Tensor  # float64 [B, M, D]
    gap: Tensor  # float64 [B]
    iterations: Tensor  # int64 [B]
    converged: Tensor  # bool [B]
    plan: Tensor  # like x, [B, N, M]; [B, 0, 0] if it was not asked for


class Side(NamedTuple):
    """The points of one side and their weights."""

    points: Tensor  # [B, N, D]; the padding holds the first point
    share: Tensor  # float64 [B, N], each row sums to 1, or is 0
    inside: Tensor  # bool [B, N], the points that are none of the padding


def transport(
    x: Side,
    y: Side,
    known: Tensor,
    squared: bool,
    rtol: float,
    atol: float,
    max_iterations: int,
    equal: bool,
    return_plan: bool,
) -> Found:
    """Transport of the clouds that are `known`, bool [B]; the others' cost is NaN.

    `equal` says that the points of a side have equal weights.
    """
    options = (squared, rtol, atol, max_iterations, equal, return_plan)
    return Found(*torch.ops.pointloss.transport(*x, *y, known, *options))


torch.library.define(
    "pointloss::transport",
    "(Tensor x, Tensor a, Tensor x_inside, Tensor y, Tensor b, Tensor y_inside, Tensor known, "
    "bool squared, float rtol, float atol, int max_iterations, bool equal, bool return_plan) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)


class _Task(NamedTuple):
    x: Side
    y: Side
    squared: bool
    goal: _sinkhorn.Goal
    max_iterations: int


@torch.library.impl("pointloss::transport", ("cpu", "cuda"))
@torch.no_grad()
def _transport(
    x: Tensor,
    a: Tensor,
    x_inside: Tensor,
    y: Tensor,
    b: Tensor,
    y_inside: Tensor,
    known: Tensor,
    squared: bool,
    rtol: float,
    atol: float,
    max_iterations: int,
    equal: bool,
    return_plan: bool,
) -> Found:
    if x.is_cuda and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "transport: it waits for the GPU, which a CUDA graph cannot; call it outside of the "
            "capture, or emd, which can be captured"
        )
    goal = _sinkhorn.Goal(rtol, torch.full_like(a[:, :0].sum(1), atol))
    task = _Task(Side(x, a, x_inside), Side(y, b, y_inside), squared, goal, max_iterations)
    some, other = (share.sum(1) > 0 for share in (a, b))
    alone = torch.where(some != other, torch.inf, goal.atol.new_zeros(()))
    found = _empty(x, a, y, b, known, return_plan)
    found = found._replace(
        cost=torch.where(known, alone, torch.nan),
        gap=torch.where(known, 0.0, torch.inf).to(torch.float64),
        converged=known.clone(),
    )
    rows = (known & some & other).nonzero().squeeze(1)
    at_once = max(PAIRS[x.device.type] // max(x.shape[1] * y.shape[1], 1), 1)
    for size, group in _groups(task, rows, equal):
        for part in group.split(at_once):
            _solve_rows(task, part, size, found)
    return found


def _transport_fake(
    x: Tensor,
    a: Tensor,
    _x_inside: Tensor,
    y: Tensor,
    b: Tensor,
    _y_inside: Tensor,
    known: Tensor,
    *options: Any,
) -> Found:
    return _empty(x, a, y, b, known, return_plan=options[-1])


torch.library.register_fake("pointloss::transport", _transport_fake)


def _empty(x: Tensor, a: Tensor, y: Tensor, b: Tensor, known: Tensor, return_plan: bool) -> Found:
    batch, n, m = x.shape[0], x.shape[1], y.shape[1]
    return Found(
        cost=a.new_zeros(batch),
        f=torch.zeros_like(a),
        g=torch.zeros_like(b),
        x_slope=torch.zeros_like(x, dtype=torch.float64),
        y_slope=torch.zeros_like(y, dtype=torch.float64),
        gap=a.new_zeros(batch),
        iterations=torch.zeros_like(known, dtype=torch.int64),
        converged=torch.zeros_like(known),
        plan=x.new_zeros((batch, n, m) if return_plan else (batch, 0, 0)),
    )


def _groups(t: _Task, rows: Tensor, equal: bool) -> Iterator[tuple[tuple[int, int] | None, Tensor]]:
    """The rows that `assign` solves, by their sizes; None has the rest."""
    if not equal:
        yield None, rows
        return
    sizes = torch.stack([t.x.inside.sum(1), t.y.inside.sum(1)], 1)[rows]
    for size in sizes.unique(dim=0):
        n, m = (int(s) for s in size)
        group = rows[(sizes == size).all(1)]
        yield (n, m) if math.lcm(n, m) <= MOST_COPIES * max(n, m) else None, group


def _solve_rows(
    t: _Task,
    rows: Tensor,
    size: tuple[int, int] | None,
    found: Found,
) -> None:
    """Solve these rows and write them into `found`."""
    x, y = t.x.points[rows].double(), t.y.points[rows].double()
    # A power of two divides without rounding.
    x, y = x - y[:, :1], y - y[:, :1]
    extent = x.abs().amax((1, 2)).maximum(y.abs().amax((1, 2)))
    scale = torch.exp2(torch.where(extent > 0, extent, 1).log2().ceil()).view(-1, 1, 1)
    x, y, unit = x / scale, y / scale, (scale.square() if t.squared else scale).view(-1, 1)
    p = _sinkhorn.Problem(_sinkhorn.distances(x, y, t.squared), t.x.share[rows], t.y.share[rows])
    goal = t.goal._replace(atol=t.goal.atol[rows] / unit.squeeze(1))
    if size is None:
        solution, iterations = _sinkhorn.sinkhorn(p, goal, t.max_iterations)
    else:
        solution, iterations = _by_copies(t, rows, size, p, unit, goal)
    weight = 2 * solution.plan if t.squared else solution.plan / p.cost
    weight = torch.where(p.cost > 0, weight, 0)  # a coincident pair pulls nowhere
    slope = scale if t.squared else 1
    found.x_slope[rows] = slope * (x * weight.sum(2, keepdim=True) - weight @ y)
    back = weight.transpose(1, 2)
    found.y_slope[rows] = slope * (y * back.sum(2, keepdim=True) - back @ x)
    found.f[rows] = torch.where(t.x.inside[rows], unit * solution.f, 0)
    found.g[rows] = torch.where(t.y.inside[rows], unit * solution.g, 0)
    found.cost[rows] = unit.squeeze(1) * solution.cost
    gap = (solution.cost - solution.bound) / solution.cost
    found.gap[rows] = torch.where(solution.cost > 0, gap, 0)
    found.iterations[rows] = iterations
    found.converged[rows] = solution.converged
    if found.plan.numel() > 0:
        found.plan[rows] = solution.plan.to(found.plan.dtype)


def _by_copies(
    t: _Task,
    rows: Tensor,
    size: tuple[int, int],
    p: _sinkhorn.Problem,
    unit: Tensor,
    goal: _sinkhorn.Goal,
) -> tuple[_sinkhorn.Solution, Tensor]:
    """Equal weights: so many copies of each point that both sides have the same number."""
    n, m = size
    atoms = math.lcm(n, m)
    x = t.x.points[rows, :n].repeat_interleave(atoms // n, 1)
    y = t.y.points[rows, :m].repeat_interleave(atoms // m, 1)
    match = assign(x, y, squared=t.squared, rtol=goal.rtol)
    batch, most_n, most_m = p.cost.shape
    i = torch.arange(atoms, device=rows.device) // (atoms // n)
    cloud = torch.arange(batch, device=rows.device).unsqueeze(1)
    pair = (cloud * most_n + i) * most_m + match.idx // (atoms // m)
    # Whole numbers, whose sum is the same in any sequence.
    plan = torch.zeros_like(p.cost).view(-1)
    plan.index_put_((pair.view(-1),), plan.new_ones(()), accumulate=True)
    price = match.price.view(batch, m, -1).amin(2) / unit
    f = (p.cost[:, :, :m] + price.unsqueeze(1)).amin(2)
    return _sinkhorn.certify(p, plan.view_as(p.cost) / atoms, f, goal), match.rounds
