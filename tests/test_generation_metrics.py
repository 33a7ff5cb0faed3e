# SPDX-License-Identifier: MIT
"""Of two sets of clouds: MMD, coverage, 1-NNA and JSD, by hand and by brute force."""

import math

import pytest
import torch

from pointloss import (
    chamfer,
    emd,
    generation_metrics,
    occupancy_jsd,
    pairwise_chamfer,
    pairwise_emd,
)
from pointloss.metrics import generation


@pytest.fixture
def sets(device):
    """Generated and reference clouds in the ball of radius 0.5."""
    draw = [torch.randn(n, 12, 3, dtype=torch.float64, device=device) for n in (5, 4)]
    return [0.4 * d / d.norm(dim=-1, keepdim=True) for d in draw]


def test_clouds_give_what_their_matrices_give(sets):
    g, r = sets
    scores = generation_metrics(g, r, rtol=1e-3)
    for name, distance, options in (
        ("chamfer", pairwise_chamfer, {}),
        ("emd", pairwise_emd, {"rtol": 1e-3}),
    ):
        expected = generation_metrics(
            *(distance(a, b, **options) for a, b in ((g, r), (g, g), (r, r)))
        )
        torch.testing.assert_close(getattr(scores, name), expected, rtol=3e-3, atol=0)
    torch.testing.assert_close(scores.jsd, occupancy_jsd(g, r))


def test_each_pair_of_a_set_is_measured_once(sets, monkeypatch):
    pairs = []

    def count(x, y, **options):
        pairs.append(len(x))
        return chamfer(x, y, **options)

    monkeypatch.setattr(generation, "chamfer", count)
    scores = generation_metrics(*sets, measures=["chamfer"])
    assert sum(pairs) == 5 * 4 + 10 + 6
    assert scores.emd is None
    assert scores.jsd is None


def test_lists_and_lengths(sets, device, deterministic):  # else the bidders of the EMD may race
    g, r = sets
    n, m = (
        torch.tensor([12, 3, 5, 12, 1], device=device),
        torch.tensor([2, 12, 12, 7], device=device),
    )
    cut = [[c[:k] for c, k in zip(v, w.tolist(), strict=True)] for v, w in ((g, n), (r, m))]
    whole = generation_metrics(g, r, generated_lengths=n, reference_lengths=m)
    for a, b in zip(whole, generation_metrics(*cut), strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(whole.chamfer.mmd_generated, pairwise_chamfer(*cut).amin(1).mean())


def test_jsd_by_brute_force(sets):
    """Every node and point against each other, and the entropies of the two histograms."""
    axis = torch.linspace(-0.5, 0.5, 28, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis, axis)
    grid = grid[grid.norm(dim=1) <= 0.5]
    p, q = (
        torch.bincount(
            torch.cdist(s.cpu().flatten(0, 1), grid).argmin(1), minlength=len(grid)
        ).double()
        for s in sets
    )
    p, q = p / p.sum(), q / q.sum()
    mean = (p + q) / 2
    divergence = sum((a * (a / mean).log2())[a > 0].sum() for a in (p, q)) / 2
    torch.testing.assert_close(occupancy_jsd(*sets).cpu(), divergence)


def test_jsd_by_hand(device):
    a = torch.tensor([[[0.1, 0.0], [0.3, 0]]], device=device)
    assert occupancy_jsd(a, a) == 0
    assert occupancy_jsd(a, -a) == 1
    half = occupancy_jsd(a, a[:, :1])  # (1/2, 1/2) against (1, 0)
    entropy = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    torch.testing.assert_close(half.item(), entropy - 0.5)
    one = torch.tensor([1], device=device)
    torch.testing.assert_close(occupancy_jsd(a, a, b_lengths=one), half)
    assert occupancy_jsd(a, a, b_lengths=0 * one) == 1
    assert occupancy_jsd(a, a, a_lengths=0 * one, b_lengths=0 * one) == 0
    assert occupancy_jsd(a, a, b_lengths=9 * one).isnan()
    assert occupancy_jsd(a, a * torch.nan).isnan()
    assert occupancy_jsd(a, 9 * a[:, 1:], resolution=2) == occupancy_jsd(a, a[:, 1:], resolution=2)


def test_errors(sets):
    g, r = sets
    for options, error, text in (
        ({"measures": ["cd"]}, ValueError, "measures must be one of 'chamfer', 'emd', 'jsd'"),
        ({"generated_lengths": [1]}, TypeError, r"generated_lengths must be a torch.Tensor"),
        ({"resolution": 1}, ValueError, "resolution must be at least 2, got 1"),
    ):
        with pytest.raises(error, match=text):
            generation_metrics(g, r, **options)
    with pytest.raises(ValueError, match="both sets need a cloud, got 0 and 4"):
        generation_metrics(g[:0], r)
    with pytest.raises(ValueError, match=r"generated must be clouds \[S, N, D\].* got \[12, 3\]"):
        generation_metrics(g[0], r)
    with pytest.raises(ValueError, match="with D <= 3"):
        occupancy_jsd(torch.rand(1, 2, 4), torch.rand(1, 2, 4))
    for op in (occupancy_jsd, pairwise_chamfer, pairwise_emd):
        with pytest.raises(ValueError, match=f"{op.__name__}: a and b must be on one device, got"):
            op(g, r.to("meta"))


@pytest.mark.parametrize("which", range(3))
def test_nan_makes_every_number_nan(which, sets):
    matrices = [pairwise_chamfer(a, b) for a, b in zip(sets, reversed(sets), strict=True)][:1]
    matrices += [pairwise_chamfer(s) for s in sets]
    for m in matrices[1:]:
        m.fill_diagonal_(torch.nan)  # not used
    assert all(v.isfinite() for v in generation_metrics(*matrices))
    matrices[which][0, 1] = torch.nan
    assert all(v.isnan() for v in generation_metrics(*matrices))


def test_options_of_clouds_do_not_go_with_matrices(sets, device):
    m = torch.rand(2, 2, device=device)
    for options in (
        {"measures": ["chamfer"]},
        {"generated_lengths": torch.tensor([1, 1], device=device)},
        {"rtol": 0.5},
    ):
        with pytest.raises(ValueError, match="do not apply to matrices of distances"):
            generation_metrics(m, m, m, **options)
    with pytest.raises(TypeError, match="generated_to_generated must be floating point, got int64"):
        generation_metrics(m, m.long(), m)


def test_one_measure_may_be_a_word(sets):
    scores = generation_metrics(*sets, measures="jsd")
    assert scores.chamfer is None
    assert torch.equal(scores.jsd, occupancy_jsd(*sets))


def test_self_distance_of_emd_is_symmetric(sets, deterministic):  # else bidders may race
    own = pairwise_emd(sets[0])
    assert torch.equal(own, own.T)
    torch.testing.assert_close(own[1, 3], emd(sets[0][1], sets[0][3]))
