# SPDX-License-Identifier: MIT
"""Gradients of nearest: first and second order, deterministic, of extreme terms."""

import pytest
import torch
from clouds import make, uniform

from pointloss import nearest, nearest_both


@pytest.mark.parametrize("norm", [1, 2])
def test_gradients(norm, device, gradcheck):
    x = torch.rand(2, 6, 3, device=device, dtype=torch.float64, requires_grad=True)
    y = torch.rand(2, 7, 3, device=device, dtype=torch.float64, requires_grad=True)
    n, m = torch.tensor([6, 4], device=device), torch.tensor([7, 0], device=device)

    def dist(a, b):
        return nearest(a, b, norm=norm, x_lengths=n, y_lengths=m).dist[:1]

    gradcheck(dist, (x, y))


@pytest.mark.parametrize("norm", [1, 2])
def test_the_kernel_and_torch_give_one_gradient(norm, device, dtype):
    """The fast backward against the differentiable one that create_graph takes."""
    for dim in (2, 3, 5):
        x = torch.rand(3, 70, dim, device=device, dtype=dtype, requires_grad=True)
        y = torch.rand(3, 50, dim, device=device, dtype=dtype, requires_grad=True)
        n = torch.tensor([70, 0, 33], device=device)
        value = nearest(x, y, x_lengths=n, norm=norm).dist.square().sum()
        fast = torch.autograd.grad(value, (x, y), retain_graph=True)
        slow = torch.autograd.grad(value, (x, y), create_graph=True)
        for a, b in zip(fast, slow, strict=True):
            torch.testing.assert_close(a, b.detach())


def test_gradient_is_zero_where_there_is_no_neighbour(device):
    x, y = make(uniform, 3, 10, 10, device=device)
    x[0, 3] = torch.nan
    x, y = x.requires_grad_(), y.requires_grad_()
    m = torch.tensor([10, 0, 99], device=device)
    nearest(x, y, y_lengths=m).dist.sum().backward()
    assert x.grad[0, 3].eq(0).all()
    assert x.grad[1:].eq(0).all()
    assert y.grad[1:].eq(0).all()
    assert not x.grad.isnan().any()
    assert not y.grad.isnan().any()
    empty = torch.zeros(3, 0, 3, device=device, requires_grad=True)
    nearest(x, empty).dist.sum().backward()
    assert empty.grad.shape == (3, 0, 3)


@pytest.mark.parametrize("norm", [1, 2])
def test_deterministic_gradient(norm, device, dtype, deterministic):
    """The same bits every time, and as exact as sums in any order: many rows on few targets."""
    x, y = make(uniform, 3, 5000, 40, dtype=dtype, device=device)
    weight = torch.randn(3, 5000, device=device, dtype=dtype).exp().pow(3)  # of all sizes
    n = torch.tensor([5000, 0, 777], device=device)
    x, y = x.requires_grad_(), y.requires_grad_()

    def gradients():
        there, back = nearest_both(x, y, x_lengths=n, norm=norm)
        value = (there.dist * weight).sum() + back.dist.sum()
        return torch.autograd.grad(value, (x, y))

    first = gradients()
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(first, gradients(), strict=True))
    exact = [p.detach().double().requires_grad_() for p in (x, y)]
    there, back = nearest_both(*exact, x_lengths=n, norm=norm)
    total = (there.dist * weight).sum() + back.dist.sum()
    for a, b in zip(first, torch.autograd.grad(total, exact), strict=True):
        tolerance = 1e-4 if dtype == torch.float32 else 1e-11
        torch.testing.assert_close(a.double(), b, rtol=tolerance, atol=tolerance * b.abs().max())


def test_deterministic_gradient_of_extreme_terms(device, dtype, deterministic):
    """Targets with terms near the largest, near the smallest, infinite and NaN, side by side."""
    y = torch.arange(5, device=device, dtype=dtype)[None, :, None] * torch.ones(3, device=device)
    x = y.repeat_interleave(4, dim=1) + 0.25
    tiny = torch.finfo(dtype).tiny
    huge = torch.finfo(dtype).max / 16
    weight = torch.tensor(
        [[huge, -huge, huge, 0], [tiny, tiny, tiny, 0], [torch.inf, 1, torch.inf, 0],
         [torch.inf, -torch.inf, 1, 0], [torch.nan, 1, 1, 0]], device=device, dtype=dtype,
    ).view(1, 20)  # fmt: skip
    y.requires_grad_()
    # Not times the weight: 0 * inf would hide what arrives.
    (grad,) = torch.autograd.grad(nearest(x, y).dist, y, weight)
    expected = -0.5 * torch.tensor(
        [huge, 3 * tiny, torch.inf, torch.nan, torch.nan], device=device, dtype=dtype
    )
    torch.testing.assert_close(grad[0, :, 0], expected, rtol=1e-6, atol=0, equal_nan=True)
    assert torch.equal(grad[0, :, 0].isnan(), grad[0, :, 2].isnan())
