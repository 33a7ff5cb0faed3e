# SPDX-License-Identifier: MIT
"""The public emd: forward alone, and a training step's forward and backward to both inputs.

    pytest benchmarks/bench_emd.py --benchmark-only --benchmark-json=FILE
    python -m benchmarks.report FILE --plots FOLDER

Verified before it is timed: the value against scipy's optimum, both gradients against those of the
matching in float64. "eager" is what a user's step takes on an idle GPU, Python included; "graph"
replays one captured CUDA graph; "warm" is the EMDLoss module that keeps prices from step to step.
"""

import pytest
import torch

from benchmarks import harness
from pointloss import EMDLoss, assign, emd, reference
from tests.clouds import blob, make, noisy, surface
from tests.streams import capture

pytestmark = pytest.mark.benchmark(timer=harness.timer)

ON_GPU = torch.cuda.is_available()
SIZES = [(32, 1024), (32, 2048)] if ON_GPU else [(8, 1024)]
MODES = ["forward", "eager", "warm"] + (["graph"] if ON_GPU else [])
RTOL = 1e-2


def verify(x, y):
    """The first cloud's value within rtol of the optimum; gradients are those of a matching."""
    a, b = (p[:1].detach().clone().requires_grad_() for p in (x, y))
    value = emd(a, b, rtol=RTOL)
    optimum = reference.optimal_cost(a.detach(), b.detach())[0]
    assert optimum * (1 - 1e-5) <= value.item() <= optimum / (1 - RTOL) * (1 + 1e-5)
    grad_a, grad_b = torch.autograd.grad(value, (a, b))
    points = a.shape[1]
    for grad in (grad_a, grad_b):  # unit vectors, each 1 / N long, where pairs do not coincide
        length = points * grad.norm(dim=-1)
        assert ((length - 1).abs().minimum(length) < 1e-4).all()
    torch.testing.assert_close(grad_a.sum(1), -grad_b.sum(1), rtol=1e-3, atol=1e-6)
    assert assign(a.detach(), b.detach(), rtol=RTOL).converged.all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", [surface, noisy, blob], ids=lambda k: k.__name__)
@pytest.mark.parametrize(("batch", "points"), SIZES, ids=lambda v: str(v))
def test_emd(benchmark, kind, batch, points, mode):
    x, y = make(kind, batch, points, points, device=harness.device())
    verify(x, y)
    x.requires_grad_(), y.requires_grad_()

    def cold(a, b):
        return emd(a, b, rtol=RTOL)

    if mode == "forward":
        call = torch.no_grad()(lambda: cold(x, y))
    elif mode == "warm":
        ids = torch.arange(batch, device=x.device)
        loss = EMDLoss(rtol=RTOL, price_cache=(batch, points)).to(x.device)
        call = harness.training_step(lambda a, b: loss(a, b, ids), x, y)
    else:
        call = harness.training_step(cold, x, y)
    if mode == "graph":
        _, call = capture(call)
    harness.measure(benchmark, call, rounds=5 if ON_GPU else 2, eager=mode != "graph")
    method = "pointloss" if mode == "eager" else f"pointloss, {mode}"
    benchmark.extra_info.update(
        op="emd", method=method, kind=kind.__name__, batch=batch, points=points, rtol=RTOL
    )
