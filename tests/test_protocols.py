# SPDX-License-Identifier: MIT
"""The evaluation conventions: what they ignore and measure, and that ICP is undone exactly."""

import dataclasses

import pytest
import torch

from models import protocols


def rotation_about(axis, degrees):
    axis = torch.nn.functional.normalize(torch.tensor(axis, dtype=torch.float64), dim=0)
    k = torch.linalg.cross(torch.eye(3, dtype=torch.float64), axis.expand(3, 3))
    return torch.linalg.matrix_exp(torch.deg2rad(torch.tensor(degrees)) * k)


def test_a_cloud_scores_zero_against_itself():
    cloud = torch.rand(2, 1024, 3)
    for protocol in protocols.PROTOCOLS.values():
        scores = protocol.score(cloud, cloud)
        assert scores["CD"].max() == 0
        assert scores.get("EMD", scores["CD"]).max() == 0
        assert all(v.min() == 1 for key, v in scores.items() if key.startswith("F@"))


def test_the_same_points_are_never_met_by_chance():
    """More points than the convention takes: prediction and truth are sampled apart."""
    cloud = torch.rand(2, 4096, 3)
    assert protocols.PROTOCOLS["lmnet"].score(cloud, cloud)["CD"].min() > 1


def test_lmnet_ignores_scale_and_position():
    x, y = torch.rand(2, 1024, 3), torch.rand(2, 1024, 3)
    lmnet = protocols.PROTOCOLS["lmnet"]
    torch.testing.assert_close(
        lmnet.score(x, y)["CD"], lmnet.score(4 * x - 3, y + 2)["CD"], rtol=1e-2, atol=0
    )


def test_plain_forgives_neither_scale_nor_position():
    x = torch.rand(1, 1024, 3)
    plain = protocols.PROTOCOLS["plain"]
    moved = plain.score(x + torch.tensor([0.0, 2.0, 0]), x)
    assert moved["EMD"].item() == pytest.approx(200, rel=0.01)
    assert plain.score(2 * x, x)["CD"] > 20


def test_emd_has_no_limit_of_4096_points():
    x = torch.rand(1, 4500, 3)
    big = protocols.Protocol("big", "by hand", points=5000, own_box=False)
    scores = big.score(x, (x + torch.tensor([1e-3, 0, 0]))[:, torch.randperm(4500)])
    assert scores["EMD"].item() == pytest.approx(1e-3, rel=0.01)
    assert scores["gap"] <= 0.01


LINE = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0]]])


def test_a_known_pair_has_the_values_by_hand():
    # Two lattices, one shifted inside the same box: every distance is 0.25. No ICP, by hand.
    y = LINE + torch.tensor([0.0, 0.25, 0])
    plain = protocols.Protocol(
        "plain", "by hand", points=4, own_box=False, factor=100, radii=(0.25, 0.26)
    )
    scores = plain.score(LINE, y)
    values = {"CD": 50.0, "CD to truth": 25.0, "CD to pred": 25.0, "EMD": 25.0}
    values |= {"F@25%": 0.0, "F@26%": 1.0}
    for key, value in values.items():
        assert scores[key].tolist() == [value], key
    squared = dataclasses.replace(plain, squared=True, weight=0.5, strict=False)
    scores = squared.score(LINE, y)
    assert scores["CD"].tolist() == [6.25]  # 100 * (0.0625 + 0.0625) / 2
    assert scores["EMD"].tolist() == [25.0]  # never squared
    assert scores["F@25%"].tolist() == [1.0]  # at the radius counts


def test_conventions_of_the_papers_by_hand():
    # The same box of side 3; two of four points are 0.25 off.
    y = LINE + 0.25 * torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 0, 0], [0, 0, 0]])
    found = {name: p.score(LINE, y)["CD"].item() for name, p in protocols.PROTOCOLS.items()}
    both = 2 * 0.125
    assert found["pix3d"] == found["what3d"] == pytest.approx(both / 3)
    assert found["occnet"] == pytest.approx(10 * both / 2)
    assert found["pixel2mesh"] == found["atlasnet"] == pytest.approx(1000 * 2 * 0.25**2 / 2)
    assert found["plain"] == pytest.approx(100 * both)
    # ICP takes half of the difference away: 0.125 is left of every point.
    assert found["lmnet"] == pytest.approx(100 * both / 3)


def test_directions_are_told_apart():
    protocol = protocols.Protocol("plain", "by hand", points=8, own_box=False)
    scores = protocol.score(LINE[:, :2], LINE)
    assert scores["CD to truth"].item() == 0
    assert scores["CD to pred"].item() == pytest.approx(0.75)  # (0 + 0 + 1 + 2) / 4


def test_unit_box():
    x = torch.tensor([[[1.0, 2, 3], [5, 4, 3]], [[7.0, 7, 7], [7, 7, 7]]])
    expected = torch.tensor([[[-0.5, -0.25, 0], [0.5, 0.25, 0]], [[0.0, 0, 0], [0, 0, 0]]])
    assert torch.equal(protocols.bounding_box(x).apply(x), expected)


def test_subset_by_id_does_not_depend_on_the_batch():
    x = torch.rand(5, 40, 3)
    ids = torch.arange(5)
    whole = protocols.subset(x, 10, 7, ids)
    parts = [protocols.subset(x[i : i + 1], 10, 7, ids[i : i + 1]) for i in range(5)]
    assert torch.equal(whole, torch.cat(parts))
    rows = [torch.cdist(x[i], whole[i]).argmin(0) for i in range(5)]
    assert not torch.equal(rows[0], rows[1])
    one = protocols.subset(x, 10, 7)
    assert torch.equal(torch.cdist(x[0], one[0]).argmin(0), torch.cdist(x[1], one[1]).argmin(0))


def test_icp_recovers_a_motion_and_inverts_it_exactly():
    torch.manual_seed(0)
    x = torch.rand(3, 300, 3, dtype=torch.float64) * torch.tensor([1.0, 0.6, 0.3])
    rotation = rotation_about([0.3, 1.0, -0.2], 8.0)
    translation = torch.tensor([0.03, -0.02, 0.04], dtype=torch.float64)
    y = x @ rotation.T + translation
    motion = protocols.icp(x, y, max_rounds=100, tolerance=1e-12)
    torch.testing.assert_close(motion.rotation, rotation.expand(3, 3, 3))
    torch.testing.assert_close(motion.translation, translation.expand(3, 1, 3))
    torch.testing.assert_close(motion.invert(y), x, rtol=0, atol=1e-12)
    # 3D-LMNet's inverse, y R - t, is off by |t - t R|: the mistake this test is here for.
    assert (y @ rotation - translation - x).norm(dim=-1).max() > 1e-3


def test_rigid_fit_never_reflects():
    x = torch.randn(4, 50, 3, dtype=torch.float64)
    fit = protocols.rigid_fit(x, x * torch.tensor([-1.0, 1, 1]))
    torch.testing.assert_close(torch.linalg.det(fit.rotation), torch.ones(4, dtype=torch.float64))
