# SPDX-License-Identifier: MIT
"""Gradients of nearest: first and second order, deterministic, of extreme terms."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pointloss import NearestIndex, chamfer, emd, nearest, nearest_both
from pointloss.testing.clouds import make, uniform


@pytest.mark.parametrize("norm", [1, 2])
def test_gradients(norm, device, gradcheck):
    x = torch.rand(2, 6, 3, device=device, dtype=torch.float64, requires_grad=True)
    y = torch.rand(2, 7, 3, device=device, dtype=torch.float64, requires_grad=True)
    n, m = torch.tensor([6, 4], device=device), torch.tensor([7, 0], device=device)

    def dist(a, b):
        return nearest(a, b, norm=norm, x_lengths=n, y_lengths=m).dist[:1]

    gradcheck(dist, (x, y))


@pytest.mark.sanitize
@pytest.mark.parametrize("norm", [1, 2])
def test_the_kernel_and_torch_give_one_gradient(norm, device, dtype):
    """The fast backward against the differentiable one that create_graph takes."""
    # The last is large enough for one kernel to start while the other runs.
    sizes = ((2, 70, 50), (3, 70, 50), (5, 70, 50), (3, 3000, 1100), (3, 60000, 500))
    for dim, n, m in sizes:
        x = torch.rand(3, n, dim, device=device, dtype=dtype, requires_grad=True)
        y = torch.rand(3, m, dim, device=device, dtype=dtype, requires_grad=True)
        n = torch.tensor([n, 0, n // 2], device=device)
        value = nearest(x, y, x_lengths=n, norm=norm).dist.square().sum()
        fast = torch.autograd.grad(value, (x, y), retain_graph=True)
        slow = torch.autograd.grad(value, (x, y), create_graph=True)
        for a, b in zip(fast, slow, strict=True):
            torch.testing.assert_close(a, b.detach())


@pytest.mark.sanitize
@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize(("batch", "n", "m"), [(40, 2048, 1700), (1100, 50, 64)])
def test_many_small_clouds_on_cuda(batch, n, m, norm, dtype, cuda):
    """Both gradients in one launch; in the first pair all of x have one neighbour."""
    x, y = make(uniform, batch, n, m, dtype=dtype, device=cuda)
    y[0, 1:] += 2
    x[1, 3] = torch.nan
    x, y = x.requires_grad_(), y.requires_grad_()
    lengths = torch.randint(1, n + 1, (batch,), device=cuda)
    lengths[:3] = torch.tensor([n, n // 2, 0])
    value = chamfer(x, y, x_lengths=lengths, norm=norm, batch_reduction="sum")
    fast = torch.autograd.grad(value, (x, y), retain_graph=True)
    slow = torch.autograd.grad(value, (x, y), create_graph=True)
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a, b.detach())
    (alone,) = torch.autograd.grad(value, x)
    torch.testing.assert_close(alone, fast[0])


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


@pytest.mark.sanitize
@pytest.mark.parametrize("norm", [1, 2])
def test_deterministic_gradient(norm, device, dtype, deterministic):
    """The same bits every time, and exact in each coordinate however small beside the others."""
    axes = torch.tensor([1, 1e-3, 1e-10], device=device, dtype=dtype)
    x, y = (p * axes for p in make(uniform, 3, 5000, 40, dtype=dtype, device=device))
    weight = torch.randn(3, 5000, device=device, dtype=dtype).exp().pow(3)  # of all sizes
    n = torch.tensor([5000, 0, 777], device=device)
    y.requires_grad_()

    def gradient():
        dist, idx = nearest(x, y, x_lengths=n, norm=norm)
        return torch.autograd.grad((dist * weight).sum(), y)[0], idx

    found, idx = gradient()
    for _ in range(3):
        assert torch.equal(found, gradient()[0])
    at = idx.clamp_min(0).unsqueeze(-1).expand_as(x)
    diff = x.double() - y.detach().double().gather(1, at)
    terms = -weight.double().unsqueeze(-1) * (2 * diff if norm == 2 else diff.sign())
    terms = terms * (idx >= 0).unsqueeze(-1)
    exact, size = torch.zeros_like(y, dtype=torch.float64), torch.zeros_like(y, dtype=torch.float64)
    for b in range(3):
        exact[b].index_add_(0, at[b, :, 0], terms[b])
        size[b].index_add_(0, at[b, :, 0], terms[b].abs())
    if device.type == "cpu":  # sums in the clouds' own dtype
        size = size * 100
    rounding = 4 * torch.finfo(dtype).eps if dtype == torch.float32 else 1e-13
    assert ((found.double() - exact).abs() <= rounding * size).all()


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


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_gradient_of_a_point_that_is_nearest_to_many(share, device):
    """Terms of one sign, of a hub alone and mixed with others: no digit of float32 is lost."""
    n = 200_000
    x = torch.rand(n, 3, device=device) + 1
    y = torch.tensor([[0.0, 0, 0], [9, 9, 9]], device=device)
    elsewhere = torch.rand(n, device=device) >= share
    x[elsewhere] += 7
    y.requires_grad_()
    terms = 2 * (y.detach().double()[elsewhere.long()] - x.double())
    exact = torch.stack([terms[~elsewhere].sum(0), terms[elsewhere].sum(0)])
    (fast,) = torch.autograd.grad(nearest(x, y).dist.sum(), y)
    (slow,) = torch.autograd.grad(nearest(x, y).dist.sum(), y, create_graph=True)
    (fused,) = torch.autograd.grad(chamfer(x, y, direction="x_to_y", point_reduction="sum"), y)
    for found in (fast, slow, fused):
        torch.testing.assert_close(found.double(), exact, rtol=3e-7, atol=0)


@pytest.mark.parametrize("bad", [10**7, 50, -2, -(2**62)])
def test_index_that_was_changed_shows_in_the_gradient(bad, device):
    """The memory behind idx is the caller's, and torch cannot see what numpy writes there."""
    x, y = (p.requires_grad_() for p in make(uniform, 2, 40, 50, device=device))
    for create_graph in (False, True):
        dist, idx = nearest(x, y)
        idx.data[0, 3] = bad
        for grad in torch.autograd.grad(dist.sum(), (x, y), create_graph=create_graph):
            assert grad[1].isfinite().all()
        assert torch.autograd.grad(nearest(x, y).dist.sum(), x)[0].isfinite().all()
    op = torch.ops.pointloss.nearest_backward.default
    weight = torch.ones(2, 40, device=device)
    for deterministic in (False, True):
        args = (weight, None, x.detach(), y.detach(), idx, idx[:, :0], 2)
        x_grad, y_grad = op(*args, True, True, deterministic)
        assert x_grad[0, 3].isnan().all()
        assert x_grad.isnan().sum() == 3
        assert y_grad.isfinite().all()
    found = torch.cat([idx.flatten(), torch.zeros(100, dtype=torch.int64, device=device)])
    op = torch.ops.pointloss.chamfer_backward.default
    one = torch.ones((), device=device)
    args = (x.detach(), y.detach(), None, None, found, 2, True, True, "sum", "sum")
    assert op(one, *args, True, True, False)[0].isnan().sum() == 3


