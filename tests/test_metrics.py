# SPDX-License-Identifier: MIT
"""Hausdorff, density-aware Chamfer, normal consistency, and the metrics of generated sets."""

import pytest
import torch
from clouds import KINDS, make, surface, uniform

from pointloss import (
    chamfer,
    density_aware_chamfer,
    emd,
    generation_metrics,
    hausdorff,
    nearest,
    normal_consistency,
    pairwise_chamfer,
    pairwise_emd,
    reference,
)


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_hausdorff(kind, device):
    x, y = make(kind, 2, 40, 50, dtype=torch.float64, device=device)
    for b in range(2):
        d = reference.pairwise(x[b].cpu(), y[b].cpu()).sqrt()
        forward, back = d.amin(1).amax(), d.amin(0).amax()
        torch.testing.assert_close(hausdorff(x, y)[b].cpu(), forward.maximum(back))
        torch.testing.assert_close(hausdorff(x[b], y[b], direction="x_to_y").cpu(), forward)


def slow_dcd(x, y, alpha, squared):
    """Equation 5 of the paper, term by term."""
    d = reference.pairwise(x, y)
    d = d if squared else d.sqrt()
    total = 0
    for matrix in (d, d.T):
        best, j = matrix.min(1)
        counts = torch.bincount(j, minlength=matrix.shape[1])
        total += (1 - (-alpha * best).exp() / counts[j]).mean() / 2
    return total


@pytest.mark.parametrize("squared", [False, True])
def test_density_aware_chamfer(squared, device):
    x, y = make(surface, 3, 40, 50, dtype=torch.float64, device=device)
    value = density_aware_chamfer(x, y, alpha=20, squared=squared, batch_reduction="none")
    for b in range(3):
        expected = slow_dcd(x[b].cpu(), y[b].cpu(), 20, squared)
        torch.testing.assert_close(value[b].cpu(), expected)
    torch.testing.assert_close(density_aware_chamfer(x, y, alpha=20, squared=squared), value.mean())
    assert density_aware_chamfer(x, x, squared=squared) == 0


def test_density_aware_chamfer_lengths_nan_and_gradient(device, gradcheck):
    x, y = make(uniform, 3, 20, 30, dtype=torch.float64, device=device)
    n, m = torch.tensor([20, 5, 0], device=device), torch.tensor([30, 9, 30], device=device)
    options = {"alpha": 5, "batch_reduction": "none"}
    value = density_aware_chamfer(x, y, x_lengths=n, y_lengths=m, **options)
    cut = density_aware_chamfer(x[1, :5], y[1, :9], **options)
    torch.testing.assert_close(value[1], cut)
    assert value[2] == 0.5  # an empty x: 0 in its own direction, 1 for each point of y
    x[0, 0] = torch.nan
    assert density_aware_chamfer(x, y, **options).isnan().tolist() == [True, False, False]
    a = torch.rand(1, 5, 3, device=device, dtype=torch.float64, requires_grad=True)
    b = torch.rand(1, 6, 3, device=device, dtype=torch.float64, requires_grad=True)
    gradcheck(lambda p, q: density_aware_chamfer(p, q, alpha=2), (a, b))


def test_density_aware_chamfer_in_deterministic_mode(device, deterministic):
    x, y = (p.requires_grad_() for p in make(surface, 2, 40, 50, device=device))
    value = density_aware_chamfer(x, y, alpha=10)
    grads = torch.autograd.grad(value, (x, y), retain_graph=True)
    again = torch.autograd.grad(value, (x, y))
    assert all(torch.equal(a, b) for a, b in zip(grads, again, strict=True))


def test_normal_consistency(device):
    x, y = make(surface, 2, 40, 50, dtype=torch.float64, device=device)
    n, m = torch.randn_like(x), torch.randn_like(y)
    unit_n, unit_m = n / n.norm(dim=-1, keepdim=True), m / m.norm(dim=-1, keepdim=True)
    for absolute in (True, False):
        value = normal_consistency(x, y, n, m, absolute=absolute)
        for b in range(2):
            there = (unit_n[b] * unit_m[b][nearest(x, y).idx[b]]).sum(-1)
            back = (unit_m[b] * unit_n[b][nearest(y, x).idx[b]]).sum(-1)
            if absolute:
                there, back = there.abs(), back.abs()
            torch.testing.assert_close(value[b], (there.mean() + back.mean()) / 2)
    torch.testing.assert_close(normal_consistency(x[0], y[0], n[0], m[0]).shape, torch.Size([]))
    lengths = torch.tensor([40, 7], device=device)
    value = normal_consistency(x, y, n, m, x_lengths=lengths)
    torch.testing.assert_close(value[1], normal_consistency(x[1, :7], y[1], n[1, :7], m[1]))
    with pytest.raises(ValueError, match="normal_consistency: y_normals must have shape"):
        normal_consistency(x, y, n, m[:, :3])


@pytest.mark.parametrize("absolute", [True, False])
def test_normal_consistency_gradient(absolute, device, gradcheck):
    """To both clouds' normals; the neighbours are constants."""
    x, y = make(surface, 2, 6, 7, dtype=torch.float64, device=device)
    n, m = torch.randn_like(x).requires_grad_(), torch.randn_like(y).requires_grad_()
    gradcheck(lambda p, q: normal_consistency(x, y, p, q, absolute=absolute), (n, m))


def test_pairwise(device, monkeypatch):
    a, b = torch.rand(3, 20, 3, device=device), torch.rand(4, 25, 3, device=device)
    whole = pairwise_chamfer(a, b)
    for i in range(3):
        for j in range(4):
            torch.testing.assert_close(whole[i, j], chamfer(a[i], b[j]))
    torch.testing.assert_close(pairwise_emd(a, b)[2, 3], emd(a[2], b[3]))
    monkeypatch.setattr("pointloss.metrics.generation._POINTS_PER_CALL", 100)
    torch.testing.assert_close(pairwise_chamfer(a, b), whole)
    assert pairwise_chamfer(a[:0], b).shape == (0, 4)
    with pytest.raises(ValueError, match="pairwise_emd: a and b must have shapes"):
        pairwise_emd(a[0], b)


def test_generation_metrics(device):
    """Two well separated clusters of two clouds each, then the same set twice."""
    place = torch.tensor([0.0, 1.0, 10.0, 11.0], device=device)
    d = (place.unsqueeze(1) - place).abs()
    apart = generation_metrics(d[:2, 2:], d[:2, :2], d[2:, 2:])
    assert apart.one_nna == 1
    assert apart.coverage == 0.5
    assert apart.mmd == 9.5
    same = generation_metrics(d, d, d)
    assert same.coverage == 1
    assert same.mmd == 0
    assert same.one_nna == 0  # each cloud's nearest is its double in the other set
    with pytest.raises(ValueError, match="generation_metrics: matrices must be"):
        generation_metrics(d[:2], d, d)
