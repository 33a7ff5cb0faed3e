# SPDX-License-Identifier: MIT
"""Assignment: time, certified gap, true error where scipy can tell, one-to-one or not.

    pytest benchmarks/bench_assign.py --benchmark-only --benchmark-json=FILE
    python -m benchmarks.report FILE --plots FOLDER

Every matching is verified before it is timed. On a GPU the run takes about two
minutes, most of it for the optima of scipy; POINTLOSS_LARGE=1 adds one cloud of 65536
points, which takes minutes more.
"""

import functools
import os

import pytest
import torch

from benchmarks import baselines, harness
from pointloss import assign, reference
from tests.clouds import blob, duplicates, make, noisy, ring, surface, uniform

pytestmark = pytest.mark.benchmark(timer=harness.timer)

ON_GPU = torch.cuda.is_available()
TYPICAL = [surface, noisy, blob]
RTOLS = [1e-2, 1e-3, 1e-5]
# The CPU shares its two cores among eight clouds, a GPU fills its multiprocessors with more.
BATCH = 32 if ON_GPU else 8
CASES = [(kind, BATCH, 2048, rtol) for kind in [*TYPICAL, uniform, duplicates] for rtol in RTOLS]
CASES += [(ring, BATCH, 2048, 1e-2)]
SIZES = [(64, 1024), (32, 4096), (8, 8192), (1, 16384)] if ON_GPU else [(8, 1024)]
if os.environ.get("POINTLOSS_LARGE"):
    SIZES.append((1, 65536))
CASES += [(kind, batch, points, 1e-2) for batch, points in SIZES for kind in TYPICAL]
# The smaller cloud and the larger: one point more, one in a hundred, and predictions in a scan.
UNEQUAL = [(1024, 2048)]
if ON_GPU:
    UNEQUAL += [(2048, 2049), (2028, 2048), (2048, 3072), (2048, 16384)]


@functools.cache
def optimum(kind, batch, points):
    """scipy's optimum for the first cloud of a batch, found once."""
    x, y = make(kind, batch, points, points, device=harness.device())
    return reference.optimal_cost(x[:1], y[:1])[0]


def verified(x, y, rtol, best=None, **options):
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
    if best is not None:
        error = (cost[0] - best) / cost[0].clamp_min(1e-300)
        assert error <= found.gap[0].cpu() + 1e-12
        facts["true_error"] = float(error)
    return found, facts


def record(benchmark, method, kind, x, rtol, facts, seconds, larger=""):
    benchmark.extra_info.update(
        op="assign", method=method, kind=kind.__name__ + larger, batch=x.shape[0],
        points=x.shape[1], rtol=rtol, us_a_round=1e6 * seconds / max(1, facts["rounds_max"]),
        **facts,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "batch", "points", "rtol"),
    CASES,
    ids=[f"{k.__name__}-{b}x{n}-{r:g}" for k, b, n, r in CASES],
)
def test_cold(benchmark, kind, batch, points, rtol):
    x, y = make(kind, batch, points, points, device=harness.device())
    best = optimum(kind, batch, points) if points <= 2048 else None
    _, facts = verified(x, y, rtol, best)
    rounds, warmup = (5, 1) if ON_GPU and points < 16384 else (2, 0)
    seconds = harness.measure(
        benchmark, lambda: assign(x, y, rtol=rtol), rounds=rounds, warmup=warmup
    )
    record(benchmark, "pointloss", kind, x, rtol, facts, seconds)


@pytest.mark.parametrize(("points", "objects"), UNEQUAL, ids=[f"{n}in{m}" for n, m in UNEQUAL])
@pytest.mark.parametrize("batch", [1, BATCH])
@pytest.mark.parametrize("kind", TYPICAL, ids=lambda k: k.__name__)
def test_unequal(benchmark, kind, batch, points, objects):
    """Every point of the smaller cloud finds its own partner in the larger."""
    x, y = make(kind, batch, points, objects, device=harness.device())
    best = reference.optimal_cost(x[:1], y[:1])[0] if batch == 1 and objects <= 3072 else None
    _, facts = verified(x, y, 1e-2, best)
    seconds = harness.measure(benchmark, lambda: assign(x, y), rounds=3 if ON_GPU else 1, warmup=1)
    record(benchmark, "pointloss", kind, x, 1e-2, facts, seconds, larger=f" in {objects}")


@pytest.mark.skipif(not ON_GPU, reason="the CPU is always deterministic")
@pytest.mark.parametrize("kind", TYPICAL, ids=lambda k: k.__name__)
def test_deterministic(benchmark, kind):
    """The same bits every time, as under torch.use_deterministic_algorithms."""
    x, y = make(kind, BATCH, 2048, 2048, device=harness.device())
    torch.use_deterministic_algorithms(True)
    try:
        first, facts = verified(x, y, 1e-2, optimum(kind, BATCH, 2048))
        assert torch.equal(first.idx, assign(x, y).idx)
        seconds = harness.measure(benchmark, lambda: assign(x, y), rounds=5)
    finally:
        torch.use_deterministic_algorithms(False)
    record(benchmark, "pointloss deterministic", kind, x, 1e-2, facts, seconds)


@pytest.mark.parametrize("kind", TYPICAL, ids=lambda k: k.__name__)
def test_warm(benchmark, kind):
    """The fourth step of a training: x goes a tenth of the way to its match a step, plus noise."""
    x, y = make(kind, BATCH, 2048, 2048, device=harness.device())
    last = assign(x, y, rtol=1e-3)
    for _ in range(4):
        target = y.gather(1, last.idx.unsqueeze(-1).expand_as(x))
        x = 0.9 * x + 0.1 * target + 0.002 * torch.randn_like(x)
        price = last.price
        last, facts = verified(x, y, 1e-3, price=price)
    seconds = harness.measure(benchmark, lambda: assign(x, y, rtol=1e-3, price=price), rounds=10)
    record(benchmark, "pointloss warm", kind, x, 1e-3, facts, seconds)


@pytest.mark.skipif(ON_GPU, reason="recorded on a machine without a GPU: minutes of one core")
@pytest.mark.parametrize("rtol", RTOLS, ids=str)
@pytest.mark.parametrize("kind", TYPICAL, ids=lambda k: k.__name__)
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
