# SPDX-License-Identifier: MIT
import pytest
import torch
from certificates import assert_covered_by_prices, assert_same_bits, assert_valid

from pointloss import assign, reference
from pointloss.testing.clouds import (
    KINDS,
    blob,
    duplicates,
    exponents,
    lattice,
    make,
    noisy,
    ring,
    surface,
    uniform,
)
from pointloss.testing.streams import aside, capture

SIZES = [(1, 1, 1), (2, 2, 2), (2, 31, 31), (1, 130, 130), (1, 37, 100), (1, 100, 37), (1, 1, 50)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
@pytest.mark.parametrize("squared", [False, True], ids=["plain", "squared"])
def test_certified_against_the_optimum(kind, squared, device, dtype):
    for batch, n, m in SIZES:
        x, y = make(kind, batch, n, m, dtype=dtype, device=device)
        for rtol in (1e-1, 1e-2, 1e-4):
            found = assign(x, y, squared=squared, rtol=rtol)
            gap = assert_valid(x, y, found, rtol, squared)
            assert found.converged.all(), (kind.__name__, n, m, rtol, gap)


@pytest.mark.parametrize("points", [300, 1024])
@pytest.mark.parametrize("kind", [surface, noisy, blob, ring, duplicates])
def test_hundreds_of_points(kind, points, device):
    """Enough for two blocks a cloud, and for as many as it can have."""
    x, y = make(kind, 2, points, points, device=device)
    found = assign(x, y)
    assert_valid(x, y, found, 1e-2)
    assert found.converged.all()
    assert torch.equal(found.idx.sort(1).values.cpu(), torch.arange(points).expand(2, -1))


@pytest.mark.parametrize("squared", [False, True], ids=["plain", "squared"])
@pytest.mark.parametrize("towards", [[1.0], [0.3, -0.7, 0.55], [0.1] * 5], ids=["1", "3", "5"])
def test_points_on_a_line_are_matched_in_order(towards, squared, device, dtype):
    """In one dimension, and where all points of more lie on a line: no bids, no price war."""
    x, y = (t[..., :1] * torch.tensor(towards) + 0.1 for t in make(uniform, 2, 200, 200))
    x, y = x.to(device, dtype), y.to(device, dtype)
    found = assign(x, y, squared=squared, rtol=1e-5)
    gap = assert_valid(x, y, found, 1e-5, squared)
    assert found.converged.all()
    assert (found.rounds == 0).all()
    assert (gap < 1e-9).all() or len(towards) > 1  # whose floats are beside the line


@pytest.mark.parametrize("noise", [1e-3, 3e-2])
def test_points_beside_a_line(noise, device):
    x, y = make(uniform, 2, 200, 200, device=device)
    x, y = (t * torch.tensor([1.0, noise, noise], device=device) for t in (x, y))
    found = assign(x, y, rtol=1e-3)
    assert_valid(x, y, found, 1e-3)
    assert found.converged.all()


def test_a_stray_point_makes_no_line(device):
    """Its long pair leaves the mean room for all others to be matched as if they lay on a line."""
    x, y = make(surface, 2, 200, 200, device=device)
    x[:, 0] = 1000.0
    found = assign(x, y, rtol=0.1)
    assert_valid(x, y, found, 0.1)
    partners = y.gather(1, found.idx.unsqueeze(-1).expand_as(y))
    others = (x - partners).norm(dim=-1)[:, 1:].sum(1).cpu()
    assert (others < 2 * 199 * reference.optimal_cost(x[:, 1:], y)).all()


def check_races(kind, points, device):
    x, y = make(kind, 1, points, points, device=device)
    for _ in range(2 if device.type == "cuda" else 1):  # bidders race: runs differ
        found = assign(x, y)
        assert_covered_by_prices(x, y, found)
        assert found.converged.all()


@pytest.mark.parametrize("points", [31, 33, 129, 1024, 1500, 5000])
@pytest.mark.parametrize("kind", [noisy, blob])
def test_every_layout(kind, points, device):
    """Whole and broken groups of objects; in shared memory, and beyond it; one warp and many."""
    check_races(kind, points, device)


@pytest.mark.parametrize("points", [3000, 4096])
@pytest.mark.parametrize("kind", [noisy, blob])
def test_thousands_of_points_in_shared_memory(kind, points, device):
    check_races(kind, points, device)


@pytest.mark.parametrize("points", [31, 129, 1100, 1500, 5000])
def test_a_bound_on_rounds_in_every_layout(points, device):
    x, y = make(noisy, 1, points, points, device=device)
    found = assign(x, y, rtol=1e-4, max_rounds=4)
    assert_covered_by_prices(x, y, found)
    assert (found.rounds <= 4).all()
    assert not found.converged.any() or points < 1000  # which paths may have settled


@pytest.mark.parametrize("points", [300, 700])
@pytest.mark.parametrize("kind", [surface, noisy, blob, duplicates, lattice])
def test_same_bits_of_many_points(kind, points, cuda, deterministic):
    """Enough points for several blocks a cloud and for frontiers wider than the warps."""
    x, y = make(kind, 3, points, points, device=cuda)
    together = assign(x, y)
    assert all(torch.equal(a, b) for a, b in zip(together, assign(x, y), strict=True))


@pytest.mark.parametrize(("batch", "points"), [(70, 300), (40, 700), (40, 4500)])
def test_same_bits_in_a_batch_of_any_size(batch, points, cuda, deterministic):
    """The larger a batch, the fewer blocks each cloud has: on an H200 one or two, three to five,
    one or a team of five."""
    x, y = make(surface, batch, points, points, device=cuda)
    together = assign(x, y)
    for clouds in (slice(0, 1), slice(batch - 15, batch)):
        fewer = assign(x[clouds], y[clouds])
        assert torch.equal(fewer.idx, together.idx[clouds])
        assert torch.equal(fewer.price, together.price[clouds])
    padded = [torch.nn.functional.pad(cloud[:1], (0, 0, 0, 300)) for cloud in (x, y)]
    length = torch.tensor([points], device=cuda)
    alone = assign(*padded, x_lengths=length, y_lengths=length)
    assert torch.equal(alone.idx[:, :points], together.idx[:1])


def test_very_many_duplicates_are_for_one_solver(cuda):
    """Sometimes the rounding of the integers added up to a missed certificate, and the general
    solver went on for 25 to 40 s and 100000 rounds."""
    x, y = make(duplicates, 32, 2048, 2048, device=cuda)
    found = assign(x, y, rtol=1e-5)
    reference.matching_cost(x, y, found.idx)  # raises unless it is one-to-one
    assert found.converged.all()
    assert (found.rounds < 100_000).all()


@pytest.mark.parametrize("kind", [surface, uniform, lattice])
def test_as_exact_as_float64_allows(kind, device):
    x, y = make(kind, 1, 200, 200, dtype=torch.float64, device=device)
    found = assign(x, y, rtol=0)
    gap = assert_valid(x, y, found, 0.0)
    assert (gap <= 1e-6).all()


@pytest.mark.parametrize("sizes", [(300, 2000), (2000, 300)])
def test_unequal_sizes(sizes, device):
    x, y = make(surface, 1, *sizes, device=device)
    found = assign(x, y)
    assert_valid(x, y, found, 1e-2)
    assert found.converged.all()
    assert (found.idx >= 0).sum() == 300
    assert found.price.shape == (1, 2000)


@pytest.mark.sanitize
@pytest.mark.parametrize("sizes", [(80, 80), (80, 81), (81, 120), (120, 60)])
@pytest.mark.parametrize("squared", [False, True], ids=["plain", "squared"])
def test_two_far_clusters(sizes, squared, device):
    """One point too many in one of them: each of its bidders pays for the way to the other."""
    x, y = (0.01 * p for p in make(surface, 2, *sizes, device=device))
    x[:, : sizes[0] // 2 + 1] += 10
    y[:, : sizes[1] // 2] += 10
    found = assign(x, y, squared=squared, rtol=1e-3)
    assert_valid(x, y, found, 1e-3, squared)
    assert found.converged.all()


@pytest.mark.parametrize("sizes", [(1, 131072), (7, 131072), (131072, 3)])
def test_a_few_points_in_very_many(sizes, device, dtype):
    x, y = make(uniform, 1, *sizes, dtype=dtype, device=device)
    found = assign(x, y, rtol=1e-3)
    assert_valid(x, y, found, 1e-3)
    assert found.converged.all()


@pytest.mark.sanitize
@pytest.mark.parametrize("dim", [1, 2, 5, 64])
def test_any_dimension(dim, device, dtype):
    x = torch.randn(2, 40, dim, device=device, dtype=dtype)
    y = torch.randn(2, 45, dim, device=device, dtype=dtype)
    found = assign(x, y, rtol=1e-3)
    assert_valid(x, y, found, 1e-3)
    assert found.converged.all()


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_scale_does_not_matter(scale, device):
    x, y = make(surface, 2, 100, 100, device=device)
    plain, scaled = assign(x, y), assign(scale * x, scale * y)
    assert_valid(scale * x, scale * y, scaled, 1e-2)
    assert scaled.converged.all()
    torch.testing.assert_close(scaled.cost / scale, plain.cost, rtol=2e-2, atol=0)


@pytest.mark.parametrize("sizes", [(60, 60), (50, 33), (30, 100)])
def test_extents_near_the_largest_double(sizes, device, deterministic):
    """Powers of two change no bit of a matching, up to where distances are infinite."""
    x, y = (0.25 * p for p in make(surface, 2, *sizes, dtype=torch.float64, device=device))
    x[..., 0], y[..., 0] = x[..., 0] + 0.6, y[..., 0] - 0.6
    plain, large = assign(x, y), assign(2.0**1023 * x, 2.0**1023 * y)
    assert torch.equal(large.idx, plain.idx)
    assert torch.equal(large.gap, plain.gap)
    torch.testing.assert_close(large.cost * 2.0**-1023, plain.cost, rtol=1e-15, atol=0)


@pytest.mark.sanitize
def test_lengths_equal_the_cut_clouds(device, deterministic):
    x, y = make(surface, 5, 60, 80, device=device)
    n = torch.tensor([60, 20, 0, 60, 1], device=device)
    m = torch.tensor([80, 50, 80, 0, 1], device=device)
    found = assign(x, y, x_lengths=n, y_lengths=m)
    for b in range(5):
        matched = found.idx[b] >= 0
        assert matched.sum() == min(n[b], m[b])
        assert not matched[n[b] :].any()
        assert (found.idx[b] < m[b]).all()
        if min(n[b], m[b]) == 0:
            assert found.cost[b].isinf()
            assert found.gap[b] == 0
            assert found.converged[b]
        else:
            cut = assign(x[b, : n[b]], y[b, : m[b]])
            torch.testing.assert_close(found.cost[b], cut.cost, rtol=2e-2, atol=0)
    padded = x.clone()
    padded[1, 20:] = torch.nan  # padding is never read
    again = assign(padded, y, x_lengths=n, y_lengths=m)
    assert torch.equal(again.idx, found.idx)


@pytest.mark.parametrize("bad", [-1, 61, 2**40])
def test_length_out_of_range(bad, device):
    x, y = make(surface, 2, 60, 60, device=device)
    lengths = torch.tensor([60, bad], device=device)
    for options in ({"x_lengths": lengths}, {"y_lengths": lengths}):
        found = assign(x, y, **options)
        assert found.cost[1].isnan()
        assert found.gap[1].isinf()
        assert (found.idx[1] == -1).all()
        assert found.converged.tolist() == [True, False]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_coordinates_that_are_not_finite(value, device, dtype):
    x, y = make(surface, 3, 50, 50, dtype=dtype, device=device)
    x[0, 7, 2] = value
    y[1, 49, 0] = value
    found = assign(x, y)
    assert found.cost[:2].isnan().all()
    assert found.gap[:2].isinf().all()
    assert found.converged.tolist() == [False, False, True]
    assert torch.equal(found.idx.sort(1).values.cpu(), torch.arange(50).expand(3, -1))


@pytest.mark.sanitize
def test_empty(device):
    x = torch.zeros(2, 5, 3, device=device)
    assert assign(x[:0], x[:0]).idx.shape == (0, 5)
    bad = x.clone()
    bad[0, 0, 0] = torch.nan  # nothing is matched with it
    for a, b in ((x[:, :0], x), (x, x[:, :0]), (x[:, :0], bad), (bad, x[:, :0])):
        found = assign(a, b)  # nothing predicted is not perfect
        assert (found.idx == -1).all()
        assert found.cost.tolist() == [torch.inf, torch.inf]
        assert found.gap.tolist() == [0, 0]
        assert found.converged.all()
    neither = assign(x[:, :0], x[:, :0])
    assert neither.cost.tolist() == neither.gap.tolist() == [0, 0]
    assert neither.converged.all()
    lengths = torch.tensor([0, 5], device=device)
    assert assign(x, x, x_lengths=lengths, y_lengths=lengths).cost.tolist() == [0, 0]


def test_a_bound_on_rounds_still_gives_an_injection(device):
    x, y = make(surface, 2, 200, 200, device=device)
    found = assign(x, y, rtol=1e-6, max_rounds=2)
    assert_valid(x, y, found, 1e-6)
    assert not found.converged.any()
    assert (found.rounds <= 2).all()


def test_a_bound_on_rounds_counts_the_steps_of_paths():
    """On the CPU, where the last digits of squares of all sizes are found by paths."""
    x, y = make(exponents, 1, 96, 96)
    free, counted = (
        assign(x, y, rtol=0, squared=True, max_rounds=bound).rounds.item()
        for bound in (None, 10**9)
    )
    assert counted > free  # by the steps, which are no rounds without a bound
    for bound in (free, (free + counted) // 2):
        found = assign(x, y, rtol=0, squared=True, max_rounds=bound)
        assert_valid(x, y, found, 0, squared=True)
        assert found.rounds.item() <= bound


@pytest.mark.parametrize("max_rounds", [1, 5, 100, 200, 1000])
def test_a_bound_on_rounds_never_overstates(max_rounds, device, dtype):
    """A tight cluster with far points, in float64 too fine for float scans."""
    generator = torch.Generator().manual_seed(0)
    base = torch.rand(3, generator=generator, dtype=torch.float64)
    x, y = (
        base + 1e-8 * torch.randn(62, 3, generator=generator, dtype=torch.float64) for _ in "xy"
    )
    x[60], y[60], x[61], y[61] = 1.0, 1.0, -1.0, -1.0
    x, y = x[None].to(device, dtype), y[None].to(device, dtype)
    assert_valid(x, y, assign(x, y, max_rounds=max_rounds), 1e-2)


def test_prices_certify_the_bound_independently(device):
    """Anyone can check the certificate from the returned prices alone."""
    x, y = make(surface, 1, 90, 120, dtype=torch.float64, device=device)
    found = assign(x, y, rtol=1e-3)
    price = found.price[0].cpu()
    assert (price >= 0).all()
    cost = reference.pairwise(x[0].cpu(), y[0].cpu()).sqrt()
    bound = ((cost + price).amin(1).sum() - price.sum()) / 90
    assert found.cost[0].item() * (1 - found.gap[0].item()) <= bound.item() * (1 + 1e-12)


@pytest.mark.parametrize("rtol", [1.0, 1e3, 1e6, 1e300])
def test_any_finite_rtol_ends(rtol, device):
    """A path search that rounded to a part of so large an eps never began."""
    x, y = make(uniform, 2, 200, 200, device=device)
    for squared in (False, True):
        assert_valid(x, y, assign(x, y, squared=squared, rtol=rtol), rtol, squared)
        assert_valid(x[:, :50], y, assign(x[:, :50], y, squared=squared, rtol=rtol), rtol, squared)


def test_certificate_tells_apart_what_floats_do_not(device):
    """Half of the objects lie closer together than the solver's integers resolve."""
    x, y = make(uniform, 1, 300, 300, dtype=torch.float64, device=device)
    y[:, :150] = y[:, :1] + 1e-9 * y[:, :150]
    found = assign(x, y, rtol=1e-3)
    assert_valid(x, y, found, 1e-3)
    values = reference.pairwise(x[0].cpu(), y[0].cpu()).sqrt() + found.price[0].cpu()
    bound = (values.amin(1).sum() - found.price[0].cpu().sum()) / 300
    gap = 1 - bound / found.cost[0].cpu()
    torch.testing.assert_close(found.gap[0].cpu(), gap, rtol=0, atol=1e-10)


def test_same_bits_every_time_and_in_any_batch(device, deterministic):
    x, y = make(surface, 4, 150, 150, device=device)
    assert_same_bits(x, y)


def test_single_cloud_and_half(device, deterministic):
    x, y = make(uniform, 1, 20, 25, device=device)
    assert torch.equal(assign(x[0], y[0]).idx, assign(x, y).idx[0])
    assert torch.equal(
        assign(x.half(), y.half()).idx, assign(x.half().float(), y.half().float()).idx
    )
    assert assign(x[0], y[0]).price.shape == (25,)


def test_opcheck(device):
    x, y = make(uniform, 2, 10, 12, device=device)
    n = torch.tensor([3, 10], device=device)
    price = torch.zeros(2, 12, dtype=torch.float64, device=device)
    idx = torch.arange(10, device=device).expand(2, -1)
    op = torch.ops.pointloss.assign.default
    for args in (  # deterministic, since results of two runs are compared
        (x, y, None, None, False, 0.01, 0.0, None, None, 0, True),
        (x, y, n, n, True, 0.1, 1e-3, price, idx, 50, True),
    ):
        torch.library.opcheck(op, args)


def test_compile_fullgraph(device, deterministic):
    x, y = make(uniform, 2, 20, 20, device=device)
    compiled = torch.compile(lambda a, b: assign(a, b).idx, fullgraph=True)
    assert torch.equal(compiled(x, y), assign(x, y).idx)


def test_side_stream_and_graph(cuda, deterministic):
    x, y = make(surface, 2, 200, 200, device="cuda")
    n = torch.tensor([200, 10], device="cuda")
    assert torch.equal(aside(lambda: assign(x, y)).idx, assign(x, y).idx)
    captured, replay = capture(lambda: assign(x, y, x_lengths=n))
    n.copy_(torch.tensor([5, 200]))  # lengths may change between replays
    x.mul_(1.3)
    replay()
    again = assign(x, y, x_lengths=n)
    assert torch.equal(captured.idx, again.idx)
    assert torch.equal(captured.gap, again.gap)


def test_a_team_on_a_side_stream_and_in_a_graph(cuda, deterministic):
    """More points than shared memory holds, for a team of blocks that must all run at once."""
    x, y = make(noisy, 2, 5000, 5000, device=cuda)
    assert torch.equal(aside(lambda: assign(x, y)).idx, assign(x, y).idx)
    captured, replay = capture(lambda: assign(x, y))
    x.copy_(x.roll(1, 0))
    replay()
    again = assign(x, y)
    assert torch.equal(captured.idx, again.idx)
    assert torch.equal(captured.gap, again.gap)


def test_teams_on_two_streams_do_not_wait_for_each_other(cuda):
    """Those of both calls together have more blocks than an H200 runs at once."""
    x, y = make(noisy, 16, 5000, 5000, device=cuda)
    torch.cuda.synchronize()
    found = []
    for stream in [torch.cuda.Stream(), torch.cuda.Stream()] * 2:
        with torch.cuda.stream(stream):
            found.append(assign(x, y))
    torch.cuda.synchronize()
    for each in found:
        reference.matching_cost(x, y, each.idx)  # raises unless it is one-to-one
        assert each.converged.all()


def test_padding_for_a_team_changes_no_bits(cuda, deterministic):
    """4000 points alone are for a cluster of blocks, in shared memory."""
    x, y = make(noisy, 1, 4500, 4500, device=cuda)
    length = torch.tensor([4000], device=cuda)
    padded = assign(x, y, x_lengths=length, y_lengths=length)
    alone = assign(x[:, :4000], y[:, :4000])
    assert torch.equal(padded.idx[:, :4000], alone.idx)
    assert torch.equal(padded.price[:, :4000], alone.price)
