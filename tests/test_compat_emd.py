# SPDX-License-Identifier: MIT
"""MSN's and PyTorchEMD's losses, against the optimum."""

import pytest
import torch

from pointloss import reference
from pointloss.compat.dcd import calc_emd
from pointloss.compat.msn_emd import emdModule
from pointloss.compat.pytorch_emd import earth_mover_distance
from pointloss.testing.clouds import make, surface


@pytest.mark.parametrize(("eps", "iters"), [(0.005, 50), (0.002, 10000)])
def test_msn(eps, iters, device):
    x, y = make(surface, 2, 200, 200, dtype=torch.float32, device=device)
    x.requires_grad_()
    y.requires_grad_()
    dist, assignment = emdModule()(x, y, eps, iters)
    assert assignment.dtype == torch.int32
    assert assignment.sort(1).values.tolist() == [list(range(200))] * 2
    partner = y.gather(1, assignment.long().unsqueeze(-1).expand(-1, -1, 3))
    torch.testing.assert_close(dist, (x - partner).square().sum(-1))
    cost = dist.sqrt().mean(1).double().cpu()
    assert (cost <= reference.optimal_cost(x, y, False) + eps).all()
    gradients = torch.autograd.grad(dist.sum(), (x, y))
    torch.testing.assert_close(gradients[0], 2 * (x - partner))
    assert gradients[1].ne(0).any()


def test_msn_of_unequal_sizes(device):
    x, y = make(surface, 1, 30, 20, dtype=torch.float32, device=device)
    dist, assignment = emdModule()(x, y, 0.005, 50)
    alone = assignment < 0
    assert alone.sum() == 10
    assert dist[alone].eq(0).all()


@pytest.mark.parametrize("eps", [0.0, -0.5, float("nan")])
def test_eps_above_0(eps, device):
    x = torch.rand(1, 4, 3, device=device)
    with pytest.raises(ValueError, match=f"emdModule: eps must be above 0, got {eps}"):
        emdModule()(x, x, eps, 50)
    with pytest.raises(ValueError, match=f"calc_emd: eps must be above 0, got {eps}"):
        calc_emd(x, x, eps)


@pytest.mark.parametrize("sizes", [(40, 40), (20, 40), (60, 20)])
def test_pytorch_emd(sizes, device, dtype, deterministic):
    x, y = make(surface, 2, *sizes, dtype=dtype, device=device)
    cost = earth_mover_distance(x, y, transpose=False)
    assert cost.shape == (2,)
    # Each point of the smaller cloud has the mass of several.
    most = max(sizes)
    a, b = (v.repeat_interleave(most // v.shape[1], 1) for v in (x, y))
    optimum = most * reference.optimal_cost(a, b, True)
    cost = cost.double().cpu()
    assert (cost >= optimum * (1 - 1e-5)).all()
    assert (cost <= optimum / (1 - 1e-2)).all()
    assert torch.equal(earth_mover_distance(x.mT, y.mT).double().cpu(), cost)
    torch.testing.assert_close(earth_mover_distance(x[0].mT, y[0].mT).double().cpu(), cost[:1])


def test_pytorch_emd_by_hand(device):
    """Two points against two: crossed pairs cost more."""
    x = torch.tensor([[[1.7, -0.1, 0.1], [0.1, 1.2, 0.3]]], device=device, requires_grad=True)
    y = torch.tensor([[[0.3, 1.8, 0.2], [1.2, -0.2, 0.3]]], device=device, requires_grad=True)
    cost = earth_mover_distance(x, y, transpose=False)
    straight = (x[0, 0] - y[0, 1]).square().sum() + (x[0, 1] - y[0, 0]).square().sum()
    torch.testing.assert_close(cost[0], straight)
    for found, expected in zip(
        torch.autograd.grad(cost, (x, y)), torch.autograd.grad(straight, (x, y)), strict=True
    ):
        torch.testing.assert_close(found, expected)


def test_pytorch_emd_refuses_to_lose_mass():
    with pytest.raises(ValueError, match="must be a multiple of the other's, got 20 and 30 points"):
        earth_mover_distance(torch.rand(1, 3, 20), torch.rand(1, 3, 30))
