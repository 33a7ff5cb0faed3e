# SPDX-License-Identifier: MIT
"""The device code of assign on a CPU, under schedules that a GPU hardly ever shows.

See tests/emulator. Memory that a block may not touch is watched by AddressSanitizer, and warps are
held back at random while others go on.
"""

import numpy as np
import pytest
import torch
from certificates import assert_matched, assert_valid
from emulation import compiled, output

from pointloss import Assignment, reference
from pointloss.testing.clouds import (
    KINDS,
    blob,
    duplicates,
    far,
    lattice,
    line,
    make,
    noisy,
    outlier,
    surface,
    two_scales,
)

# Stops of a warp in percent, how many of those hold it, and for how many turns of the others.
SCHEDULES = [(50, 20, 300), (30, 50, 60), (80, 5, 600)]
QUIET = (0, 0, 1)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The device code, compiled with the emulator's cuda_runtime.h and its own instructions."""
    return compiled(tmp_path_factory.mktemp("emulated"), "assign")


def assign(program, x, y, *, schedule=QUIET, seed=0, blocks=1, long_ids=False, earlier=None, **how):
    """As pointloss.assign, of one pair of clouds, or of costs x if y is None; whether the integer
    solver solved it; and the rounds of the general solver after it."""
    n, m, dim = (*x.shape, 0) if y is None else (len(x), len(y), x.shape[1])
    options = {"squared": False, "rtol": 1e-2, "atol": 0.0, "max_rounds": 0, "deterministic": False}
    numbers = [n, m, dim, *(options | how).values(), blocks, long_ids, earlier is not None, seed]
    given = [x.numpy()] if y is None else [x.numpy(), y.numpy()]
    if earlier is not None:
        given += [earlier.price[0].numpy(), earlier.idx[0].numpy()]
    written = output(program, (*numbers, *schedule), given)
    idx = torch.from_numpy(np.frombuffer(written, np.int64, n).copy())
    rest = torch.from_numpy(np.frombuffer(written, np.float64, offset=8 * n).copy())
    price, (cost, gap, rounds, converged, solved, more) = rest[: max(n, m)], rest[max(n, m) :]
    found = Assignment(
        idx[None], cost[None], gap[None], price[None], rounds[None].long(), converged[None] == 1
    )
    return found, solved == 1, int(more)


def check(program, x, y, **options):
    """One pair of clouds in a batch: solved within rtol, by an injection, in integers."""
    found, solved, _ = assign(program, x[0], y[0], **options)
    assert solved or not found.cost
    rtol, squared = options.get("rtol", 1e-2), options.get("squared", False)
    assert_valid(x, y, found, rtol, squared)
    assert found.converged.all()
    return found


