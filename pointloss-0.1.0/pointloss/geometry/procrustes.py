# SPDX-License-Identifier: MIT
"""Least-squares similarity between corresponding points."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pointloss import _checks, _masked
from pointloss.geometry._rotation import nearest_rotation, rotate


class Similarity(NamedTuple):
    """The map x -> scale * R x + t of points, one for each sample; rigid if the scale is 1."""

    scale: Tensor
    rotation: Tensor
    translation: Tensor

    def apply(self, points: Tensor) -> Tensor:
        """Map points [B, N, 3], or [N, 3] with a single similarity."""
        turned = rotate(points, self.rotation)
        return self.scale[..., None, None] * turned + self.translation.unsqueeze(-2)

    def inverse(self) -> Similarity:
        """The exact inverse, x -> R^T (x - t) / scale; infinite for scale 0."""
        scale, rotation = 1 / self.scale, self.rotation.mT
        moved = rotate(self.translation.unsqueeze(-2), rotation).squeeze(-2)
        return Similarity(scale, rotation, -scale.unsqueeze(-1) * moved)


Similarity.scale.__doc__ = "[B], not negative."
Similarity.rotation.__doc__ = "R, [B, 3, 3], orthogonal; det +1 unless a reflection was allowed."
Similarity.translation.__doc__ = "t, [B, 3]."


def procrustes(
    x: Tensor,
    y: Tensor,
    *,
    weights: Tensor | None = None,
    mask: Tensor | None = None,
    scale: bool = True,
    reflection: bool = False,
) -> Similarity:
    """The similarity that brings x closest to y, row by row, in closed form.

    It minimises sum_i w_i |s R x_i + t - y_i|^2 (Umeyama 1991, eq. 34 to 43; without scale Kabsch
    1976): with weighted means x0, y0 and H = sum_i w_i (y_i - y0) (x_i - x0)^T

        R maximises tr(R^T H),   s = tr(R^T H) / sum_i w_i |x_i - x0|^2,   t = y0 - s R x0.

    Args:
        x: points [B, N, 3] or [N, 3], float; halves are computed in float32.
        y: their partners, of x's shape.
        weights: [B, N], not negative, differentiable.
        mask: bool [B, N], the pairs that count; the others may hold anything, also NaN.
        scale: fit s; otherwise s is 1 and the map rigid.
        reflection: R may have determinant -1, where that brings x closer.

    Returns:
        Similarity(scale [B], rotation [B, 3, 3], translation [B, 3]), without batch axis for single
        clouds; `.apply(points)` maps points, `.inverse()` is exact. Differentiable twice in x, y
        and weights.
        What the points leave open has a defined value: no pair at all gives s = 1, R = 1, t = 0;
        one pair a translation; pairs on a line one of the best rotations. The gradient is the true
        one wherever there is one, also where singular values of H tie or a single one vanishes
        (points in a plane). Only rotations about an axis that the points leave open (points on a
        line or in one place; without reflection also mirrored points that fit equally badly both
        ways) have no derivative: R is taken as constant about that axis. If all x are in one place,
        s is 1 and constant. NaN in a pair that counts gives NaN.

    Raises:
        ValueError: shapes or devices do not fit.
        TypeError: dtypes do not fit.

    Determinism: deterministic, values and gradients. Nothing waits for the GPU.

    Example:
        >>> x = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
        >>> y = torch.tensor([[5.0, 0, 0], [5, 2, 0], [3, 0, 0]])
        >>> fit = procrustes(x, y)  # a quarter turn about z
        >>> round(fit.scale.item(), 4), bool(torch.allclose(fit.apply(x), y, atol=1e-5))
        (2.0, True)
    """
    arrays = _checks.Arrays("procrustes", x=x, y=y, weights=weights)
    x, y = arrays.take("x", x, "B N 3"), arrays.take("y", y, "B N 3")
    w = arrays.maybe("weights", weights, "B N")
    valid = arrays.mask("mask", mask, "B N")
    fit = _fit(x, y, valid.to(x.dtype) if w is None else torch.where(valid, w, 0), valid,
               scale, reflection)  # fmt: skip
    return Similarity(*(part[0] for part in fit)) if arrays.single else fit


def _fit(
    x: Tensor, y: Tensor, w: Tensor, valid: Tensor, scale: bool, reflection: bool
) -> Similarity:
    """`procrustes` of what it has checked: [B, N, 3], [B, N, 3], [B, N], bool [B, N]."""
    total = w.sum(1, keepdim=True)
    w = (w / torch.where(total == 0, 1, total)).unsqueeze(-1)
    x, y = _masked.keep(x, valid), _masked.keep(y, valid)
    mean_x, mean_y = (w * x).sum(1), (w * y).sum(1)
    x, y = x - mean_x.unsqueeze(1), y - mean_y.unsqueeze(1)
    h = ((w * y).unsqueeze(-1) * x.unsqueeze(-2)).sum(1)
    # The 3 x 3 problem in float64: its cost is small, and R is orthogonal to the last digit.
    tolerance = 16 * torch.finfo(x.dtype).eps
    rotation = nearest_rotation(h.double(), tolerance, reflection)
    s = torch.ones_like(mean_x[:, 0])
    if scale:
        spread = (w * x.square()).sum((1, 2))
        gain = (rotation * h).sum((1, 2)).to(x.dtype)
        some = spread != 0  # NaN counts as some, and shows
        s = torch.where(some, gain / torch.where(some, spread, 1), 1)
    rotation = rotation.to(x.dtype)
    moved = rotate(mean_x.unsqueeze(1), rotation).squeeze(1)
    return Similarity(s, rotation, mean_y - s.unsqueeze(-1) * moved)
