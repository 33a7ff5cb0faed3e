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


def matched_costs(cost, found):
    """The matched costs [B, min(N, M)] in float64 of one-to-one matchings, on the CPU."""
    rows = []
    for c, idx in zip(cost.cpu().double(), found.idx.cpu(), strict=True):
        partner = idx[idx >= 0]
        assert len(partner) == len(partner.unique()) == min(c.shape)
        rows.append(c[idx >= 0, partner])
    return torch.stack(rows)


def assert_matched(cost, found, rtol):
    """One-to-one, with a certificate that covers the true gap and that anybody can check."""
    costs, best = matched_costs(cost, found), reference.least_cost(cost)
    mean, size = costs.mean(1), costs.abs().mean(1)
    torch.testing.assert_close(found.cost.cpu(), mean, rtol=1e-9, atol=1e-9 * size.max().item())
    gap = found.gap.cpu()
    # The roundings of scipy, and of the sums here, are the only allowance.
    assert (mean - best <= (gap + 1e-12) * size).all()
    assert (mean - best >= -1e-12 * size).all()
    c, price = cost.cpu().double(), found.price.cpu()
    c = c if c.shape[1] <= c.shape[2] else c.mT
    assert (price >= 0).all()
    bound = ((c + price.unsqueeze(1)).amin(2).sum(1) - price.sum(1)) / c.shape[1]
    assert (mean - bound <= (gap + 1e-12) * size + 1e-12 * price.amax(1)).all()
    assert found.converged.all()
    assert ((gap <= rtol) | (gap * size <= 1e-9 * c[c.isfinite()].abs().max())).all()
