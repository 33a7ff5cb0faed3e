# SPDX-License-Identifier: MIT
"""Assignment, of clouds and by costs: time, certified gap, true error where scipy can tell,
one-to-one or not.

    pytest -rs benchmarks/bench_assign.py --benchmark-only --benchmark-json=FILE
    python -m benchmarks.report FILE --plots FOLDER

Every matching that is timed is verified. A size whose solves will take more than POINTLOSS_LIMIT
seconds (20 unless set; judged by those before) is skipped, and -rs says so.
"""

import pytest
import torch

from benchmarks import baselines, harness, matching
from pointloss import assign
from pointloss.testing.clouds import approach, blob, duplicates, make, noisy, ring, surface, uniform

pytestmark = pytest.mark.benchmark(timer=harness.timer)

ON_GPU = torch.cuda.is_available()
TYPICAL = [surface, noisy, blob]
RTOLS = [1e-2, 1e-3, 1e-5]
# The CPU shares its two cores among eight clouds, a GPU fills its multiprocessors with more.
BATCH = 32 if ON_GPU else 8
CASES = [(kind, BATCH, 2048, rtol) for kind in [*TYPICAL, uniform, duplicates] for rtol in RTOLS]
CASES += [(ring, BATCH, 2048, 1e-2)]
SIZES = [(64, 1024), (32, 4096), (8, 8192), (1, 16384), (1, 65536), (1, 131072)]
CASES += [(kind, batch, points, 1e-2) for batch, points in SIZES for kind in TYPICAL]
# The smaller cloud and the larger: one point more, one in a hundred, and predictions in a scan.
UNEQUAL = [(1024, 2048), (2048, 2049), (2028, 2048), (2048, 3072), (2048, 16384)]
PEERS, COST_PEERS = baselines.assign_peers(), baselines.cost_peers()
COSTS = [(1, 1024), (1, 2048), (32, 512)]  # batch, rows and columns


def record(benchmark, method, kind, x, y, rtol, told):
    n, m = x.shape[1], y.shape[1]
    benchmark.extra_info.update(
        op="assign", method=method, kind=kind.__name__ + (f" in {m}" if m != n else ""),
        batch=x.shape[0], points=n, objects=m, rtol=rtol, **told,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "batch", "points", "rtol"),
    CASES,
    ids=[f"{k.__name__}-{b}x{n}-{r:g}" for k, b, n, r in CASES],
)
def test_cold(benchmark, kind, batch, points, rtol):
    matching.skip_if_slow(kind, batch, points)
    x, y = matching.clouds(kind, batch, points, points)
    warmup = 0 if matching.expected_seconds(kind, batch, points) > 2 else 2
    seconds, found = harness.measure(
        benchmark, lambda: assign(x, y, rtol=rtol), rounds=5 if warmup else 1, warmup=warmup
    )
    matching.remember(kind, batch, points, seconds)
    best = matching.optimum(kind, batch, points, points)
    record(benchmark, "pointloss", kind, x, y, rtol, matching.facts(x, y, found, best, seconds))


@pytest.mark.parametrize(("points", "objects"), UNEQUAL, ids=[f"{n}in{m}" for n, m in UNEQUAL])
@pytest.mark.parametrize("batch", [1, BATCH])
@pytest.mark.parametrize("kind", TYPICAL, ids=lambda k: k.__name__)
def test_unequal(benchmark, kind, batch, points, objects):
    """Every point of the smaller cloud finds its own partner in the larger."""
    x, y = matching.clouds(kind, batch, points, objects)
    seconds, found = harness.measure(benchmark, lambda: assign(x, y), rounds=3, warmup=1)
    best = matching.optimum(kind, batch, points, objects) if batch == 1 else None
    record(benchmark, "pointloss", kind, x, y, 1e-2, matching.facts(x, y, found, best, seconds))


@pytest.mark.skipif(not ON_GPU, reason="the CPU is always deterministic")
@pytest.mark.parametrize("kind", TYPICAL, ids=lambda k: k.__name__)
def test_deterministic(benchmark, kind):
    """The same bits every time, as under torch.use_deterministic_algorithms."""
    x, y = matching.clouds(kind, BATCH, 2048, 2048)
    torch.use_deterministic_algorithms(True)
    try:
        first = assign(x, y)
        seconds, found = harness.measure(benchmark, lambda: assign(x, y), rounds=5)
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(first.idx, found.idx)
    told = matching.facts(x, y, found, matching.optimum(kind, BATCH, 2048, 2048), seconds)
    record(benchmark, "pointloss deterministic", kind, x, y, 1e-2, told)


