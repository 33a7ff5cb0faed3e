# SPDX-License-Identifier: MIT
"""CloudMetric: means over batches of any size, over processes, with and without torchmetrics."""

import importlib.util
import sys
import types

import pytest
import torch

from pointloss import chamfer, emd, f_score, hausdorff
from pointloss.metrics import cloud_metric
from pointloss.metrics.cloud_metric import CloudMetric

MEASURES = {
    "chamfer": (chamfer, {"squared": False}),
    "emd": (emd, {}),
    "f_score": (f_score, {"radius": torch.tensor([0.1, 0.3])}),
    "hausdorff": (hausdorff, {"percentile": 95}),
}


@pytest.mark.parametrize("name", MEASURES)
def test_mean_over_all_clouds(name, device):
    """Batches of different sizes: the mean is over clouds, not over batches."""
    measure, options = MEASURES[name]
    options = {k: v.to(device) if torch.is_tensor(v) else v for k, v in options.items()}
    x, y = torch.rand(7, 20, 3).to(device), torch.rand(7, 30, 3).to(device)
    metric = CloudMetric(measure, **options).to(device)
    none = {} if measure in (f_score, hausdorff) else {"batch_reduction": "none"}
    whole = measure(x, y, **options, **none)
    for _ in range(2):
        for a, b in zip(x.split([1, 4, 2]), y.split([1, 4, 2]), strict=True):
            metric.update(a, b)
        found = metric.compute()
        if name == "f_score":
            assert type(found) is type(whole)
            for part, expected in zip(found, whole, strict=True):
                torch.testing.assert_close(part, expected.double().mean(0))
        else:
            torch.testing.assert_close(found, whole.double().mean(), rtol=0.02, atol=0)
        metric.reset()
    assert metric.compute()[0].isnan().all() if name == "f_score" else metric.compute().isnan()


def test_lengths_go_to_update(device):
    x = torch.tensor([[[0.0], [9]], [[0], [9]]], device=device)
    metric = CloudMetric(hausdorff).to(device)
    lengths = torch.tensor([1, 2], device=device)
    metric.update(x, torch.zeros(2, 1, 1, device=device), x_lengths=lengths)
    assert metric.compute().item() == 4.5


def test_a_measure_with_a_mean_of_its_own_is_refused():
    with pytest.raises(ValueError, match="must return one number per cloud"):
        CloudMetric(lambda x, y: (x - y).mean())


@pytest.fixture(params=["plain", "stub"])
def variant(request, monkeypatch):
    """The module as it is without torchmetrics, and with a stand-in for it."""
    fake = None
    if request.param == "stub":
        fake = types.ModuleType("torchmetrics")
        fake.Metric = type("Metric", (cloud_metric._Sums,), {})
    monkeypatch.setitem(sys.modules, "torchmetrics", fake)
    spec = importlib.util.spec_from_file_location("variant", cloud_metric.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, fake


def test_sums_and_counts_are_added_over_processes(variant, monkeypatch):
    """Two processes in one: what all_reduce adds is what the other one has seen, here nothing."""
    module, fake = variant
    full, bare = module.CloudMetric(hausdorff), module.CloudMetric(hausdorff)
    for cloud in (1.0, 2.0, 6.0):
        full.update(torch.full((1, 1, 1), cloud), torch.zeros(1, 1, 1))
    sums = [torch.tensor([9.0, 3]), torch.tensor([0.0, 0])]
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    for metric, other in ((full, sums[1]), (bare, sums[0])):
        monkeypatch.setattr(
            torch.distributed, "all_reduce", lambda own, other=other: own.add_(other)
        )
        if fake is None or metric is full:  # torchmetrics adds up before it calls compute
            assert metric.compute().item() == 3


def test_the_base_is_torchmetrics_where_it_is_installed(variant):
    module, fake = variant
    assert issubclass(module.CloudMetric, module._Sums if fake is None else fake.Metric)
    metric = module.CloudMetric(hausdorff)
    metric.update(torch.ones(2, 1, 1), torch.zeros(2, 1, 1))
    assert metric.compute().item() == 1


def test_with_the_real_torchmetrics():
    torchmetrics = pytest.importorskip("torchmetrics")
    metric = torchmetrics.MetricCollection(
        {"cd": CloudMetric(chamfer), "f": CloudMetric(f_score, radius=0.5)}
    )
    metric.update(torch.zeros(1, 4, 3), torch.zeros(1, 4, 3))
    metric.update(torch.zeros(3, 4, 3), torch.ones(3, 4, 3))
    found = metric.compute()
    assert metric["f"].compute().f_score.item() == 0.25
    assert found["cd"].item() == 4.5
