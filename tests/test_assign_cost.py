# SPDX-License-Identifier: MIT
"""Assignments by a matrix of costs, judged by scipy's linear_sum_assignment."""

import pytest
import torch
from certificates import assert_matched, matched_costs
from hypothesis import given
from hypothesis import strategies as st

from pointloss import assign, reference
from pointloss.testing.clouds import make, surface


def uniform(*shape):
    return torch.rand(*shape, dtype=torch.float64)


def gauss(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def negative(*shape):
    return -3 - torch.rand(*shape, dtype=torch.float64)


def tied(*shape):
    """Costs of -3 to 3: many matchings are the best, and the matched costs may add up to 0."""
    return torch.randint(-3, 4, shape).double()


def product(b, n, m):
    """i * j, which makes an auction bid longest; its optimum takes the rows in turn."""
    return (torch.arange(1.0, n + 1)[:, None] * torch.arange(1.0, m + 1)).expand(b, n, m).double()


def uneven(b, n, m):
    """Rows from 1e-8 to 1e8."""
    return torch.randn(b, n, m).double() * 10.0 ** torch.randint(-8, 9, (b, n, 1))


def forbidding(*shape):
    """A quarter of the pairs is forbidden."""
    return torch.where(torch.rand(shape) < 0.25, torch.inf, gauss(*shape))


KINDS = [uniform, gauss, negative, tied, product, uneven, forbidding]
SIZES = [(3, 1, 1), (3, 2, 2), (2, 7, 7), (2, 1, 9), (2, 33, 40), (2, 40, 33), (1, 130, 130)]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)


@every_kind
def test_certified_against_the_optimum(kind, device, dtype):
    for size in SIZES:
        cost = kind(*size).to(device, dtype)
        feasible = reference.least_cost(cost).isfinite().to(device)
        for rtol in (1e-1, 1e-3, 0):
            assert_matched(cost[feasible], assign(cost=cost[feasible], rtol=rtol), rtol)


@every_kind
def test_optimum_in_float64(kind, device):
    cost = kind(2, 60, 60).to(device)
    found = assign(cost=cost, rtol=0)
    best = reference.least_cost(cost)
    size = matched_costs(cost, found).abs().mean(1).max().item()
    torch.testing.assert_close(found.cost.cpu(), best, rtol=0, atol=1e-12 * size)
    assert found.converged.all()


@given(st.integers(0, 2**31), st.integers(1, 12), st.integers(1, 12), st.sampled_from(KINDS),
       st.sampled_from([0.0, 0.3, 0.7]), st.sampled_from([1e-1, 0]))  # fmt: skip
def test_any_small_matrix_property(device, seed, n, m, kind, forbidden, rtol):
    torch.manual_seed(seed)
    cost = torch.where(torch.rand(1, n, m) < forbidden, torch.inf, kind(1, n, m)).to(device)
    found = assign(cost=cost, rtol=rtol)
    if reference.least_cost(cost).isfinite():
        assert_matched(cost, found, rtol)
    else:
        assert_infeasible(found)


def assert_infeasible(found):
    assert found.cost.isinf().all()
    assert found.gap.isinf().all()
    assert not found.converged.any()
    assert (found.idx == -1).all()
    assert (found.price == 0).all()


@pytest.mark.sanitize
@pytest.mark.parametrize("sizes", [(30, 30), (30, 50), (50, 30)], ids=str)
def test_infeasible(sizes, device, dtype):
    """The last of a batch can be solved."""
    n, m = sizes
    cost = gauss(5, n, m).to(device, dtype)
    inside = cost if n <= m else cost.mT  # by bidders and objects
    inside[0, 7] = torch.inf  # nothing is left for one
    inside[1, :5, 4:] = torch.inf  # five share four
    inside[2] = torch.where(torch.rand(inside[2].shape, device=device) < 0.5, torch.inf, 0)
    inside[2, 3:20, 16:] = torch.inf
    inside[3, -2:, 1:] = torch.inf
    found = assign(cost=cost)
    assert_infeasible(type(found)(*(t[:4] for t in found)))
    assert_matched(cost[4:], type(found)(*(t[4:] for t in found)), 1e-2)


def test_a_matching_that_forbidden_pairs_leave_is_found(device):
    """Nothing but the diagonal, hidden, and a few pairs that lead astray."""
    n = 60
    order = torch.randperm(n)
    cost = torch.full((n, n), torch.inf)
    cost[torch.arange(n), order] = 1.0
    cost[torch.arange(n - 1), order[1:]] = 0.0
    found = assign(cost=cost.to(device), rtol=0)
    assert torch.equal(found.idx.cpu(), order)
    assert found.cost == 1
    assert found.converged