@pytest.mark.parametrize("squared", [False, True], ids=["plain", "squared"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_warps_that_fall_behind(kind, squared, program):
    x, y = make(kind, 1, 130, 130)
    schedule = SCHEDULES[KINDS.index(kind) % len(SCHEDULES)]
    check(program, x, y, squared=squared, rtol=1e-4, schedule=schedule, seed=1)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("points", "how"),
    [(130, {}), (300, {"blocks": 2}), (130, {"long_ids": True})],
    ids=["one block", "two blocks", "long ids"],
)
def test_a_price_war_overtakes_scans(points, how, seed, program):
    """Prices rise by more than a scan allows for while the warp is held: it may find no object."""
    x, y = make(outlier, 1, points, points)
    options = {"squared": True, "rtol": 1e-4, "schedule": SCHEDULES[0], **how}
    check(program, x, y, seed=seed, **options)


@pytest.mark.parametrize("kind", [surface, far], ids=lambda k: k.__name__)
@pytest.mark.parametrize("sizes", [(64, 64), (81, 64), (30, 90)], ids=str)
def test_clouds_far_from_the_origin(kind, sizes, program):
    """Coordinates leave the integers, and dummies, who are everywhere, have none."""
    x, y = make(kind, 1, *sizes)
    check(program, x, y, rtol=1e-4)


@pytest.mark.parametrize("kind", [surface, noisy, blob, two_scales], ids=lambda k: k.__name__)
@pytest.mark.parametrize("sizes", [(37, 100), (100, 37), (130, 140), (2, 60)], ids=str)
def test_unequal_sizes(kind, sizes, program):
    x, y = make(kind, 1, *sizes)
    check(program, x, y, squared=True, schedule=SCHEDULES[1], seed=1)


def test_the_points_without_a_partner_wage_no_price_war(program):
    """Dummies that bid for one object after another take 470 to 560 rounds."""
    x, y = make(surface, 1, 130, 160)
    assert check(program, x, y, deterministic=True).rounds < 200


def test_the_rest_of_duplicates_is_for_paths(program):
    """Bids until nobody is left take 3083 rounds."""
    x, y = make(duplicates, 1, 130, 130)
    assert check(program, x, y, deterministic=True).rounds < 500


@pytest.mark.parametrize("blocks", [1, 3])
def test_points_on_a_line(blocks, program):
    """The block that ends last certifies what all have scanned."""
    x, y = make(line, 1, 131, 131)
    found = check(program, x, y, rtol=1e-5, blocks=blocks, schedule=SCHEDULES[0], seed=1)
    assert found.rounds == 0


@pytest.mark.parametrize("kind", [surface, noisy, blob], ids=lambda k: k.__name__)
@pytest.mark.parametrize("sizes", [(300, 300), (300, 310), (130, 300)], ids=str)
def test_blocks_of_a_cluster(kind, sizes, program):
    """Bids go from block to block while others read."""
    x, y = make(kind, 1, *sizes)
    check(program, x, y, blocks=2, schedule=SCHEDULES[0], seed=1)


def test_blocks_of_a_cluster_share_rounds_of_many_rows(program):
    """Paths of a lattice have rounds of 176 rows: labels come from the other blocks' memory."""
    x, y = make(lattice, 1, 300, 300)
    alone = check(program, x, y, deterministic=True)
    shared = check(program, x, y, deterministic=True, blocks=2, schedule=SCHEDULES[2], seed=1)
    assert torch.equal(shared.idx, alone.idx)
    assert torch.equal(shared.price, alone.price)


@pytest.mark.parametrize("kind", [surface, duplicates, blob], ids=lambda k: k.__name__)
@pytest.mark.parametrize("sizes", [(130, 130), (130, 140), (140, 130)], ids=str)
def test_blocks_of_a_team(kind, sizes, program):
    """Blocks that share arrays in global memory, as above 4096 points."""
    x, y = make(kind, 1, *sizes)
    check(program, x, y, blocks=2, long_ids=True, schedule=SCHEDULES[0], seed=1)


@pytest.mark.parametrize(
    ("sizes", "team"),
    [(sizes, False) for sizes in [(31, 31), (520, 520), (130, 140), (80, 200)]]
    + [((130, 140), True)],
    ids=str,
)
def test_neither_schedule_nor_blocks_change_what_is_deterministic(sizes, team, program):
    x, y = make(surface, 1, *sizes)
    found = check(program, x, y, deterministic=True, long_ids=team)
    for blocks, schedule in zip([1, 2, 3], SCHEDULES, strict=True):
        options = {"deterministic": True, "schedule": schedule, "seed": blocks}
        again, *_ = assign(program, x[0], y[0], blocks=blocks, long_ids=team, **options)
        assert torch.equal(again.idx, found.idx)
        assert torch.equal(again.price, found.price)


@pytest.mark.parametrize("kind", [surface, noisy], ids=lambda k: k.__name__)
def test_a_pair_in_a_batch_of_longer_ones_is_solved_alike(kind, program):
    """Ids are as long as the longest pair asks for."""
    x, y = make(kind, 1, 300, 300)
    alone, beside = (
        assign(program, x[0], y[0], deterministic=True, long_ids=long)[0] for long in (False, True)
    )
    assert torch.equal(alone.idx, beside.idx)
    assert torch.equal(alone.price, beside.price)


@pytest.mark.parametrize(("points", "seed"), [(130, 0), (130, 3), (300, 3)])
def test_rounding_is_not_left_to_the_general_solver(points, seed, program):
    """Of many equal costs the rounding adds up to more than the gap that the integers leave."""
    x, y = make(duplicates, 1, points, points, seed=seed)
    found, solved, more = assign(program, x[0], y[0], rtol=2e-7)
    assert_valid(x, y, found, 2e-7)
    assert solved
    assert more == 0
    assert found.converged.all()


@pytest.mark.parametrize("kind", [surface, noisy, blob], ids=lambda k: k.__name__)
@pytest.mark.parametrize("team", [False, True], ids=["cluster", "team"])
def test_warm_start(kind, team, program):
    x, y = make(kind, 1, 130, 130)
    earlier = check(program, x, y, rtol=1e-3)
    moved = x + 0.01 * torch.randn_like(x)
    options = {"schedule": SCHEDULES[0], "seed": 1, "blocks": 2 if team else 1, "long_ids": team}
    check(program, moved, y, rtol=1e-3, earlier=earlier, **options)


@pytest.mark.parametrize("sizes", [(31, 31), (37, 100)], ids=str)
def test_atol_ends_the_integer_solvers(sizes, program):
    x, y = make(surface, 1, *sizes)
    cost = reference.optimal_cost(x, y)
    found, solved, _ = assign(program, x[0], y[0], rtol=0.0, atol=1e-2)
    assert solved
    assert found.converged.all()
    assert found.cost - cost <= found.gap * found.cost <= 1e-2


@pytest.mark.parametrize("sizes", [(12, 12), (33, 12)], ids=str)
def test_costs(sizes, program):
    """Of any sign, with and without ties, and forbidden pairs."""
    gauss, ties = torch.randn(sizes), torch.randint(-3, 4, sizes).float()
    some = torch.where(torch.rand(sizes) < 0.3, torch.inf, gauss)
    for cost in (gauss, ties, some):
        found, *_ = assign(program, cost, None, schedule=SCHEDULES[2], seed=1)
        assert_matched(cost[None], found, 1e-2)


def test_costs_without_a_matching(program):
    cost = torch.rand(9, 9)
    cost[:4, 3:] = torch.inf  # four share three
    found, *_ = assign(program, cost, None)
    assert found.cost.isinf()
    assert found.gap.isinf()
    assert not found.converged
    assert (found.idx == -1).all()
