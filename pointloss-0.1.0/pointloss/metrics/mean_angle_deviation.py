# SPDX-License-Identifier: MIT
"""Angle between normal maps."""

from __future__ import annotations

import torch
from torch import Tensor

from pointloss import _checks, _masked


def mean_angle_deviation(
    prediction: Tensor,
    truth: Tensor,
    *,
    mask: Tensor | None = None,
    erode: int = 0,
    degrees: bool = True,
) -> Tensor:
    """MAD: the mean angle between two normal maps (Wu, Rupprecht and Vedaldi 2020; GAN2Shape).

    The angle is atan2(|n x n'|, n . n'), which is exact at 0 and 180 degrees too, where the arc
    cosine loses half of the digits and its slope is infinite.

    Args:
        prediction: normals [B, H, W, 3] or [H, W, 3], of any length but 0.
        truth: normals of that shape, in the same frame.
        mask: bool [B, H, W], the pixels that count. Those with a normal 0 (none) never do.
        erode: leave out the pixels within this many of one that does not count, or of the image's
            edge; 1 in those papers.
        degrees: in degrees; otherwise in radians.

    Returns:
        [B], a scalar for single maps; 0 without valid pixels. Differentiable; the gradient of an
        angle of 0 or 180 degrees (to the rounding of the dtype), where it has a kink, is 0.

    Raises:
        ValueError: shapes, devices or options do not fit.
        TypeError: dtypes do not fit.

    Determinism: deterministic, values and gradients.

    Example:
        >>> towards, up = torch.tensor([[[0.0, 0, -1]]]), torch.tensor([[[0.0, -1, -1]]])
        >>> round(mean_angle_deviation(up, towards).item(), 4)
        45.0
    """
    op = "mean_angle_deviation"
    arrays = _checks.Arrays(op, prediction=prediction, truth=truth)
    a = arrays.take("prediction", prediction, "B H W 3")
    b = arrays.take("truth", truth, "B H W 3")
    valid = arrays.mask("mask", mask, "B H W")
    if erode < 0:
        raise ValueError(f"{op}: erode must be at least 0, got {erode}")
    valid = valid & (a != 0).any(-1) & (b != 0).any(-1)
    there = valid.unsqueeze(-1)
    a, b = (_masked.unit(torch.where(there, n, 1.0)) for n in (a, b))
    sine = _masked.length(torch.linalg.cross(a, b))
    # What rounding leaves of parallel normals has a direction without a meaning, and slope 1.
    sine = torch.where(sine > 4 * torch.finfo(sine.dtype).eps, sine, 0)
    angle = torch.atan2(sine, (a * b).sum(-1))
    angle = torch.rad2deg(angle) if degrees else angle
    error = _masked.mean(angle, _masked.erode(valid, erode), 2)
    return error[0] if arrays.single else error
