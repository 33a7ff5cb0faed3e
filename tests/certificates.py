# SPDX-License-Identifier: MIT
"""What every assignment must keep, judged by the reference."""

import torch

from pointloss import assign, reference


def assert_valid(x, y, found, rtol, squared=False):
    """An injection whose certificate covers the true gap, and whose flags tell the truth."""
    cost = reference.matching_cost(x, y, found.idx, squared)  # raises unless it is one-to-one
    optimum = reference.optimal_cost(x, y, squared)
    torch.testing.assert_close(found.cost.cpu(), cost, rtol=1e-9, atol=0)
    gap = found.gap.cpu()
    # scipy's own rounding is the only allowance.
    true_gap = torch.where(cost > 0, (cost - optimum) / cost, 0)
    assert (true_gap >= -1e-12).all(), true_gap
    assert (gap >= true_gap - 1e-12).all(), (gap, true_gap)
    # A gap that float64 cannot tell from 0 is converged at any rtol; 1e-9 is far above it here.
    converged = found.converged.cpu()
    assert converged[gap <= rtol].all()
    assert not converged[gap > max(rtol, 1e-9)].any()
    return gap


def assert_covered_by_prices(x, y, found):
    """One pair of clouds: an injection whose certificate covers the gap that its prices prove."""
    cost = reference.matching_cost(x, y, found.idx)  # raises unless it is one-to-one
    torch.testing.assert_close(found.cost.cpu(), cost, rtol=1e-9, atol=0)
    matrix = torch.cdist(x[0].double(), y[0].double(), compute_mode="donot_use_mm_for_euclid_dist")
    bound = ((matrix + found.price[0]).amin(1).sum() - found.price[0].sum()) / x.shape[1]
    bound = bound.clamp_min(0)  # no cost is less, so that no gap is above 1
    assert (cost[0] - bound.cpu()) / cost[0] <= found.gap[0].cpu() + 1e-12


def assert_same_bits(x, y):
    """Every time, and of each cloud alone as in the batch."""
    together = assign(x, y)
    assert all(torch.equal(a, b) for a, b in zip(together, assign(x, y), strict=True))
    for b in range(len(x)):
        alone = assign(x[b], y[b])
        assert torch.equal(alone.idx, together.idx[b])
        assert torch.equal(alone.price, together.price[b])