LOSSES = {
    "nearest": lambda x, y: nearest(x, y).dist.sum(),
    "nearest_both": lambda x, y: sum(found.dist.sum() for found in nearest_both(x, y)),
    "k": lambda x, y: nearest(x, y, k=3).dist.sum(),
    "index": lambda x, y: NearestIndex(y).query(x).dist.sum(),
    "chamfer": lambda x, y: chamfer(x, y, squared=False),
    "emd": emd,
}


@pytest.mark.sanitize
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("strict", [False, True], ids=["any order", "deterministic"])
def test_a_cloud_that_needs_no_gradient_costs_none(name, strict, device, request):
    """The other's gradient is the same, and that one's is never computed."""
    if strict or name == "emd":
        request.getfixturevalue("deterministic")
    for dim, n, m in ((3, 700, 600), (5, 70, 60)):
        clouds = [torch.rand(2, k, dim, device=device) for k in (n, m)]
        both = [p.clone().requires_grad_() for p in clouds]
        whole = torch.autograd.grad(LOSSES[name](*both), both)
        for side in (0, 1):
            some = list(clouds)
            some[side] = both[side]
            with Written() as written:
                (grad,) = torch.autograd.grad(LOSSES[name](*some), both[side])
            torch.testing.assert_close(grad, whole[side])
            assert [size > 0 for size in written.sizes] == [side == 0, side == 1]


class Written(TorchDispatchMode):
    """How many numbers each gradient has that a backward op returns."""

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        out = op(*args, **(kwargs or {}))
        if op._schema.name.endswith("_backward") and op.namespace == "pointloss":
            self.sizes = [grad.numel() for grad in out]
        return out
