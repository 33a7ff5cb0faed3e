# SPDX-License-Identifier: MIT
"""ChamferDistancePytorch's and PoinTr's losses: distances, neighbours, F-scores of distances."""

import runpy
from pathlib import Path

import pytest
import torch

from pointloss import chamfer
from pointloss.compat import chamfer3d, pointr


@pytest.mark.parametrize("dim", [2, 3, 5, 6])
def test_distances_and_neighbours(dim, device):
    a, b = (torch.rand(4, n, dim, device=device, requires_grad=True) for n in (100, 60))
    module = getattr(chamfer3d, f"chamfer_{dim}DDist")()
    dist1, dist2, idx1, idx2 = module(a, b)
    pairs = (a.unsqueeze(2) - b.unsqueeze(1)).square().sum(-1)
    for dist, idx, axis in ((dist1, idx1, 2), (dist2, idx2, 1)):
        expected = pairs.min(axis)
        torch.testing.assert_close(dist, expected.values)
        assert torch.equal(idx.long(), expected.indices)
        assert idx.dtype == torch.int32
    grads = torch.autograd.grad(dist1.mean() + dist2.mean(), (a, b))
    for g, e in zip(
        grads, torch.autograd.grad(pairs.amin(2).mean() + pairs.amin(1).mean(), (a, b)), strict=True
    ):
        torch.testing.assert_close(g, e)


def test_fscore(device):
    dist1 = torch.tensor([[0.0, 0.5, 2, 3], [9, 9, 9, 9]], device=device)
    dist2 = torch.tensor([[0.0, 5], [9, 9]], device=device)
    for found, expected in zip(
        chamfer3d.fscore(dist1, dist2, 2.0), ([0.5, 0], [0.5, 0], [0.5, 0]), strict=True
    ):
        assert found.tolist() == expected
    f, one, two = chamfer3d.fscore(dist1, dist2, 2.5)
    torch.testing.assert_close(f, dist1.new_tensor([2 * 0.75 * 0.5 / 1.25, 0]))
    assert one.tolist() == [0.75, 0]
    assert two.tolist() == [0.5, 0]
    assert chamfer3d.fscore(dist1[:, :0], dist2)[0].eq(0).all()


def test_pointr(device):
    a, b = torch.rand(3, 20, 3, device=device), torch.rand(3, 30, 3, device=device)
    pairs = torch.cdist(a, b)
    there, back = pairs.amin(2), pairs.amin(1)
    plain, squared = there.mean() + back.mean(), there.square().mean() + back.square().mean()
    torch.testing.assert_close(pointr.ChamferDistanceL1()(a, b), plain / 2)
    torch.testing.assert_close(pointr.ChamferDistanceL2()(a, b), squared)
    torch.testing.assert_close(sum(pointr.ChamferDistanceL2_split()(a, b)), squared)
    torch.testing.assert_close(pointr.ChamferDistanceL1_PM()(a, b), there.mean())


@pytest.mark.parametrize("batch", [1, 2])
def test_pointr_ignores_zeros(batch, device):
    """Points at the origin, not those whose coordinates add up to 0, in batches of any size."""
    a, b = torch.rand(batch, 20, 3, device=device), torch.rand(batch, 30, 3, device=device)
    a[:, 3] = torch.tensor([1.0, -2, 1])
    padded = torch.cat([torch.zeros_like(a[:, :5]), a], 1).requires_grad_()
    for name in ("ChamferDistanceL1", "ChamferDistanceL2", "ChamferDistanceL1_PM"):
        loss = getattr(pointr, name)(ignore_zeros=True)(padded, b)
        torch.testing.assert_close(loss, getattr(pointr, name)()(a, b))
        assert torch.autograd.grad(loss, padded)[0][:, :5].eq(0).all()
    assert pointr.ChamferDistanceL1()(padded, b) > pointr.ChamferDistanceL1()(a, b)


def test_pointr_gradient_of_coinciding_points_is_0(device):
    a = torch.rand(1, 5, 3, device=device, requires_grad=True)
    loss = pointr.ChamferDistanceL1()(a, a.detach().clone())
    assert torch.autograd.grad(loss, a)[0].eq(0).all()
    assert loss == chamfer(a, a, squared=False) / 2


def test_the_example_runs(capsys):
    path = Path(__file__).parent.parent / "examples" / "migrate_pointr.py"
    runpy.run_path(str(path), run_name="__main__")
    assert "CD-L1" in capsys.readouterr().out
