# SPDX-License-Identifier: MIT
"""Balanced transport by Sinkhorn's iterations, with a feasible plan and a bound from the dual.

All clouds here are float64 with coordinates of about 1; weights sum to 1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

STEPS = 20  # iterations between two looks at the error, each of which waits for the GPU
MOST_STEPS = 100
EPS_LEFT = 0.25  # the least factor from one eps to the next
ERROR_PER_GAP = 0.05  # marginal error at which an eps is done, as a share of the gap
# float32 resolves the exponents of the kernel down to this eps, and errors down to this gap.
FLOAT32_EPS, FLOAT32_GAP = 2e-5, 2e-4
ROUNDING_LEVELS = (1, 8, 64)  # eps, in units of the last, of the plans that make one feasible
TINY, HUGE = 1e-30, 1e30


class Problem(NamedTuple):
    """Clouds whose distances are costs, and their weights."""

    cost: Tensor  # float64 [B, N, M]
    a: Tensor  # float64 [B, N]
    b: Tensor  # float64 [B, M]

    def of(self, rows: Tensor) -> Problem:
        """Some clouds of the batch."""
        return Problem(*(t[rows] for t in self))

    def rounding(self) -> Tensor:
        """A bound [B] on the rounding of every sum over costs here, in any sequence of adding."""
        terms = self.cost.shape[1] + self.cost.shape[2] + 64
        return 4 * terms * 2**-53 * self.cost.amax((1, 2))


class Solution(NamedTuple):
    """A feasible plan and feasible potentials."""

    plan: Tensor  # float64 [B, N, M]
    f: Tensor  # float64 [B, N]
    g: Tensor  # float64 [B, M]
    cost: Tensor  # float64 [B], of the plan
    bound: Tensor  # float64 [B], at most the least cost
    converged: Tensor  # bool [B]


class Goal(NamedTuple):
    """How near cost and bound must come."""

    rtol: float
    atol: Tensor  # float64 [B]

    def slack(self, cost: Tensor, rounding: Tensor) -> Tensor:
        """The difference that is allowed; float64 certifies none below a few of its roundings."""
        return (self.rtol * cost).maximum(self.atol).maximum(4 * rounding)

    def of(self, rows: Tensor) -> Goal:
        """That of some clouds of the batch."""
        return Goal(self.rtol, self.atol[rows])


def distances(x: Tensor, y: Tensor, squared: bool) -> Tensor:
    """The costs [B, N, M], by direct difference."""
    cost = x.new_zeros(x.shape[0], x.shape[1], y.shape[1])
    for d in range(x.shape[2]):
        diff = x[:, :, d].unsqueeze(2) - y[:, :, d].unsqueeze(1)
        cost.addcmul_(diff, diff)
    return cost if squared else cost.sqrt_()


def potentials(cost: Tensor, f: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """Feasible potentials, f_i + g_j <= c_ij, from any f: the best g for it, then the best f.

    A point without weight takes part in no bound, and its own potential is the largest feasible.
    """
    f = torch.where(a > 0, f, -torch.inf)
    g = (cost - f.unsqueeze(2)).amin(1)
    return (cost - g.unsqueeze(1)).amin(2), g


def certify(p: Problem, plan: Tensor, f: Tensor, goal: Goal) -> Solution:
    """What a feasible plan costs, and the bound from the potentials f."""
    f, g = potentials(p.cost, f, p.a)
    rounding = p.rounding()
    cost = (plan * p.cost).sum((1, 2))
    bound = ((f * p.a).sum(1) + (g * p.b).sum(1) - rounding).clamp_min(0)
    return Solution(plan, f, g, cost, bound, cost - bound <= goal.slack(cost, rounding))


def feasible(exponent: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """A plan with the marginals a and b near a b exp(exponent).

    Algorithm 2 of Altschuler, Weed and Rigollet 2017 scales rows and columns down to their
    marginals and spreads the mass that is missing over all pairs. Here it is sent by the same
    kernel at higher temperatures first, which keeps it near.
    """
    plan = torch.zeros_like(exponent)
    for level in ROUNDING_LEVELS:
        part = (exponent / level).clamp_max_(80).exp_()
        part.mul_(a.unsqueeze(2)).mul_(b.unsqueeze(1))
        rows = a / part.sum(2).clamp_min(TINY**8)
        part.mul_((rows.clamp_max(1) if level == 1 else rows).unsqueeze(2))
        part.mul_((b / part.sum(1).clamp_min(TINY**8)).clamp_max(1).unsqueeze(1))
        a, b = (a - part.sum(2)).clamp_min(0), (b - part.sum(1)).clamp_min(0)
        plan += part
    share = b / b.sum(1, keepdim=True).clamp_min(TINY**8)
    return plan.addcmul_(a.unsqueeze(2), share.unsqueeze(1))


class _Potentials:
    """The state of the clouds that are not done yet."""

    def __init__(self, p: Problem, goal: Goal) -> None:
        self.p, self.goal = p, goal
        self.coarse = p.cost.float()
        self.f, self.g = torch.zeros_like(p.a), torch.zeros_like(p.b)
        self.eps = p.cost.amax((1, 2)).clamp_min(TINY) / 4
        self.gap = torch.ones_like(self.eps)  # as estimated at the last eps
        self.rounds = torch.zeros_like(self.eps)  # at this eps

    def keep(self, rows: Tensor) -> None:
        """Drop all clouds but these."""
        self.p, self.goal = self.p.of(rows), self.goal.of(rows)
        for name in ("coarse", "f", "g", "eps", "gap", "rounds"):
            setattr(self, name, getattr(self, name)[rows])

    def exponent(self, cost: Tensor) -> Tensor:
        """(f_i + g_j - c_ij) / eps, in the dtype of the cost."""
        f, g, eps = (t.to(cost.dtype) for t in (self.f, self.g, self.eps))
        return (f.unsqueeze(2) + g.unsqueeze(1)).sub_(cost).div_(eps.view(-1, 1, 1))

    def iterate(self, steps: int) -> tuple[Tensor, Tensor, Tensor]:
        """Over-relaxed iterations at each cloud's eps.

        The relaxation grows from round to round (Thibault, Chizat, Dossal and Papadakis 2021); the
        steps around are plain, for a round to begin and to end near the constraints.

        Returns:
            Of each cloud the marginal error (a sum of absolute differences), the cost of the plan,
            which is not feasible by that error, and the bound from the potentials.
        """
        fine = (self.eps.min() < FLOAT32_EPS) | (self.gap.min() < FLOAT32_GAP)
        cost = self.p.cost if fine else self.coarse
        a, b = (t.to(cost.dtype).unsqueeze(2) for t in (self.p.a, self.p.b))
        kernel = self.exponent(cost).clamp_(-80, 80).exp_()
        back = kernel.transpose(1, 2)
        u, v = torch.ones_like(a), torch.ones_like(b)
        relaxed = (2 - 0.1 / (1 + self.rounds)).to(cost.dtype).view(-1, 1, 1)
        for step in range(steps):
            power = relaxed if 2 <= step < steps - 1 else torch.ones_like(relaxed)
            u *= ((kernel @ (b * v)).clamp_(TINY, HUGE).reciprocal_() / u) ** power
            v *= ((back @ (a * u)).clamp_(TINY, HUGE).reciprocal_() / v) ** power
            u.clamp_(TINY, HUGE)
            v.clamp_(TINY, HUGE)
        error = (a * (u * (kernel @ (b * v)) - 1).abs()).sum((1, 2)).double()
        value = ((a * u) * (kernel.mul_(cost) @ (b * v))).sum((1, 2)).double()
        self.f += self.eps.unsqueeze(1) * u.squeeze(2).double().log()
        self.g += self.eps.unsqueeze(1) * v.squeeze(2).double().log()
        self.rounds += 1
        f, g = potentials(cost, self.f.to(cost.dtype), self.p.a)
        bound = (f * self.p.a).sum(1) + (g * self.p.b).sum(1)
        return error, value, bound

    def cool(self, settled: Tensor, gap: Tensor) -> None:
        """Give the clouds that have settled a smaller eps."""
        gap = gap.clamp(1e-10, 1)
        factor = (0.5 * self.goal.rtol / gap).clamp(EPS_LEFT, 0.7)
        self.gap = torch.where(settled, gap, self.gap)
        self.eps = torch.where(settled, (self.eps * factor).clamp_min(1e-14), self.eps)
        self.rounds = torch.where(settled, 0, self.rounds)


def sinkhorn(p: Problem, goal: Goal, max_iterations: int) -> tuple[Solution, Tensor]:
    """Solve to the goal, or as far as max_iterations goes.

    Sinkhorn's iterations (Cuturi 2013) on a kernel that is rebuilt from the potentials every few
    steps (Schmitzer 2019), at a falling eps. Each eps is left as soon as the marginal error is
    small against the gap; a plan that looks good enough is made feasible and certified in float64.

    Returns:
        The solution, and its iterations int64 [B].
    """
    left = torch.arange(len(p.cost), device=p.cost.device)
    found = Solution(
        plan=torch.zeros_like(p.cost),
        f=torch.zeros_like(p.a),
        g=torch.zeros_like(p.b),
        cost=torch.zeros_like(goal.atol),
        bound=torch.zeros_like(goal.atol),
        converged=torch.zeros_like(left, dtype=torch.bool),
    )
    iterations, count = torch.zeros_like(left), 0
    state = _Potentials(p, goal)
    while len(left) > 0:
        steps = min(STEPS * (1 + int(state.rounds.min())), MOST_STEPS, max_iterations - count)
        error, value, bound = state.iterate(steps)
        count += steps
        last = count >= max_iterations
        settled = error <= (ERROR_PER_GAP * state.gap).clamp_min(1e-12)
        ready = (
            settled & (value - bound <= 0.9 * state.goal.slack(value, state.p.rounding())) | last
        )
        done = torch.zeros_like(ready)
        if ready.any():
            rows = ready.nonzero().squeeze(1)
            part = state.p.of(rows)
            plan = feasible(state.exponent(state.p.cost)[rows], part.a, part.b)
            solution = certify(part, plan, state.f[rows], state.goal.of(rows))
            good = solution.converged | last
            done[rows] = good
            for whole, solved in zip(found, solution, strict=True):
                whole[left[rows[good]]] = solved[good]
            iterations[left[rows[good]]] = count
            if good.any():
                keep = (~done).nonzero().squeeze(1)
                left, settled, value, bound = (t[keep] for t in (left, settled, value, bound))
                state.keep(keep)
        state.cool(settled, (value - bound) / value.clamp_min(TINY))
    return found, iterations