def test_a_bound_on_rounds_may_end_the_search(device):
    cost = gauss(1, 50, 50).to(device)
    found = assign(cost=cost, rtol=1e-6, max_rounds=2)
    matched_costs(cost, found)
    assert not found.converged
    cost[:, 1:, 1:] = torch.inf  # all but one compete for one column
    assert_infeasible(assign(cost=cost, max_rounds=1))


@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
def test_costs_that_cannot_be_judged(value, device, dtype):
    cost = gauss(3, 20, 25).to(device, dtype)
    cost[0, 7, 2] = cost[1, 19, 24] = value
    found = assign(cost=cost)
    assert found.cost[:2].isnan().all()
    assert found.gap[:2].isinf().all()
    assert found.converged.tolist() == [False, False, True]
    matched_costs(cost, found)


@pytest.mark.sanitize
def test_empty(device):
    cost = torch.zeros(2, 5, 4, device=device)
    assert assign(cost=cost[:0]).idx.shape == (0, 5)
    for part in (cost[:, :0], cost[:, :, :0]):
        found = assign(cost=part)
        assert (found.idx == -1).all()
        assert found.cost.isinf().all()
        assert found.converged.all()
    neither = assign(cost=cost[:, :0, :0])
    assert neither.cost.tolist() == neither.gap.tolist() == [0, 0]
    assert assign(cost=cost).idx.tolist() == [[0, 1, 2, 3, -1]] * 2


@pytest.mark.sanitize
def test_lengths_and_masks_equal_the_cut_matrices(device):
    cost = gauss(4, 20, 24).to(device)
    n, m = torch.tensor([20, 7, 0, 20], device=device), torch.tensor([24, 24, 3, 9], device=device)
    rows, columns = (torch.arange(k, device=device) for k in (20, 24))
    cost[1, 7:] = torch.nan  # padding is never read
    found = assign(cost=cost, x_lengths=n, y_lengths=m, rtol=0)
    assert found.cost[2].isinf()
    for b in (0, 1, 3):
        cut = cost[b : b + 1, : n[b], : m[b]]
        torch.testing.assert_close(found.cost[b].cpu(), reference.least_cost(cut)[0])
        assert (found.idx[b, n[b] :] == -1).all()
    turned = torch.randperm(20), torch.randperm(24)
    x_mask, y_mask = (rows < n[:, None])[:, turned[0]], (columns < m[:, None])[:, turned[1]]
    mixed = cost[:, turned[0]][:, :, turned[1]]
    masked = assign(cost=mixed, x_mask=x_mask, y_mask=y_mask, rtol=0)
    torch.testing.assert_close(masked.cost, found.cost)
    assert torch.equal(masked.idx >= 0, (found.idx >= 0)[:, turned[0]])
    for b in (0, 1, 3):
        i = masked.idx[b] >= 0
        assert y_mask[b, masked.idx[b, i]].all()
        torch.testing.assert_close(mixed[b, i, masked.idx[b, i]].mean(), masked.cost[b])
    again = assign(cost=mixed, x_mask=x_mask, y_mask=y_mask, price=masked.price, idx=masked.idx)
    torch.testing.assert_close(again.cost, masked.cost, rtol=1e-2, atol=1e-2)


def test_distances_as_costs(device, dtype):
    x, y = make(surface, 2, 90, 100, dtype=dtype, device=device)
    cost = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
    by_cost, by_points = assign(cost=cost, rtol=1e-4), assign(x, y, rtol=1e-4)
    torch.testing.assert_close(by_cost.cost, by_points.cost, rtol=1e-4, atol=0)


def test_a_warm_start_saves_rounds(device):
    cost = uniform(2, 150, 150).to(device)
    cold = assign(cost=cost, rtol=1e-3)
    moved = cost + 1e-5 * torch.randn_like(cost)
    warm = assign(cost=moved, rtol=1e-2, price=cold.price, idx=cold.idx)
    assert_matched(moved, warm, 1e-2)
    assert (warm.rounds < cold.rounds).all()
    wild = assign(cost=cost, price=torch.full_like(cold.price, torch.nan), idx=cold.idx + 7)
    assert_matched(cost, wild, 1e-2)


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e300])
def test_scale_does_not_matter(scale, device):
    cost = gauss(2, 30, 30).to(device)
    plain, scaled = assign(cost=cost), assign(cost=scale * cost)
    torch.testing.assert_close(scaled.cost / scale, plain.cost, rtol=2e-2, atol=0)
    assert scaled.converged.all()


