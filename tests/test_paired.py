# SPDX-License-Identifier: MIT
"""Means and their errors by a bootstrap over objects."""

import numpy as np
import pytest

from models.paired import bootstrap, show


def test_means_by_hand():
    """Category a: (1 * 1 + 3 * 3) / 4 = 2.5; b: 6. An object counts by its images."""
    found = bootstrap([1.0, 3.0, 6.0], ["a", "a", "b"], [1, 3, 2])
    assert found.mean == (2.5 + 6) / 2
    assert found.images == pytest.approx((1 + 9 + 12) / 6)


def test_the_error_of_a_mean_is_the_formula_of_textbooks():
    values = np.random.default_rng(1).normal(5, 2, 100)
    found = bootstrap(values, ["a"] * 100, [4] * 100)
    assert found.mean == found.images == pytest.approx(values.mean())
    assert found.error == found.images_error
    assert found.error == pytest.approx(values.std() / 10, rel=0.05)  # 2000 draws: 1.6 %


def test_a_category_of_one_object_is_not_certain():
    found = bootstrap([1.0, 9.0, 9.0, 9.0], ["b", "a", "a", "a"], [1] * 4)
    assert found.error > 1


def test_the_same_for_the_same_and_nothing_for_nothing():
    values, words, images = [1.0, 2.0, 4.0], ["a", "b", "b"], [2, 2, 2]
    assert bootstrap(values, words, images) == bootstrap(values, words, images)
    assert bootstrap(values, words, images) != bootstrap(values, words, images, seed=1)
    assert bootstrap([0.0] * 3, words, images) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (-1.6432, 0.3123, "-1.64 ± 0.31"),
        (0.02, 0.0526, "+0.020 ± 0.053"),
        (-12.34, 1.04, "-12.3 ± 1.0"),
        (3.0, 0.0, "+3.00 ± 0.00"),
    ],
)
def test_a_difference_has_the_digits_of_its_error(value, error, text):
    assert show(value, error) == text
