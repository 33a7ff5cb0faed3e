# SPDX-License-Identifier: MIT
"""pointloss.protocols: each paper's numbers by hand, on one pair of clouds."""

import math

import pytest
import torch

from pointloss.protocols import ALL, PROTOCOLS, Protocol, bounding_box, subset
from pointloss.testing.clouds import make, surface

# A prediction of four points on a line, and a truth with a fifth. The first four points of the
# truth lie 0, 3, 4 and 0 away from those of the prediction, straight up; the fifth lies 5 away.
X = torch.tensor([[0.0, 0, 0], [20, 0, 0], [40, 0, 0], [60, 0, 0]])
Y = torch.tensor([[0.0, 0, 0], [20, 3, 0], [40, 4, 0], [60, 0, 0], [60, 5, 0]])
TO_TRUTH, TO_PREDICTION = (0 + 3 + 4 + 0) / 4, (0 + 3 + 4 + 0 + 5) / 5
SQUARED = (0 + 9 + 16 + 0) / 4, (0 + 9 + 16 + 0 + 25) / 5
MATCHED = (0 + 3 + 4 + 0) / 4  # the best partners of the four
# The unit of own boxes: longest sides of 60. Boxes are centred, so the truth's sinks by 2.5.
BOXED_TO_TRUTH = (2 * 2.5 + 0.5 + 1.5) / 4 / 60
BOXED_TO_PREDICTION = (2 * 2.5 + 0.5 + 1.5 + 2.5) / 5 / 60

BY_HAND = {
    "plain": {"CD": 100 * (TO_TRUTH + TO_PREDICTION), "EMD": 100 * MATCHED},
    "pix3d": {"CD": BOXED_TO_TRUTH + BOXED_TO_PREDICTION, "EMD": BOXED_TO_TRUTH},
    "what3d": {"CD": BOXED_TO_TRUTH + BOXED_TO_PREDICTION},
    "occnet": {"CD": 10 * (TO_TRUTH + TO_PREDICTION) / 2},
    "pixel2mesh": {"CD": 1000 * sum(SQUARED)},
    "atlasnet": {"CD": 1000 * sum(SQUARED)},
    "pcn": {"CD": 1000 * (TO_TRUTH + TO_PREDICTION) / 2, "EMD": 1000 * MATCHED},
    "pointr-cd-l1": {"CD": 1000 * (TO_TRUTH + TO_PREDICTION) / 2, "CD to truth": 1000 * TO_TRUTH},
    "pointr-cd-l2": {"CD": 1000 * sum(SQUARED), "CD to pred": 1000 * SQUARED[1]},
    "completion3d": {"CD": 10_000 * sum(SQUARED)},
    "pointflow": {"CD": 1000 * sum(SQUARED), "EMD": 100 * MATCHED},
    "pytorch3d": {"CD": sum(SQUARED)},
    "kaolin": {"CD": sum(SQUARED)},
}


@pytest.mark.parametrize("name", BY_HAND)
def test_a_pair_by_hand(name, device):
    scores = PROTOCOLS[name].score(X.to(device), Y.to(device))
    assert list(scores) == PROTOCOLS[name].columns()
    for column, value in BY_HAND[name].items():
        assert scores[column].shape == ()
        assert scores[column].item() == pytest.approx(value, rel=1e-5), column
    assert ("EMD" in scores) == ("EMD" in BY_HAND[name])


def test_lmnet_by_hand(device):
    """ICP takes half of the difference away: 0.125 of a box of 3 is left of every point."""
    line = torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0]], device=device)
    bent = line + 0.25 * torch.tensor([[0.0], [1], [1], [0]], device=device) * line.new_tensor(
        [1.0, 0, 0]
    )
    scores = PROTOCOLS["lmnet"].score(line, bent)
    assert scores["CD"].item() == pytest.approx(100 * 2 * 0.125 / 3, rel=1e-4)
    assert scores["EMD"].item() == pytest.approx(100 * 0.125 / 3, rel=1e-2)


def test_every_protocol_has_a_pair_by_hand():
    assert {*BY_HAND, "lmnet"} == set(PROTOCOLS)


RADII = {  # names with a radius r, and whether a point at r exactly counts
    "pointr-cd-l1": (0.01, False),
    "pointr-cd-l2": (0.01, False),
    "kaolin": (0.01, True),
    "atlasnet": (math.sqrt(0.001), False),
    "pixel2mesh": (0.01, True),
    "occnet": (0.01, False),
}


