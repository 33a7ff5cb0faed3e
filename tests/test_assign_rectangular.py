# SPDX-License-Identifier: MIT
"""More points in one cloud than in the other: every point of the smaller is matched."""

import pytest
import torch
from certificates import assert_same_bits, assert_valid

from pointloss import assign, reference
from pointloss.testing.clouds import (
    KINDS,
    approach,
    blob,
    duplicates,
    lattice,
    line,
    make,
    noisy,
    outlier,
    ring,
    surface,
    two_scales,
)

# One more, as many more as are still solved as equal sizes, one beyond that, and many more.
SIZES = [(64, 65), (64, 80), (81, 64), (64, 81), (33, 300), (400, 2), (180, 450)]


def assert_certified(x, y, found, rtol):
    """As assert_valid, with the dual of the returned prices in place of the optimum."""
    cost = reference.matching_cost(x, y, found.idx)  # raises unless it is one-to-one
    torch.testing.assert_close(found.cost.cpu(), cost, rtol=1e-9, atol=0)
    small, large = (x, y) if x.shape[1] <= y.shape[1] else (y, x)
    for b in range(len(x)):
        price = found.price[b].cpu()
        matrix = reference.pairwise(small[b].double().cpu(), large[b].double().cpu()).sqrt()
        bound = ((matrix + price).amin(1).sum() - price.sum()) / small.shape[1]
        # At cost 0 nothing is left to gain, whatever the prices.
        assert cost[b] == 0 or (cost[b] - bound) / cost[b] <= found.gap[b].cpu() + 1e-12
    assert (found.price >= 0).all()
    assert torch.equal(found.converged, found.gap <= rtol)
    assert found.converged.all()


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("squared", [False, True], ids=["plain", "squared"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_against_the_optimum(kind, squared, sizes, device):
    x, y = make(kind, 2, *sizes, device=device)
    for rtol in (1e-2, 1e-4):
        found = assign(x, y, squared=squared, rtol=rtol)
        gap = assert_valid(x, y, found, rtol, squared)
        assert found.converged.all(), (rtol, gap)
        assert ((found.idx >= 0).sum(1) == min(sizes)).all()


@pytest.mark.parametrize("sizes", [(90, 225), (180, 450), (200, 500), (600, 601)], ids=str)
def test_costs_of_two_scales(sizes, device, dtype):
    """Squared costs from 1 down to 1e-8, more objects than bidders.

    Half of the objects are nearly equally good for half of the bidders: more than a bidder keeps.
    """
    x, y = make(two_scales, 2, *sizes, dtype=dtype, device=device)
    found = assign(x, y, squared=True, rtol=1e-6)
    assert_valid(x, y, found, 1e-6, squared=True)
    assert found.converged.all()


@pytest.mark.parametrize("kind", [outlier, lattice])
def test_price_wars_come_to_an_end(kind):
    """Bids of eps apiece against prices of far groups: a million rounds, but for path searches."""
    x, y = make(kind, 1, 450, 600 if kind is lattice else 452)
    found = assign(x, y, squared=True, rtol=0)
    gap = assert_valid(x, y, found, 0, squared=True)
    assert (gap <= 1e-9).all()
    assert (found.rounds < 200_000).all()


@pytest.mark.parametrize("squared", [False, True], ids=["plain", "squared"])
def test_optimum_of_nothing_but_rounding(squared, device):
    """Every sixth point of a ring is one of the other's but for its last bits."""
    x, y = make(ring, 1, 600, 100, dtype=torch.float64, device=device)
    found = assign(x, y, squared=squared)
    assert_valid(x, y, found, 1e-2, squared)
    if device.type == "cpu":  # CUDA's integers do not resolve it
        assert (found.cost > 0).all()
        assert (found.cost < 1e-14).all()
        assert found.converged.all()


@pytest.mark.parametrize("sizes", [(700, 701), (701, 900), (700, 4000), (2100, 600)])
@pytest.mark.parametrize("kind", [surface, noisy, blob, line, ring, lattice, duplicates])
def test_many_points(kind, sizes, device):
    """Enough for rounds that not all bidders fit in, and for crowds around a few objects."""
    x, y = make(kind, 1, *sizes, device=device)
    assert_certified(x, y, assign(x, y), 1e-2)


def test_more_objects_than_shared_memory_holds(cuda):
    x, y = make(surface, 1, 500, 40000, device=cuda)
    assert_certified(x, y, assign(x, y), 1e-2)


@pytest.mark.sanitize
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_few_dimensions(dim, device, dtype):
    x = torch.randn(2, 50, dim, device=device, dtype=dtype)
    y = torch.randn(2, 170, dim, device=device, dtype=dtype)
    found = assign(x, y, rtol=1e-3)
    assert_valid(x, y, found, 1e-3)
    assert found.converged.all()


@pytest.mark.sanitize
def test_lengths_choose_the_solver_for_each_cloud(device, deterministic):
    """Equal, nearly equal and very unequal clouds in one batch are solved as they are alone."""
    x, y = make(surface, 6, 90, 300, device=device)
    n = torch.tensor([90, 90, 90, 30, 90, 1], device=device)
    m = torch.tensor([90, 100, 300, 300, 20, 300], device=device)
    found = assign(x, y, x_lengths=n, y_lengths=m, rtol=1e-3)
    for b in range(6):
        alone = assign(x[b, : n[b]], y[b, : m[b]], rtol=1e-3)
        assert torch.equal(found.idx[b, : n[b]], alone.idx)
        assert torch.equal(found.price[b, : max(n[b], m[b])], alone.price)
        assert found.converged[b]


@pytest.mark.parametrize("sizes", [(100, 4200), (300, 5000)], ids=str)
def test_same_bits_in_any_batch_without_asking(sizes, device):
    """Clouds of which the larger has more than 4096 points and a quarter race for nothing."""
    x, y = make(blob, 5, *sizes, device=device)
    assert_same_bits(x, y)


@pytest.mark.parametrize("sizes", [(200, 210), (200, 1000)])
def test_a_bound_on_rounds_still_gives_an_injection(sizes, device):
    x, y = make(surface, 2, *sizes, device=device)
    for max_rounds in (1, 2, 7, 30):
        found = assign(x, y, rtol=1e-5, max_rounds=max_rounds)
        assert_valid(x, y, found, 1e-5)
        assert (found.rounds <= max_rounds).all()


@pytest.mark.parametrize("sizes", [(300, 320), (300, 1500)])
def test_warm_start(sizes, device):
    x, y = make(surface, 2, *sizes, device=device)
    cold = assign(x, y, rtol=1e-3)
    moved = approach(x, y, cold.idx)
    warm = assign(moved, y, rtol=1e-3, price=cold.price)
    assert_certified(moved, y, warm, 1e-3)
    assert (warm.rounds < assign(moved, y, rtol=1e-3).rounds).all()
    for value in (torch.nan, torch.inf, 1e300, -3.0):
        price = cold.price.clone()
        price[:, ::3] = value
        assert_certified(x, y, assign(x, y, rtol=1e-3, price=price), 1e-3)
