# SPDX-License-Identifier: MIT
import pytest
import torch
from clouds import KINDS, make, surface, uniform
from streams import capture

from pointloss import EMDLoss, assign, emd, reference


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
@pytest.mark.parametrize("squared", [False, True], ids=["plain", "squared"])
def test_within_rtol_of_the_optimum(kind, squared, device, dtype):
    for n, m in ((1, 1), (64, 64), (30, 90), (90, 30)):
        x, y = make(kind, 2, n, m, dtype=dtype, device=device)
        value = emd(x, y, squared=squared, rtol=1e-3, batch_reduction="none").double().cpu()
        optimum = reference.optimal_cost(x, y, squared)
        rounding = 1e-5 if dtype == torch.float32 else 1e-12
        assert (value >= optimum * (1 - rounding)).all()
        assert (value <= optimum / (1 - 1e-3) * (1 + rounding)).all()
        assert value.dtype == torch.float64


def test_reductions(device):
    x, y = make(surface, 3, 30, 40, device=device)
    found = assign(x, y)
    per_cloud = emd(x, y, batch_reduction="none")
    torch.testing.assert_close(per_cloud, found.cost.float())
    torch.testing.assert_close(emd(x, y), per_cloud.mean())
    torch.testing.assert_close(emd(x, y, batch_reduction="sum"), per_cloud.sum())
    torch.testing.assert_close(
        emd(x, y, point_reduction="sum", batch_reduction="none"), 30 * per_cloud
    )
    unreduced = emd(x, y, point_reduction="none")
    torch.testing.assert_close(unreduced.mean(1), per_cloud)
    swapped = emd(y, x, point_reduction="none")
    assert (swapped == 0).sum() == 30  # 10 of 40 points of each cloud have no partner
    torch.testing.assert_close(emd(y, x, batch_reduction="none"), per_cloud, rtol=2e-2, atol=0)


def test_lengths_equal_the_cut_clouds(device):
    x, y = make(surface, 3, 30, 40, device=device)
    n, m = torch.tensor([30, 1, 17], device=device), torch.tensor([12, 40, 0], device=device)
    padded = emd(x, y, x_lengths=n, y_lengths=m, rtol=1e-4, batch_reduction="none")
    for b in range(3):
        cut = emd(x[b, : n[b]], y[b, : m[b]], rtol=1e-4)
        torch.testing.assert_close(padded[b], cut, rtol=2e-4, atol=0)


@pytest.mark.parametrize("squared", [False, True], ids=["plain", "squared"])
@pytest.mark.parametrize("sizes", [(6, 6), (5, 8), (8, 5)])
def test_gradients(squared, sizes, device):
    x = torch.rand(2, sizes[0], 3, device=device, dtype=torch.float64, requires_grad=True)
    y = torch.rand(2, sizes[1], 3, device=device, dtype=torch.float64, requires_grad=True)

    def loss(a, b):
        return emd(a, b, squared=squared, rtol=0)

    assert torch.autograd.gradcheck(loss, (x, y))
    assert torch.autograd.gradgradcheck(loss, (x, y))


def test_gradient_is_deterministic_and_the_pairs_direction(device, deterministic):
    x, y = make(surface, 2, 200, 200, device=device)
    x, y = x.requires_grad_(), y.requires_grad_()
    idx = assign(x, y).idx
    grads = [torch.autograd.grad(emd(x, y), (x, y)) for _ in range(2)]
    assert torch.equal(grads[0][0], grads[1][0])
    assert torch.equal(grads[0][1], grads[1][1])
    partner = y.gather(1, idx.unsqueeze(-1).expand(-1, -1, 3))
    unit = (x - partner) / (x - partner).norm(dim=-1, keepdim=True)
    torch.testing.assert_close(grads[0][0], unit / 400)
    torch.testing.assert_close(
        grads[0][1].gather(1, idx.unsqueeze(-1).expand(-1, -1, 3)), -unit / 400
    )


def test_coincident_pairs_have_gradient_zero(device):
    x = torch.rand(1, 50, 3, device=device)
    y = x.flip(1).clone().requires_grad_()
    x.requires_grad_()
    value = emd(x, y)
    assert value == 0
    gx, gy = torch.autograd.grad(value, (x, y))
    assert gx.eq(0).all()
    assert gy.eq(0).all()


