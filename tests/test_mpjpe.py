# SPDX-License-Identifier: MIT
import pytest
import torch
from scipy.spatial import procrustes as scipy_procrustes
from scipy.spatial.transform import Rotation

from pointloss import mpjpe, pa_mpjpe, reference


def poses(device="cpu", dtype=torch.float64, batch=3, joints=9):
    x, y = torch.randn(2, batch, joints, 3, dtype=torch.float64)
    return x.to(device, dtype), (y + x).to(device, dtype)


def test_agrees_with_reference(dtype, device):
    x, y = poses(device, dtype)
    found = mpjpe(x, y)
    torch.testing.assert_close(found.double().cpu(), reference.mpjpe(x, y), rtol=1e-5, atol=1e-5)
    assert torch.equal(mpjpe(x[1], y[1]), found[1])
    scale, rotation, shift = reference.procrustes(x, y)
    aligned = scale[:, None, None] * x.double().cpu() @ rotation.mT + shift[:, None]
    expected = reference.mpjpe(aligned, y)
    torch.testing.assert_close(pa_mpjpe(x, y).double().cpu(), expected, rtol=1e-4, atol=1e-4)


def test_alignment_agrees_with_scipy(device):
    """scipy allows reflections, centres and scales both to size 1."""
    x, y = poses(device)
    for a, b in zip(x, y, strict=True):
        target, moved, _ = scipy_procrustes(b.cpu().numpy(), a.cpu().numpy())
        size = (b - b.mean(0)).norm().cpu()
        expected = size * torch.from_numpy(target - moved).norm(dim=-1).mean()
        torch.testing.assert_close(pa_mpjpe(a, b, reflection=True).cpu(), expected)


def test_by_hand(device):
    x = torch.tensor([[0.0, 0, 0], [1, 0, 0]], device=device)
    y = torch.tensor([[0.0, 3, 4], [1, 0, 0]], device=device)
    assert mpjpe(x, y) == 2.5
    assert mpjpe(x, y, mask=torch.tensor([True, False], device=device)) == 5


def test_a_similarity_costs_nothing_after_alignment(device):
    x, _ = poses(device)
    turn = torch.from_numpy(Rotation.random(rng=1).as_matrix()).to(device)
    y = 2.5 * x @ turn.mT + 4
    assert pa_mpjpe(x, y).max() < 1e-12
    assert pa_mpjpe(x, y, scale=False).min() > 0.1


def test_masked_joints_do_not_count(device):
    x, y = poses(device)
    mask = torch.ones(3, 9, dtype=torch.bool, device=device)
    mask[:, 6:] = False
    mask[2] = False
    bad = torch.where(mask.unsqueeze(-1), x, torch.nan).requires_grad_()
    for op in (mpjpe, pa_mpjpe):
        found = op(bad, y, mask=mask)
        torch.testing.assert_close(found[0], op(x[0, :6], y[0, :6]))
        assert found[2] == 0
        (grad,) = torch.autograd.grad(found.sum(), bad)
        assert grad.isfinite().all()


def test_gradients_and_compile(device, gradcheck):
    inputs = [v.requires_grad_() for v in poses(device, batch=1, joints=4)]
    gradcheck(mpjpe, inputs)
    gradcheck(pa_mpjpe, inputs)
    torch.compile(mpjpe, fullgraph=True, backend="eager")(*inputs)


def test_gradient_at_a_perfect_prediction_is_zero(device):
    x, _ = poses(device)
    x.requires_grad_()
    mpjpe(x, x.detach()).sum().backward()
    assert x.grad.eq(0).all()


def test_errors():
    with pytest.raises(
        ValueError, match=r"pa_mpjpe: x must have shape \[B, N, 3\] or \[N, 3\], got"
    ):
        pa_mpjpe(torch.zeros(4, 2), torch.zeros(4, 2))
    with pytest.raises(ValueError, match=r"mpjpe: y must have shape \[2, 4, 3\], got \[4, 3\]"):
        mpjpe(torch.zeros(2, 4, 3), torch.zeros(4, 3))
