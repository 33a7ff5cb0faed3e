# SPDX-License-Identifier: MIT
"""Fixtures: every test that takes `device` runs on the CPU and, where there is one, on a GPU."""

import os

import pytest
import torch
from hypothesis import settings
from runs import without_pictures

# Wall-clock limits would make property tests fail on a busy machine, and say nothing.
settings.register_profile("pointloss", deadline=None, max_examples=40, derandomize=True)
settings.load_profile("pointloss")

# Workers of pytest-xdist share the cores. On the 32 of an H200's host, twenty workers with 32
# threads each had run 43 % of the suite after 160 s; with two each, all of it takes 64 s. No fewer
# than two, because what runs in parallel is tested only so.
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    torch.set_num_threads(max(2, torch.get_num_threads() // int(workers)))


def _need_gpu():
    # No guard on build_info: on a machine with a GPU, a build without CUDA must fail.
    if not torch.cuda.is_available():
        pytest.skip("no GPU here; the GPU half is run and recorded as CONTRIBUTING.md tells")


# Of the session's scope, because property tests run many examples with one fixture.
@pytest.fixture(scope="session", params=["cpu", "cuda"])
def device(request):
    if request.param == "cuda":
        _need_gpu()
    return torch.device(request.param)


@pytest.fixture
def cuda():
    """For what only a GPU has: streams, graphs, the comparison with the CPU."""
    _need_gpu()
    return torch.device("cuda")


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def gradcheck(device):
    """Both of torch's checks; on CUDA atomics may add in another order when run again."""

    def check(function, inputs):
        order = 0.0 if device.type == "cpu" else 1e-12
        assert torch.autograd.gradcheck(function, inputs, nondet_tol=order)
        assert torch.autograd.gradgradcheck(function, inputs, nondet_tol=order)

    return check


@pytest.fixture(params=[torch.float32, torch.float64], ids=["f32", "f64"])
def dtype(request):
    return request.param


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def no_pictures(monkeypatch):
    """For runs of models: pictures take longer than a run this small. test_plots draws them."""
    without_pictures(monkeypatch)


@pytest.fixture
def one_cpu_thread(monkeypatch):
    """For runs of models: tensors this small are slower on many threads, or on a GPU."""
    from models import evaluate, train

    monkeypatch.setattr(evaluate, "pick_device", lambda name: "cpu")
    monkeypatch.setattr(train, "pick_device", lambda name: "cpu")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
