# SPDX-License-Identifier: MIT
"""The public emd: forward alone, and a training step's forward and backward to both inputs.

    pytest benchmarks/bench_emd.py --benchmark-only --benchmark-json=FILE
    python -m benchmarks.report FILE --plots FOLDER

Verified: a matching of the same clouds, one-to-one, with its certificate and its true error as in
bench_assign; the value against scipy's optimum; of what was timed the value, or that both gradients
are those of a matching. "pointloss" is what a user's step takes on an idle GPU, Python included;
"graph" replays one captured CUDA graph; "warm" is the EMDLoss module that keeps prices from step to
step. Beyond 16384 points a step is its assignment, which bench_assign times.
"""

import pytest
import torch

from benchmarks import harness, matching
from pointloss import EMDLoss, assign, emd
from pointloss.testing.clouds import blob, noisy, surface
from pointloss.testing.streams import capture

pytestmark = pytest.mark.benchmark(timer=harness.timer)

ON_GPU = torch.cuda.is_available()
BATCH = 32 if ON_GPU else 8
RTOL = 1e-2
MODES = ["forward", "eager", "warm"] + (["graph"] if ON_GPU else [])
CASES = [
    (kind, BATCH, points, points, mode)
    for points in (1024, 2048)
    for kind in (surface, noisy, blob)
    for mode in MODES
]
LARGE = [(BATCH, 2048, 16384), (BATCH, 4096, 4096), (8, 8192, 8192), (1, 16384, 16384)]
CASES += [(surface, *size, mode) for size in LARGE for mode in ("forward", "eager")]


def verify_value(x, y, optimum):
    """The first cloud's value is within rtol of the optimum."""
    value = emd(x[:1], y[:1], rtol=RTOL).item()
    assert optimum * (1 - 1e-5) <= value <= optimum / (1 - RTOL) * (1 + 1e-5)


def verify_gradients(x, y):
    """Unit vectors, each 1 / (B N) long, where pairs do not coincide; opposite in x and y."""
    pairs = len(x) * min(x.shape[1], y.shape[1])
    for points in (x, y):
        length = pairs * points.grad.norm(dim=-1)
        assert ((length - 1).abs().minimum(length) < 1e-4).all()
    torch.testing.assert_close(x.grad.sum(1), -y.grad.sum(1), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "batch", "points", "objects", "mode"),
    CASES,
    ids=[f"{k.__name__}-{b}x{n}in{m}-{mode}" for k, b, n, m, mode in CASES],
)
def test_emd(benchmark, kind, batch, points, objects, mode):
    x, y = (p.clone() for p in matching.clouds(kind, batch, points, objects))
    optimum = matching.optimum(kind, batch, points, objects)
    if optimum is not None:
        verify_value(x, y, optimum)
    x.requires_grad_(), y.requires_grad_()
    start = {}

    def cold(a, b):
        return emd(a, b, rtol=RTOL)

    if mode == "forward":
        call = torch.no_grad()(lambda: cold(x, y))
    elif mode == "warm":
        ids = torch.arange(batch, device=x.device)
        loss = EMDLoss(rtol=RTOL, price_cache=(batch, points)).to(x.device)
        call = harness.training_step(lambda a, b: loss(a, b, ids), x, y)
        call()
        start = {"price": loss.price_cache.clone(), "idx": loss.idx_cache.clone()}
    else:
        call = harness.training_step(cold, x, y)
    if mode == "graph":
        _, call = capture(call)
    seconds, value = harness.measure(benchmark, call, rounds=5, warmup=2, eager=mode != "graph")
    found = assign(x, y, rtol=RTOL, **start)
    if mode == "forward":  # both within rtol of the optimum
        assert abs(value.item() / found.cost.mean().item() - 1) <= 1.1 * RTOL
    else:
        verify_gradients(x, y)
    benchmark.extra_info.update(
        op="emd", method="pointloss" if mode == "eager" else f"pointloss, {mode}",
        kind=kind.__name__ + (f" in {objects}" if objects != points else ""), batch=batch,
        points=points, objects=objects, rtol=RTOL,
        **matching.facts(x.detach(), y.detach(), found, optimum, seconds),
    )  # fmt: skip
