# SPDX-License-Identifier: MIT
"""Costs over many decades, down to where floats and doubles underflow; what a 0 may claim."""

import math

import numpy as np
import pytest
import torch
from certificates import assert_valid
from scipy.optimize import linear_sum_assignment

from pointloss import assign
from pointloss.testing.clouds import KINDS, make

# The largest measured was 5e-13.
EXACT = 1e-9


def true_gap(x, y, idx):
    """(cost - optimum) / cost of a matching of two single clouds, of costs that do not underflow.

    numpy's hypot scales, as the square root of summed squares does not.
    """
    x, y = x.cpu().double().numpy(), y.cpu().double().numpy()
    matrix = np.zeros((len(x), len(y)))
    for d in range(x.shape[1]):
        matrix = np.hypot(matrix, x[:, d, None] - y[None, :, d])
    rows = (idx >= 0).nonzero().squeeze(1).cpu().numpy()
    columns = idx.cpu().numpy()[rows]
    assert len(rows) == len(np.unique(columns)) == min(len(x), len(y))
    cost = math.fsum(matrix[rows, columns])
    optimum = math.fsum(matrix[linear_sum_assignment(matrix)])
    return (cost - optimum) / cost if cost > 0 else 0.0


def decades(n, m, low, dtype, device, dim=3):
    """Two clouds of sizes from 1 down to 10 ** low, evenly in the exponent."""
    generator = torch.Generator().manual_seed(0)

    def draw(k):
        p = torch.randn(k, dim, generator=generator, dtype=torch.float64)
        size = 10.0 ** (low * torch.rand(k, 1, generator=generator, dtype=torch.float64))
        return (p / p.norm(dim=1, keepdim=True) * size).to(device, dtype)

    return draw(n), draw(m)


def far_point(n, m, dtype, device):
    """Unit cubes, and one point of the larger cloud at 1e22."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.rand(k, 3, generator=generator).to(device, dtype) for k in (n, m))
    (x if n > m else y)[0] = 1e22
    return x, y


@pytest.mark.parametrize("points", [96, 97, 100, 104, 105])
def test_more_objects_in_one_place_than_a_bidder_remembers(points, device):
    """96 candidates are all that a bidder of the CPU has; more are no complete list."""
    found = assign(torch.zeros(points, 1, device=device), torch.ones(points, 1, device=device))
    assert found.cost.item() == 1
    assert found.converged
    assert found.rounds < 10_000


def test_as_many_in_four_places(device):
    axes = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    x = torch.cat([torch.zeros(98, 2), torch.tensor([[3.0, -9], [-1, -5], [-8, -3], [-4, 0]])])
    x, y = x[None].to(device), axes[torch.arange(102) % 4][None].to(device)
    for a, b in ((x, y), (y, x)):
        assert assert_valid(a, b, assign(a, b, rtol=1e-3), 1e-3).item() <= 1e-3


@pytest.mark.parametrize("sizes", [(500, 700), (700, 500), (600, 600), (500, 505)], ids=str)
def test_one_point_far_away(sizes):
    """Its squares leave nothing of the others' in float: half a minute, and a gap of a tenth."""
    x, y = far_point(*sizes, torch.float32, "cpu")
    found = assign(x, y)
    assert found.converged
    assert true_gap(x, y, found.idx) <= found.gap + 1e-12
    assert found.rounds < 200_000


@pytest.mark.parametrize("sizes", [(1, 1200), (200, 200), (150, 200), (200, 40)], ids=str)
@pytest.mark.parametrize(
    ("low", "dtype"),
    [(-30, torch.float32), (-44, torch.float32), (-100, torch.float64), (-300, torch.float64)],
)
def test_many_decades(low, dtype, sizes, device):
    x, y = decades(*sizes, low, dtype, device)
    for a, b in ((x, y), (y, x)):
        found = assign(a, b)
        assert true_gap(a, b, found.idx) <= found.gap + 1e-12
        underflown = low == -300 and found.gap == 1
        assert device.type != "cpu" or found.converged or underflown
        assert device.type != "cpu" or found.rounds < 100_000


def test_one_bidder_and_costs_that_floats_do_not_tell_apart(device):
    x = torch.zeros(1, 1, device=device)
    y = torch.tensor([[3e-24], [1e-24], [2e-24], [1.0], [1e-23]], device=device)
    found = assign(x, y)
    assert found.idx.item() == 1
    assert found.converged


@pytest.mark.parametrize("top", [1.0, 1e150, 1e300])
@pytest.mark.parametrize("squared", [False, True], ids=["plain", "squared"])
def test_costs_that_underflow_prove_nothing(top, squared, device):
    """Squares of 1e-170 of the extent are 0 in float64, and so is 1e-330 itself."""
    x = torch.zeros(1, 1, dtype=torch.float64, device=device)
    least = torch.tensor([[1.0], [1e-170], [1e-200]], dtype=torch.float64, device=device)
    for y in (top * least, (top * least).flip(0)):
        found = assign(x, y, squared=squared)
        assert found.gap == 1
        assert not found.converged
    pair = top * least[:2]
    same = assign(pair, pair.flip(0), squared=squared)
    assert same.cost == same.gap == 0  # where all partners coincide there is nothing to prove
    assert same.converged


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_an_optimum_is_converged_at_rtol_0(kind, device, dtype):
    """Not at a gap of 0, which no sum of roundings certifies."""
    for sizes in ((50, 50), (130, 130), (60, 90)):
        x, y = make(kind, 1, *sizes, dtype=dtype, device=device)
        found = assign(x, y, rtol=0)
        assert_valid(x, y, found, 0)
        assert found.converged.all()
        assert (found.gap <= EXACT).all()


def test_a_gap_that_is_not_rounding_is_not_converged_at_rtol_0(device):
    x, y = make(KINDS[0], 1, 300, 300, device=device)
    found = assign(x, y, rtol=0, max_rounds=3)
    assert found.gap.item() > 1e-6
    assert not found.converged.any()
