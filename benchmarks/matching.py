# SPDX-License-Identifier: MIT
"""What bench_assign and bench_emd share: clouds, optima, certificates, solves that are too slow."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import baselines, harness
from pointloss import Assignment, reference
from pointloss.testing.clouds import make

# A solve that will take more seconds than this is skipped.
LIMIT_S = float(os.environ.get("POINTLOSS_LIMIT", "20"))
# scipy's matrix of 8192 x 8192 takes seconds and 1 GB, that of 16384 x 16384 half a minute.
MOST_FOR_SCIPY = 8192
_solved: dict[tuple[str, int, int], float] = {}  # (kind, batch, points): seconds


@functools.lru_cache(maxsize=1)
def clouds(
    kind: Callable[..., Any], batch: int, points: int, objects: int
) -> tuple[Tensor, Tensor]:
    """Made once for the tests that follow each other with the same."""
    return make(kind, batch, points, objects, device=harness.device())


@functools.cache
def optimum(kind: Callable[..., Any], batch: int, points: int, objects: int) -> Tensor | None:
    """scipy's optimum for the first cloud of a batch, found once; None where it takes too long."""
    if max(points, objects) > MOST_FOR_SCIPY:
        return None
    x, y = clouds(kind, batch, points, objects)
    return baselines.scipy_optimum(x[0], y[0])


def facts(
    x: Tensor, y: Tensor, found: Assignment, best: Tensor | None, seconds: float
) -> dict[str, Any]:
    """What a verified matching is worth: one-to-one, its certificate, its true error if known."""
    cost = reference.matching_cost(x, y, found.idx)  # raises unless it is one-to-one
    torch.testing.assert_close(found.cost.cpu(), cost, rtol=1e-9, atol=0)
    return _told(found, best, seconds)


def cost_facts(cost: Tensor, found: Assignment, seconds: float) -> dict[str, Any]:
    """Likewise of a matching by square matrices of costs."""
    mean = cost.double().gather(2, found.idx.unsqueeze(2)).mean((1, 2))
    assert all(len(row.unique()) == len(row) for row in found.idx)
    torch.testing.assert_close(found.cost, mean, rtol=1e-9, atol=0)
    return _told(found, reference.least_cost(cost[:1])[0], seconds)


def _told(found: Assignment, best: Tensor | None, seconds: float) -> dict[str, Any]:
    rounds = int(found.rounds.max())
    told = {
        "certified_gap": float(found.gap.max()),
        "converged": bool(found.converged.all()),
        "one_to_one": True,
        "rounds_mean": float(found.rounds.double().mean()),
        "rounds_max": rounds,
        "us_a_round": 1e6 * seconds / max(1, rounds),
    }
    if best is not None:
        cost = found.cost[0].cpu()
        error = (cost - best) / cost.clamp_min(1e-300)
        assert -1e-12 <= error <= found.gap[0].cpu() + 1e-12
        told["true_error"] = float(error)
    return told


def expected_seconds(kind: Callable[..., Any], batch: int, points: int) -> float:
    """How long a solve will take, by those before: of this size, or of its kind and smaller."""

    def work(b: int, n: int) -> int:  # a GPU solves a whole batch at once
        return n**2 if torch.cuda.is_available() else b * n**2

    same = [s for (_, b, n), s in _solved.items() if (b, n) == (batch, points)]
    smaller = [
        s * work(batch, points) / work(b, n)
        for (k, b, n), s in _solved.items()
        if k == kind.__name__ and n < points
    ]
    return max(same + smaller[-1:], default=0.0)


def skip_if_slow(kind: Callable[..., Any], batch: int, points: int) -> None:
    """Skip the test where a solve will take more than LIMIT_S."""
    seconds = expected_seconds(kind, batch, points)
    if seconds > LIMIT_S:
        pytest.skip(f"some {seconds:.0f} s a solve, more than POINTLOSS_LIMIT = {LIMIT_S:g}")


def remember(kind: Callable[..., Any], batch: int, points: int, seconds: float) -> None:
    """How long a solve took, for those that come."""
    _solved[kind.__name__, batch, points] = seconds
