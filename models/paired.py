# SPDX-License-Identifier: MIT
"""How sure a mean, or a difference of two, is: a bootstrap over objects.

The views of an object are scored together, so objects are what is drawn. Two systems are compared
object by object: what makes an object hard for both cancels out, and the error of the difference is
far smaller than the errors of the two means tell.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

DRAWS = 2000


class Estimate(NamedTuple):
    """A mean with its standard error, over categories as the papers do and over images."""

    mean: float  # of the categories' means
    error: float
    images: float  # the mean over images
    images_error: float


def _means(
    values: np.ndarray, weights: np.ndarray, member: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Means [D] over categories and over images: values [O], weights [D, O], member [O, C]."""
    share = weights @ member  # [D, C]
    with np.errstate(invalid="ignore"):  # 0 / 0 of a category that a draw does not hold
        each = (weights * values) @ member / share
    return np.nanmean(each, axis=1), weights @ values / weights.sum(axis=1)


def bootstrap(
    values: Sequence[float] | np.ndarray,
    categories: Sequence[str],
    images: Sequence[int],
    seed: int = 0,
) -> Estimate:
    """The means of one number an object [O], or of a paired difference, and their errors.

    A value is the mean over `images` [O] views of its object, which weigh it. Errors are standard
    deviations over 2000 seeded draws of O objects with replacement, of all categories together; the
    mean of the categories is over those that a draw holds. Drawing within each category would call
    one that has a single object certain. The same arguments give the same numbers.
    """
    value, weight = np.asarray(values, dtype=np.float64), np.asarray(images, dtype=np.float64)
    _, which = np.unique(np.asarray(categories), return_inverse=True)
    member = np.eye(which.max() + 1)[which]  # [O, C]
    count = len(value)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=DRAWS)
    (mean,), (over_images,) = _means(value, weight[None], member)
    draws = _means(value, drawn * weight, member)
    error, images_error = (float(draw.std(ddof=1)) for draw in draws)
    return Estimate(float(mean), error, float(over_images), images_error)


def show(value: float, error: float) -> str:
    """A difference and its error, both to the error's second digit: "-1.64 ± 0.31"."""
    digits = 2 if error <= 0 else min(max(1 - int(np.floor(np.log10(error))), 0), 6)
    return f"{value:+.{digits}f} ± {error:.{digits}f}"
