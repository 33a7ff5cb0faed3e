# SPDX-License-Identifier: MIT
import pytest
import torch

from pointloss import optimal_scale, reference

METHODS = ("least_squares", "median", "weiszfeld")
every = pytest.mark.parametrize("method", METHODS)


def pairs(device="cpu", dtype=torch.float64, batch=3, n=15):
    x = torch.randn(batch, n, 3, dtype=torch.float64)
    y = 2.5 * x + 0.3 * torch.randn(batch, n, 3, dtype=torch.float64)
    return x.to(device, dtype), y.to(device, dtype)


@pytest.mark.parametrize(("method", "power"), [("least_squares", 2), ("weiszfeld", 1)])
def test_agrees_with_a_search(method, power, dtype, device):
    x, y = pairs(device, dtype)
    found = optimal_scale(x, y, method=method, rounds=60)
    expected = reference.optimal_scale(x, y, power)
    torch.testing.assert_close(found.double().cpu(), expected, rtol=1e-4, atol=0)
    alone = optimal_scale(x[1], y[1], method=method, rounds=60)
    torch.testing.assert_close(alone, found[1])


def test_median_agrees_with_torch(device):
    x, y = pairs(device)
    own = ((x * y).sum(-1) / x.square().sum(-1)).median(1).values
    torch.testing.assert_close(optimal_scale(x, y, method="median"), own)


def test_by_hand(device):
    x = torch.ones(5, 1, device=device)
    y = torch.tensor([[2.0], [2], [2], [2], [7]], device=device)
    assert optimal_scale(x, y).item() == pytest.approx(3)
    assert optimal_scale(x, y, method="median").item() == 2
    assert optimal_scale(x, y, method="weiszfeld", rounds=50).item() == pytest.approx(2, abs=1e-3)


@every
def test_recovers_a_factor(method, device):
    x, _ = pairs(device)
    expected = torch.full((3,), 0.4, device=device).double()
    torch.testing.assert_close(optimal_scale(x, 0.4 * x, method=method), expected)


@every
def test_masked_and_degenerate(method, device):
    x, y = pairs(device)
    mask = torch.ones(3, 15, dtype=torch.bool, device=device)
    mask[0, 9:], mask[1] = False, False
    bad = torch.where(mask.unsqueeze(-1), x, torch.nan)
    bad[2] = 0
    bad.requires_grad_()
    found = optimal_scale(bad, y, mask=mask, method=method)
    torch.testing.assert_close(found[0], optimal_scale(x[0, :9], y[0, :9], method=method))
    assert found[1:].eq(1).all()
    found.sum().backward()
    assert bad.grad.isfinite().all()


@pytest.mark.parametrize("method", ["least_squares", "median"])
def test_gradients_and_compile(method, device, gradcheck):
    inputs = [v.requires_grad_() for v in pairs(device, batch=1, n=3)]
    gradcheck(lambda x, y: optimal_scale(x, y, method=method), inputs)
    compiled = torch.compile(optimal_scale, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*inputs, method=method),
                               optimal_scale(*inputs, method=method))  # fmt: skip


def test_errors():
    with pytest.raises(ValueError, match="optimal_scale: method must be one of 'least_squares'"):
        optimal_scale(torch.zeros(2, 3), torch.zeros(2, 3), method="l2")
    with pytest.raises(ValueError, match="optimal_scale: rounds must be at least 0, got -1"):
        optimal_scale(torch.zeros(2, 3), torch.zeros(2, 3), rounds=-1)