@pytest.mark.parametrize("name", RADII)
def test_radius_of_the_f_score(name, device):
    """One of two predicted points is near, and its partner is one of three true ones."""
    radius, counts = RADII[name]
    x = torch.tensor([[0.0, 0, 0], [9, 0, 0]], device=device)
    y = torch.tensor([[0.0, 0, 0], [-5, 0, 0], [5, 0, 0]], device=device)
    by_hand = 2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3)
    for distance, near in ((0.99 * radius, True), (radius, counts), (1.01 * radius, False)):
        y[0, 1] = distance
        scores = PROTOCOLS[name].score(x, y)
        first = next(value for column, value in scores.items() if column.startswith("F@"))
        assert first.item() == pytest.approx(by_hand if near else 0)


def test_batches_and_single_clouds_agree(device):
    x, y = make(surface, 2, 30, 25, device=device)
    for protocol in PROTOCOLS.values():
        batch = protocol.score(x, y)
        for b in range(2):
            single = protocol.score(x[b], y[b], dense=y[b])
            for column, value in single.items():
                # ICP and assign may stop elsewhere in another batch; the rest is arithmetic.
                torch.testing.assert_close(value, batch[column][b], rtol=2e-2, atol=2e-2)


def test_lmnet_undoes_the_motion_exactly(device):
    """3D-LMNet's code computes y R - t in place of (y - t) R."""
    x, _ = make(surface, 1, 400, 400, device=device)
    x = x * x.new_tensor([1.0, 0.6, 0.3])
    half = math.radians(4.0)
    turn = x.new_tensor(
        [[math.cos(half), -math.sin(half), 0], [math.sin(half), math.cos(half), 0], [0, 0, 1]]
    )
    aligned = Protocol("aligned", "by hand", icp_rounds=100, radii=(0.01,), f_points=ALL)
    scores = aligned.score(x, x @ turn.T + x.new_tensor([0.03, -0.02, 0.04]))
    assert scores["CD"].item() < 1e-4
    assert scores["F@1%"].item() == 1  # the prediction that F sees is the aligned one


def test_the_same_points_are_never_met_by_chance(device):
    """More points than the convention takes: prediction and truth are sampled apart."""
    cloud = torch.rand(1, 4096, 3).to(device)
    assert PROTOCOLS["completion3d"].score(cloud, cloud)["CD"] > 1
    assert PROTOCOLS["pytorch3d"].score(cloud, cloud)["CD"] == 0


def test_subset_by_id_does_not_depend_on_the_batch(device):
    x = torch.rand(5, 40, 2).to(device)
    ids = torch.arange(5)
    parts = [subset(x[i : i + 1], 10, 7, ids[i : i + 1]) for i in range(5)]
    assert torch.equal(subset(x, 10, 7, ids), torch.cat(parts))
    assert subset(x, ALL, 0) is x


def test_unit_box(device):
    x = torch.tensor([[[1.0, 2, 3], [5, 4, 3]], [[7.0, 7, 7], [7, 7, 7]]], device=device)
    expected = [[[-0.5, -0.25, 0], [0.5, 0.25, 0]], [[0.0, 0, 0], [0, 0, 0]]]
    assert bounding_box(x).apply(x).tolist() == expected


def test_descriptions_say_the_convention():
    words = PROTOCOLS["pointr-cd-l1"].describe()
    for part in ("0.5 x (mean distance (not squared)", "x1000", "no alignment", "below the radius",
                 "all points a cloud"):  # fmt: skip
        assert part in words
    assert "mean squared distance" in PROTOCOLS["completion3d"].describe()
    assert "not squared, x100." in PROTOCOLS["pointflow"].describe()
    assert "EMD" not in PROTOCOLS["pytorch3d"].describe()
    assert str(ALL) not in "".join(p.describe() for p in PROTOCOLS.values())


def test_errors_name_the_protocol():
    with pytest.raises(ValueError, match=r"protocol pcn: y must have shape \[M, 3\]"):
        PROTOCOLS["pcn"].score(X, Y[:, :2])
    with pytest.raises(ValueError, match="protocol pcn, dense: y must have shape"):
        PROTOCOLS["pcn"].score(X, Y, dense=Y[:, :2])


@pytest.mark.parametrize("name", PROTOCOLS)
def test_nothing_predicted_is_as_far_away_as_can_be(name, device):
    protocol = PROTOCOLS[name]
    scores = protocol.score(torch.rand(2, 0, 3, device=device), torch.rand(2, 50, 3, device=device))
    assert scores["CD"].isinf().all()
    assert scores.get("EMD", scores["CD"]).isinf().all()
    assert all(value.eq(0).all() for key, value in scores.items() if key.startswith("F@"))
