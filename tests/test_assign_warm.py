# SPDX-License-Identifier: MIT
"""Assignments that begin at the prices, or the prices and the matching, of an earlier one."""

import pytest
import torch
from certificates import assert_covered_by_prices, assert_valid

from pointloss import assign, emd
from pointloss.testing.clouds import approach, blob, duplicates, make, noisy, surface


def again(x, y, earlier, rtol, **options):
    """From an earlier result's prices and matching."""
    found = assign(x, y, rtol=rtol, price=earlier.price, idx=earlier.idx, **options)
    assert_valid(x, y, found, rtol, options.get("squared", False))
    assert found.converged.all()
    return found


def assert_kept(found, earlier):
    assert torch.equal(found.idx, earlier.idx)
    assert found.rounds.eq(0).all()


@pytest.mark.sanitize
def test_warm_start(device):
    x, y = make(surface, 2, 300, 300, device=device)
    cold = assign(x, y, rtol=1e-3)
    same = assign(x, y, rtol=1e-3, price=cold.price)
    assert_valid(x, y, same, 1e-3)
    assert same.converged.all()
    moved = approach(x, y, cold.idx)
    warm = assign(moved, y, rtol=1e-3, price=cold.price)
    assert_valid(moved, y, warm, 1e-3)
    assert warm.converged.all()
    assert (warm.rounds < assign(moved, y, rtol=1e-3).rounds).all()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -5.0, 1e300, "random"])
def test_any_start_prices_are_safe(value, device):
    x, y = make(noisy, 1, 80, 100, device=device)
    price = torch.rand(1, 100, device=device, dtype=torch.float64)
    if value != "random":
        price[:, ::3] = value
    found = assign(x, y, rtol=1e-3, price=price)
    assert_valid(x, y, found, 1e-3)
    assert found.converged.all()


@pytest.mark.parametrize("points", [1, 2, 31, 130])
@pytest.mark.parametrize("kind", [surface, noisy, blob])
@pytest.mark.parametrize("squared", [False, True], ids=["plain", "squared"])
def test_a_matching_that_still_holds_is_kept(kind, points, squared, device, dtype):
    """Points that move towards their partners leave the matching optimal, and plain prices too."""
    x, y = make(kind, 2, points, points, dtype=dtype, device=device)
    cold = assign(x, y, squared=squared, rtol=1e-4)
    assert_kept(again(x, y, cold, 1e-3, squared=squared), cold)
    moved = approach(x, y, cold.idx)
    fitting = cold._replace(price=(0.9 if squared else 1) * cold.price)
    assert_kept(again(moved, y, fitting, 1e-3, squared=squared), cold)


@pytest.mark.parametrize("kind", [noisy, blob])
def test_a_matching_of_many_points_is_kept(kind, device):
    """Enough for several blocks a cloud."""
    x, y = make(kind, 2, 1100, 1100, device=device)
    cold = assign(x, y)
    assert_kept(again(x, y, cold, 1e-2), cold)


@pytest.mark.parametrize("sizes", [(300, 320), (320, 300), (100, 700), (700, 100)])
@pytest.mark.parametrize("kind", [noisy, blob])
def test_a_matching_of_unequal_clouds_is_kept(kind, sizes, device):
    """On CUDA of clouds that differ by a quarter at most; elsewhere only the prices count."""
    x, y = make(kind, 2, *sizes, device=device)
    cold = assign(x, y, rtol=1e-4)
    found = again(x, y, cold, 1e-3)
    if device.type == "cpu" or max(sizes) < 1.25 * min(sizes):
        assert_kept(found, cold)


@pytest.mark.parametrize("sizes", [(300, 300), (300, 320), (320, 300), (100, 700), (1100, 1100)])
@pytest.mark.parametrize("kind", [noisy, blob])
def test_a_matching_that_is_not_good_enough_is_mended(kind, sizes, device):
    x, y = make(kind, 1, *sizes, device=device)
    again(x, y, assign(x, y, rtol=1e-2), 1e-3)


@pytest.mark.parametrize("sizes", [(80, 80), (80, 90), (90, 80), (80, 300), (300, 80), (1, 40)])
@pytest.mark.parametrize("kind", [noisy, duplicates])
@pytest.mark.parametrize("given", ["one", "none", "part", "shuffled", "beyond", "random"])
def test_any_start_matching_is_safe(given, kind, sizes, device):
    x, y = make(kind, 2, *sizes, device=device)
    cold = assign(x, y, rtol=1e-3)
    idx = cold.idx.clone()
    if given == "one":
        idx[:] = sizes[1] - 1
    elif given == "none":
        idx[:] = -1
    elif given == "part":
        idx[:, ::2] = -7
    elif given == "shuffled":
        idx = idx.flip(1)
    elif given == "beyond":
        idx[:, 0], idx[:, -1] = sizes[1], 2**40 if sizes[0] > 1 else -(2**63)
    else:
        idx = torch.randint(-2, sizes[1] + 2, idx.shape).to(device)
    for price in (cold.price, torch.zeros_like(cold.price), cold.price.flip(1)):
        again(x, y, cold._replace(price=price, idx=idx), 1e-3)


@pytest.mark.sanitize
def test_lengths_and_a_matching(device, deterministic):
    """Each cloud begins at its own part, as it does alone; what is beyond a length counts not."""
    x, y = make(surface, 4, 60, 60, device=device)
    n = torch.tensor([60, 20, 0, 50], device=device)
    m = torch.tensor([60, 20, 60, 40], device=device)
    cold = assign(x, y, x_lengths=n, y_lengths=m, rtol=1e-4)
    kept = assign(x, y, x_lengths=n, y_lengths=m, rtol=1e-3, price=cold.price, idx=cold.idx)
    assert_kept(kept, cold)
    idx = cold.idx.clone()
    idx[:, :3] = 45  # no point of the second cloud, nor of the last
    idx[1, 20:] = cold.idx[1, :1]  # free now, but padding does not ask
    found = assign(x, y, x_lengths=n, y_lengths=m, rtol=1e-3, price=cold.price, idx=idx)
    assert found.converged.all()
    for b in (0, 1, 3):
        k = max(n[b], m[b])
        alone = assign(
            x[b, : n[b]], y[b, : m[b]], rtol=1e-3, price=cold.price[b, :k], idx=idx[b, : n[b]]
        )
        assert torch.equal(found.idx[b, : n[b]], alone.idx)


@pytest.mark.parametrize("points", [300, 1100])
def test_a_bound_on_rounds_after_a_matching(points, device):
    x, y = make(surface, 1, points, points, device=device)
    cold = assign(x, y, rtol=0.1)
    found = assign(x, y, rtol=1e-4, price=cold.price, idx=cold.idx, max_rounds=3)
    assert_covered_by_prices(x, y, found)
    assert (found.rounds <= 3).all()


def test_emd_takes_a_matching(device, deterministic):
    x, y = make(blob, 2, 100, 100, device=device)
    cold = assign(x, y, rtol=1e-4)
    moved = approach(x, y, cold.idx).requires_grad_()
    value = emd(moved, y, rtol=1e-3, price=cold.price, idx=cold.idx, batch_reduction="none")
    (grad,) = torch.autograd.grad(value.sum(), moved)
    diff = moved.detach() - y.gather(1, cold.idx.unsqueeze(-1).expand(-1, -1, 3))
    torch.testing.assert_close(value, diff.norm(dim=-1).mean(1))
    torch.testing.assert_close(grad, diff / diff.norm(dim=-1, keepdim=True) / 100)