@pytest.mark.parametrize("given", [["price"], ["price", "idx"]], ids="+".join)
@pytest.mark.parametrize("kind", TYPICAL, ids=lambda k: k.__name__)
def test_warm(benchmark, kind, given):
    """The fourth step of a training: x goes a tenth of the way to its match a step, plus noise."""
    x, y = matching.clouds(kind, BATCH, 2048, 2048)
    last = assign(x, y, rtol=1e-3)
    for _ in range(4):
        x = approach(x, y, last.idx) + 0.002 * torch.randn_like(x)
        start = {name: getattr(last, name) for name in given}
        last = assign(x, y, rtol=1e-3, **start)
    seconds, found = harness.measure(benchmark, lambda: assign(x, y, rtol=1e-3, **start), rounds=10)
    told = matching.facts(x, y, found, baselines.scipy_optimum(x[0], y[0]), seconds)
    method = "pointloss warm" if "idx" not in given else "pointloss warm, matching"
    record(benchmark, method, kind, x, y, 1e-3, told)


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("kind", TYPICAL, ids=lambda k: k.__name__)
def test_peer(benchmark, name, kind):
    """What peers return is measured as it is, not always one-to-one; our bound judges it.

    A cost below the bound (a negative gap) proves that what was returned is no matching.
    """
    x, y = matching.clouds(kind, BATCH, 2048, 2048)
    seconds, idx = harness.measure(benchmark, lambda: PEERS[name](x, y), rounds=3, warmup=1)
    partner = y[0, idx[0].long().clamp_min(0)]
    cost = (x[0].double() - partner.double()).norm(dim=1).mean().cpu()
    ours = assign(x[0], y[0], rtol=1e-5)
    bound = (ours.cost * (1 - ours.gap)).cpu()
    told = {
        "one_to_one": all(len(row.unique()) == len(row) and bool((row >= 0).all()) for row in idx),
        "true_error": float((cost - matching.optimum(kind, BATCH, 2048, 2048)) / cost),
        "gap_to_our_bound": float((cost - bound) / cost),
    }
    record(benchmark, name, kind, x, y, RTOLS[0], told)


every_cost = pytest.mark.parametrize(("batch", "rows"), COSTS, ids=[f"{b}x{n}" for b, n in COSTS])


def record_costs(benchmark, method, cost, rtol, told):
    benchmark.extra_info.update(
        op="assign", method=method, kind="uniform costs", batch=len(cost), points=cost.shape[1],
        rtol=rtol, **told,
    )  # fmt: skip


@every_cost
@pytest.mark.parametrize("rtol", [RTOLS[0], RTOLS[-1]], ids="{:g}".format)
def test_costs(benchmark, batch, rows, rtol):
    """A matrix of costs drawn from 0 to 1."""
    cost = torch.rand(batch, rows, rows, device=harness.device())
    seconds, found = harness.measure(benchmark, lambda: assign(cost=cost, rtol=rtol), rounds=5)
    record_costs(benchmark, "pointloss", cost, rtol, matching.cost_facts(cost, found, seconds))


@every_cost
@pytest.mark.parametrize("name", COST_PEERS)
def test_cost_peer(benchmark, name, batch, rows):
    """The same costs, which all of these solve exactly, on the CPU."""
    cost = torch.rand(batch, rows, rows)
    _, idx = harness.measure(benchmark, lambda: COST_PEERS[name](cost), rounds=1, warmup=0)
    told = {"one_to_one": all(len(row.unique()) == rows for row in idx)}
    record_costs(benchmark, name, cost, RTOLS[0], told)


@pytest.mark.skipif(ON_GPU, reason="recorded on a machine without a GPU: minutes of one core")
@pytest.mark.parametrize("rtol", RTOLS, ids=str)
@pytest.mark.parametrize("kind", TYPICAL, ids=lambda k: k.__name__)
def test_scipy(benchmark, kind, rtol):
    """scipy with its distance matrix and pointloss, both on the CPU, in turns; 8 x 2048."""
    x, y = make(kind, 8, 2048, 2048)
    found = assign(x, y, rtol=rtol)
    matching.facts(x, y, found, baselines.scipy_optimum(x[0], y[0]), seconds=0)
    ours_s, theirs_s = harness.paired_cpu_seconds(
        lambda: assign(x, y, rtol=rtol), lambda: baselines.scipy_assignment(x, y), rounds=1
    )
    benchmark.pedantic(lambda: None, rounds=1)
    benchmark.extra_info.update(
        op="assign", method="scipy", kind=kind.__name__, batch=8, points=2048, rtol=rtol,
        pointloss_cpu_seconds=ours_s, scipy_seconds=theirs_s,
    )  # fmt: skip