def test_what_is_added_to_a_row_changes_nothing(device):
    """Neither the best matching, nor how well it is found."""
    cost = uniform(1, 40, 40).to(device)
    more = 1e6 * torch.randn(40, 1, dtype=torch.float64, device=device)
    plain, shifted = assign(cost=cost, rtol=0), assign(cost=cost + more, rtol=0)
    torch.testing.assert_close(shifted.cost - more.mean(), plain.cost, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dim", [3, 5])
@pytest.mark.parametrize("sizes", [(150, 150), (100, 160)], ids=str)
def test_atol(sizes, dim, device):
    """In place of rtol, and the larger of the two where both are given."""
    x, y = torch.rand(2, sizes[0], dim, device=device), torch.rand(2, sizes[1], dim, device=device)
    cost = torch.cdist(x.double(), y.double())
    for how in ({"x": x, "y": y}, {"cost": cost}):
        for atol in (1e-2, 1e-4):
            found = assign(**how, rtol=0, atol=atol)
            assert found.converged.all()
            assert (found.cost.cpu() - reference.least_cost(cost) <= atol).all()
            assert (found.gap * found.cost <= atol).all()
        loose = assign(**how, rtol=1e-6, atol=0.1)
        assert loose.converged.all()
        assert (loose.rounds < assign(**how, rtol=1e-6).rounds).all()
        assert assign(**how, rtol=0.1, atol=1e-9).converged.all()
    assert not assign(x, y, rtol=0, atol=1e-4, max_rounds=1).converged.any()


def test_matched_costs_that_are_all_0(device):
    """No gap is relative to them, but converged tells whether it is closed."""
    cost = torch.tensor([[0.0, -1.0], [5.0, 0.0]], device=device)
    for how in ({"rtol": 1e-2}, {"rtol": 0}, {"rtol": 0, "atol": 1e-3}):
        found = assign(cost=cost, **how)
        assert found.idx.tolist() == [0, 1]
        assert found.cost == 0
        assert found.converged
    ended = torch.zeros(40, 40, device=device)
    ended[:, 0], ended[0] = -1.0, 5.0  # all but the first prefer the first column
    ended[0, 0] = 0.0
    found = assign(cost=ended, rtol=0, atol=1e-3)
    assert found.cost == reference.least_cost(ended[None])[0]
    assert found.converged


def test_halves_and_single(device):
    cost = gauss(1, 20, 25).to(device).half()
    found = assign(cost=cost)
    assert torch.equal(found.idx, assign(cost=cost.float()).idx)
    single = assign(cost=cost[0])
    assert torch.equal(single.idx, found.idx[0])
    assert single.price.shape == (25,)


def test_same_bits_every_time_and_in_any_batch(device):
    cost = gauss(3, 70, 80).to(device)
    together = assign(cost=cost)
    assert all(torch.equal(a, b) for a, b in zip(together, assign(cost=cost), strict=True))
    for b in range(3):
        assert torch.equal(assign(cost=cost[b]).idx, together.idx[b])


def test_matched_costs_are_differentiable(device):
    cost = gauss(2, 6, 8).to(device).requires_grad_()
    idx = assign(cost=cost).idx
    cost.gather(2, idx.unsqueeze(2)).mean().backward()
    assert torch.equal(cost.grad, torch.zeros_like(cost).scatter(2, idx.unsqueeze(2), 1 / 12))


def test_torchs_tools(device):
    cost = gauss(2, 10, 12).to(device)
    price = torch.zeros(2, 12, dtype=torch.float64, device=device)
    idx = torch.arange(10, device=device).expand(2, -1)
    n = torch.tensor([3, 10], device=device)
    op = torch.ops.pointloss.assign.default
    torch.library.opcheck(op, (cost, None, n, n, False, 0.1, 0.0, price, idx, 50, True))
    found = assign(cost=cost).idx
    mapped = torch.func.vmap(lambda c: assign(cost=c).idx)(cost)
    assert torch.equal(mapped, found)
    compiled = torch.compile(lambda c: assign(cost=c).idx, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(cost), found)


def test_errors():
    x, cost = torch.zeros(2, 3, 3), torch.zeros(2, 3, 4)
    for how in ({}, {"x": x}, {"x": x, "y": x, "cost": cost}, {"x": x, "cost": cost}):
        with pytest.raises(TypeError, match="assign: .* cost"):
            assign(**how)
    with pytest.raises(
        ValueError, match=r"cost must have shape \[B, N, M\] or \[N, M\], got \[4\]"
    ):
        assign(cost=cost[0, 0])
    with pytest.raises(TypeError, match="cost must be float16, .* got int64"):
        assign(cost=cost.long())
    with pytest.raises(ValueError, match="squared is for points"):
        assign(cost=cost, squared=True)
    for atol in (-1.0, torch.inf, torch.nan):
        with pytest.raises(ValueError, match="atol must be a number >= 0"):
            assign(cost=cost, atol=atol)
    with pytest.raises(ValueError, match=r"y_mask must have shape \[2, 4\], got \[2, 3\]"):
        assign(cost=cost, y_mask=torch.ones(2, 3, dtype=torch.bool))
