# SPDX-License-Identifier: MIT
"""The public chamfer: forward alone, and a training step's forward and backward to both inputs.

    pytest benchmarks/bench_chamfer.py --benchmark-only --benchmark-json=FILE
    python -m benchmarks.report FILE

Each step is run once and its value and gradients verified in float64, then it is timed; "forward"
is the call alone, without gradients, of which the value is verified. "eager" is
what a user's step takes on an idle GPU, Python included; "graph" replays one captured CUDA graph:
the kernels alone; "deterministic" is under torch.use_deterministic_algorithms(True). "floor" is
(x.mean() + y.mean()).backward(): what the host needs for a step that computes next to nothing.
"""

import pytest
import torch

from benchmarks import baselines, harness
from pointloss import chamfer, nearest_both, reference
from pointloss.testing.clouds import blob, make, surface
from pointloss.testing.streams import capture

pytestmark = pytest.mark.benchmark(timer=harness.timer)

SIZES = [(32, 1024), (32, 2048), (32, 8192), (8, 16384), (1, 131072)]
ON_GPU = torch.cuda.is_available()
MODES = ["forward", "eager", "floor"]
if ON_GPU:
    MODES += ["eager, deterministic", "graph", "graph, deterministic"]
PEERS = baselines.nearest_peers()


def clouds(kind, batch, points):
    x, y = make(kind, batch, points, points, device=harness.device())
    return x.requires_grad_(), y.requires_grad_()


def verify(x, y, value, gradients=None):
    """The value and a step's gradients on the whole batch, in float64, and the neighbours below.

    The neighbours are taken as found, after the distances of a sample of rows were held against the
    reference's: where two are equally near to rounding, either is right and the gradients differ.
    """
    exact = [p.detach().double().requires_grad_() for p in (x, y)]
    expected = torch.zeros((), dtype=torch.float64, device=x.device)
    for (a, b), (_, idx) in zip((exact, exact[::-1]), nearest_both(x, y), strict=True):
        mine = (a - b.gather(1, idx.unsqueeze(-1).expand_as(a))).square().sum(-1)
        rows = torch.randperm(a.shape[1])[: max(8, min(200, 10**7 // b.shape[1]))]
        rows = rows.to(x.device)
        picked = reference.nearest(a[:1, rows].detach().cpu(), b[:1].detach().cpu())
        torch.testing.assert_close(mine[:1, rows].cpu(), picked.dist, rtol=1e-5, atol=0)
        expected = expected + mine.mean()
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=0)
    if gradients is None:
        return
    for a, b in zip(gradients, torch.autograd.grad(expected, exact), strict=True):
        assert (a.double() - b).norm() <= 1e-5 * b.norm()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", [surface, blob], ids=lambda k: k.__name__)
@pytest.mark.parametrize(("batch", "points"), SIZES)
def test_pointloss(benchmark, kind, batch, points, mode):
    if not ON_GPU and batch * points > 2**17:
        # Seconds a round there, and cKDTree's ratio to the CPU is test_scipy's to tell.
        pytest.skip("kept short on a CPU")
    x, y = clouds(kind, batch, points)
    if mode == "forward":
        call = lambda: chamfer(x.detach(), y.detach())  # noqa: E731
    elif mode == "floor":
        call = harness.training_step(lambda a, b: a.mean() + b.mean(), x, y)
    else:
        call = harness.training_step(chamfer, x, y)
    torch.use_deterministic_algorithms("deterministic" in mode)
    try:
        call = capture(call)[1] if "graph" in mode else call
        found = call()
        if mode == "forward":
            verify(x, y, found)
        elif mode != "floor":
            verify(x, y, chamfer(x, y), (x.grad, y.grad))
        eager = "eager" in mode or mode == "floor"
        harness.measure(benchmark, call, rounds=50 if ON_GPU else 3, eager=eager)
        peak = harness.peak_bytes(call) if "graph" not in mode else None
    finally:
        torch.use_deterministic_algorithms(False)
    benchmark.extra_info.update(
        op="chamfer", method=mode if mode == "floor" else f"pointloss, {mode}",
        kind=kind.__name__, batch=batch, points=points,
        peak_bytes=peak,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["torch", *PEERS])
@pytest.mark.parametrize(("batch", "points"), SIZES)
def test_baseline(benchmark, name, batch, points):
    """Forward and backward of plain torch and of each importable peer, as a user calls it."""
    # torch.cdist keeps B N M floats for the backward, and the backward takes as much again.
    if batch * points**2 > (2**30 if ON_GPU else 2**27):
        pytest.skip("the full distance matrices do not fit")
    nearest = baselines.torch_nearest if name == "torch" else PEERS[name]
    x, y = clouds(surface, batch, points)

    def loss(a, b):
        to_y, to_x = nearest(a, b)
        return to_y.mean() + to_x.mean()

    harness.measure(
        benchmark, harness.training_step(loss, x, y), rounds=10 if ON_GPU else 3, eager=True
    )
    benchmark.extra_info.update(
        op="chamfer", method=f"{name}, eager", kind="surface", batch=batch, points=points
    )


@pytest.mark.skipif(ON_GPU, reason="recorded on a machine without a GPU, on the same cores")
@pytest.mark.parametrize(("batch", "points"), [(8, 2048), (1, 16384)])
def test_scipy(benchmark, batch, points):
    """The forward pass beside cKDTree on the CPU, in turns: the ratio is of one run."""
    x, y = make(surface, batch, points, points)

    def theirs():
        to_y, to_x = baselines.scipy_nearest(x, y)
        return to_y.mean() + to_x.mean()

    torch.testing.assert_close(chamfer(x, y).double(), theirs(), rtol=1e-4, atol=1e-9)
    ours_s, theirs_s = harness.paired_cpu_seconds(lambda: chamfer(x, y), theirs, rounds=3)
    benchmark.pedantic(lambda: None, rounds=1)
    benchmark.extra_info.update(
        op="chamfer", method="scipy", kind="surface", batch=batch, points=points,
        pointloss_cpu_seconds=ours_s, scipy_seconds=theirs_s,
    )  # fmt: skip
