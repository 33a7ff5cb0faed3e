# SPDX-License-Identifier: MIT
"""Assignment: time, certified gap, true error where scipy can tell, one-to-one or not.

pytest benchmarks/bench_assign.py --benchmark-only --benchmark-json=FILE
python -m benchmarks.report FILE
"""

import pytest
import torch

from benchmarks import baselines, harness
from pointloss import assign, reference
from tests.clouds import blob, duplicates, line, make, noisy, ring, surface, uniform

pytestmark = pytest.mark.benchmark(timer=harness.timer)

ON_GPU = torch.cuda.is_available()
KINDS = [surface, noisy, blob, uniform, duplicates, ring, line]
# The CPU shares its two cores among eight clouds, a GPU fills its multiprocessors with more.
SIZES = [(64, 1024), (32, 2048), (32, 4096), (8, 8192)] if ON_GPU else [(8, 1024), (8, 2048)]
RTOLS = [1e-2, 1e-3, 1e-5]


def verified(x, y, rtol, **options):
    """An assignment that is one-to-one, with its certificate and its true error if affordable."""
    found = assign(x, y, rtol=rtol, **options)
    cost = reference.matching_cost(x, y, found.idx)  # raises unless it is one-to-one
    torch.testing.assert_close(found.cost.cpu(), cost, rtol=1e-9, atol=0)
    facts = {
        "certified_gap": float(found.gap.max()),
        "converged": bool(found.converged.all()),
        "one_to_one": True,
        "rounds_mean": float(found.rounds.double().mean()),
        "rounds_max": int(found.rounds.max()),
    }
    if x.shape[1] <= 2048:
        optimum = reference.optimal_cost(x[:2], y[:2])
        error = (cost[:2] - optimum) / cost[:2].clamp_min(1e-300)
        assert (error <= found.gap[:2].cpu() + 1e-12).all()
        facts["true_error"] = float(error.max())
    return found, facts


@pytest.mark.parametrize("rtol", RTOLS, ids=str)
@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
@pytest.mark.parametrize(("batch", "points"), SIZES, ids=lambda v: str(v))
def test_cold(benchmark, kind, batch, points, rtol):
    x, y = make(kind, batch, points, points, device=harness.device())
    _, facts = verified(x, y, rtol)
    harness.measure(benchmark, lambda: assign(x, y, rtol=rtol), rounds=5 if ON_GPU else 2)
    benchmark.extra_info.update(
        op="assign", method="pointloss", kind=kind.__name__, batch=batch, points=points, rtol=rtol,
        **facts,
    )  # fmt: skip


@pytest.mark.parametrize("kind", [surface, noisy, blob], ids=lambda k: k.__name__)
def test_warm(benchmark, kind):
    """One step of a training: x goes a tenth of the way to its match, plus noise."""
    batch, points = (32 if ON_GPU else 8), 2048
    x, y = make(kind, batch, points, points, device=harness.device())
    last = assign(x, y, rtol=1e-3)
    target = y.gather(1, last.idx.unsqueeze(-1).expand_as(x))
    moved = 0.9 * x + 0.1 * target + 0.002 * torch.randn_like(x)
    _, facts = verified(moved, y, 1e-3, price=last.price)
    harness.measure(benchmark, lambda: assign(moved, y, rtol=1e-3, price=last.price), rounds=10)
    benchmark.extra_info.update(
        op="assign", method="pointloss warm", kind=kind.__name__, batch=batch, points=points,
        rtol=1e-3, **facts,
    )  # fmt: skip


@pytest.mark.parametrize("rtol", RTOLS, ids=str)
@pytest.mark.parametrize("kind", [surface, noisy, blob], ids=lambda k: k.__name__)
def test_scipy(benchmark, kind, rtol):
    """scipy with its distance matrix and pointloss, both on the CPU, in turns; 8 x 2048."""
    x, y = make(kind, 8, 2048, 2048)
    verified(x, y, rtol)
    ours_s, theirs_s = harness.paired_cpu_seconds(
        lambda: assign(x, y, rtol=rtol), lambda: baselines.scipy_assignment(x, y), rounds=1
    )
    benchmark.pedantic(lambda: None, rounds=1)
    benchmark.extra_info.update(
        op="assign", method="scipy", kind=kind.__name__, batch=8, points=2048, rtol=rtol,
        pointloss_cpu_seconds=ours_s, scipy_seconds=theirs_s,
    )  # fmt: skip
