# SPDX-License-Identifier: MIT
"""Error of pointmaps up to scale and shift."""

from __future__ import annotations

import torch
from torch import Tensor

from pointloss import _checks, _masked


def pointmap_error(
    prediction: Tensor,
    truth: Tensor,
    *,
    mask: Tensor | None = None,
    scale: bool = True,
    shift: bool = True,
) -> Tensor:
    """Mean distance of pointmaps up to a scale and a shift in depth, both robust.

    The evaluation form of DUSt3R's regression (Wang et al. 2024): from the prediction and the
    truth, each on its own and over all views of a sample together, subtract the median depth (z);
    then divide by the median distance of the points to their coordinate-wise median. The error is
    the mean plain distance of what remains.

    Args:
        prediction: pointmaps [B, V, H, W, 3] or [V, H, W, 3] of V views in one frame.
        truth: of that shape, in the same frame.
        mask: bool [B, V, H, W], pixels whose true point is known; the others may hold anything.
        scale: divide; otherwise the error is in the unit of the coordinates.
        shift: subtract.

    Returns:
        [B], a scalar for a single sample; with scale in units of the median distance, 0 without
        valid pixels. Medians are the lower ones; a median distance of 0 divides nothing, and none
        is clipped. Differentiable, with the medians as constants.

    Raises:
        ValueError: shapes or devices do not fit.
        TypeError: dtypes do not fit.

    Determinism: deterministic, values and gradients.

    Example:
        >>> truth = torch.rand(2, 8, 8, 3)
        >>> moved = 3 * truth + torch.tensor([0.0, 0, 5])
        >>> pointmap_error(moved, truth) < 1e-5, pointmap_error(moved, truth, shift=False) > 1
        (tensor(True), tensor(True))
    """
    arrays = _checks.Arrays("pointmap_error", prediction=prediction, truth=truth)
    x = arrays.take("prediction", prediction, "B V H W 3").flatten(1, 3)
    y = arrays.take("truth", truth, "B V H W 3").flatten(1, 3)
    valid = arrays.mask("mask", mask, "B V H W").flatten(1)
    x, y = (_settled(_masked.keep(v, valid), valid, scale, shift) for v in (x, y))
    error = _masked.mean(_masked.length(x - y), valid, 1)
    return error[0] if arrays.single else error


def _settled(points: Tensor, valid: Tensor, scale: bool, shift: bool) -> Tensor:
    fixed = points.detach()
    middle = _masked.median(fixed.mT, valid.unsqueeze(1)).unsqueeze(1)  # [B, 1, 3]
    if shift:
        points = torch.cat([points[..., :2], points[..., 2:] - middle[..., 2:]], -1)
    if scale:
        size = _masked.median((fixed - middle).square().sum(-1).sqrt(), valid)
        points = points / torch.where(size == 0, 1, size)[:, None, None]
    return _masked.keep(points, valid)
