# SPDX-License-Identifier: MIT
"""Draws of the latent: their noise, their spread, the best of them, and who sees what."""

from types import SimpleNamespace

import pytest
import torch

from models import uncertainty


def test_noise_is_the_images_own_whatever_the_batch():
    whole = uncertainty.draw_noise(torch.tensor([7, 2, 5]), 4, 3, seed=0)
    assert whole.shape == (3, 3, 4)
    assert torch.equal(uncertainty.draw_noise(torch.tensor([2]), 4, 3, seed=0)[:, 0], whole[:, 1])
    assert not torch.equal(whole[0], whole[1])
    assert not torch.equal(
        uncertainty.draw_noise(torch.tensor([2]), 4, 3, seed=1)[:, 0], whole[:, 1]
    )


def test_spread_by_hand():
    """Two draws of two points: one 2 apart, one where it was."""
    clouds = torch.tensor([[[[0.0, 0, 0], [5, 5, 5]]], [[[0.0, 2, 0], [5, 5, 5]]]])
    assert uncertainty.spread(clouds).tolist() == [0.5]


def test_the_best_draw_is_chosen_by_cd_and_keeps_its_other_scores():
    scores = torch.tensor([[[3.0, 10], [1, 20]], [[2.0, 30], [4, 40]]])  # [draws, images, columns]
    assert uncertainty.best_draw(scores).tolist() == [[2, 30], [1, 20]]


@pytest.mark.parametrize(
    ("front", "azimuth"), [("+z", [90, 270, -80, 0, 180, 140]), ("+x", [0, 180, 190, 90, 270, 50])]
)
def test_sides_are_told_by_the_front_of_the_set(front, azimuth):
    found = uncertainty.sides(torch.tensor(azimuth, dtype=torch.float32), front)
    assert found == ["front", "behind", "behind", "side", "side", "side"]


def test_an_unknown_camera_or_front_has_no_side():
    assert uncertainty.sides(torch.tensor([float("nan"), 90.0]), "+z") == [None, "front"]
    assert uncertainty.sides(torch.tensor([90.0]), None) == [None]


def test_a_row_for_each_side_and_one_for_all():
    judge = SimpleNamespace(protocol=SimpleNamespace(name="plain"))
    own = torch.tensor([[3.0], [5.0], [7.0]])
    drawn = torch.tensor([[[4.0], [4], [8]], [[2.0], [8], [8]]])
    draws = uncertainty.Draws(torch.tensor([0.01, 0.02, 0.06]), [drawn])
    rows = uncertainty.tabulate(draws, [own], [judge], ["front", "behind", None])
    assert [(row["seen from"], row["images"]) for row in rows] == [
        ("front", 1),
        ("behind", 1),
        ("anywhere", 3),
    ]
    last = rows[-1]
    assert last["spread"] == pytest.approx(3)
    numbers = (last["CD at the mean"], last["CD of a draw"], last["CD of the best"])
    assert numbers == pytest.approx((5, 34 / 6, 14 / 3))