def test_what_cannot_be_judged_is_nan(device):
    x, y = make(uniform, 3, 10, 20, device=device)
    y[0, 19] = torch.nan
    m = torch.tensor([20, 21, 20], device=device)
    value = emd(x, y, y_lengths=m, batch_reduction="none")
    assert value.isnan().tolist() == [True, True, False]
    x.requires_grad_()
    emd(x, y, y_lengths=m).backward()
    assert not x.grad.isnan().any()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_padding_never_reaches_a_gradient(value, device):
    x, y = make(surface, 2, 20, 30, dtype=torch.float64, device=device)
    x[1, 5:], y[1, 7:] = value, value
    n, m = torch.tensor([20, 5], device=device), torch.tensor([30, 7], device=device)
    x, y = x.requires_grad_(), y.requires_grad_()
    for squared in (False, True):
        value_ = emd(x, y, x_lengths=n, y_lengths=m, squared=squared)
        grads = torch.autograd.grad(value_, (x, y), create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in grads), (x, y))
        for grad, length in zip((*grads, *second), (5, 7, 5, 7), strict=True):
            assert grad.isfinite().all()
            assert grad[1, length:].eq(0).all()


def test_empty_conventions(device):
    x, y = make(uniform, 2, 5, 6, device=device)
    assert emd(x[:0], y[:0]) == 0
    x.requires_grad_()
    value = emd(x, y[:, :0])
    assert value == 0
    value.backward()
    assert x.grad.eq(0).all()
    assert emd(x[:, :0], y, batch_reduction="none").tolist() == [0, 0]
    lengths = torch.tensor([0, 1], device=device)
    assert emd(x[:, :0], y, x_lengths=lengths, batch_reduction="none")[1].isnan()


def test_single_cloud_and_half(device, deterministic):
    x, y = make(uniform, 1, 20, 20, device=device)
    assert emd(x[0], y[0]).shape == ()
    assert torch.equal(emd(x[0], y[0]), emd(x, y))
    half = x.bfloat16().requires_grad_()
    emd(half, y.bfloat16()).backward()
    assert half.grad.dtype == torch.bfloat16


def test_module_keeps_prices_per_sample(device, deterministic):
    x, y = make(surface, 4, 200, 200, device=device)
    loss = EMDLoss(rtol=1e-3, price_cache=(10, 200)).to(device)
    ids = torch.tensor([9, 0, 4, 2], device=device)
    first = loss(x, y, ids)
    zeros = torch.zeros(4, 200, dtype=torch.float64, device=device)  # an empty cache's prices
    cold = assign(x, y, rtol=1e-3, price=zeros)
    torch.testing.assert_close(loss.price_cache[ids], cold.price.float())
    assert loss.price_cache[1].eq(0).all()
    torch.testing.assert_close(loss(x, y, ids), first, rtol=2e-3, atol=0)
    warm = assign(x, y, rtol=1e-3, price=loss.price_cache[ids])
    assert (warm.rounds < cold.rounds).all()
    fresh = EMDLoss(price_cache=(10, 200))
    fresh.load_state_dict(loss.state_dict())
    assert torch.equal(fresh.price_cache.to(device), loss.price_cache)


def test_module_is_the_function(device, deterministic):
    x, y = make(uniform, 2, 15, 16, device=device)
    options = {"squared": True, "rtol": 1e-3, "batch_reduction": "sum"}
    assert torch.equal(EMDLoss(**options)(x, y), emd(x, y, **options))
    assert "squared=True" in repr(EMDLoss(**options))


def test_compile_fullgraph(device, deterministic):
    x = torch.rand(2, 20, 3, device=device, requires_grad=True)
    y = torch.rand(2, 20, 3, device=device)
    torch.compile(emd, fullgraph=True)(x, y).backward()
    grad, x.grad = x.grad, None
    emd(x, y).backward()
    torch.testing.assert_close(grad, x.grad)


def test_training_step_in_a_cuda_graph(cuda, deterministic):
    x, y = make(surface, 2, 200, 200, device="cuda")
    x.requires_grad_(), y.requires_grad_()
    n = torch.tensor([200, 10], device="cuda")

    def step():
        x.grad = y.grad = None
        value = emd(x, y, x_lengths=n)
        value.backward()
        return value

    value, replay = capture(step)
    with torch.no_grad():
        y.mul_(1.5)
    n.copy_(torch.tensor([7, 200]))  # lengths may change between replays
    replay()
    grads = x.grad.clone(), y.grad.clone()
    expected = step()
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(grads, (x.grad, y.grad))
