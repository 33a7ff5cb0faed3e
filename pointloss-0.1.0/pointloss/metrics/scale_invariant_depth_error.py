# SPDX-License-Identifier: MIT
"""Error of depth maps up to a factor."""

from __future__ import annotations

import torch
from torch import Tensor

from pointloss import _checks, _masked, _reduce


def scale_invariant_depth_error(
    prediction: Tensor, truth: Tensor, *, mask: Tensor | None = None, erode: int = 0
) -> Tensor:
    """SIDE: the standard deviation of log d - log d', over the valid pixels of a map.

    sqrt(mean(delta^2) - mean(delta)^2) with delta = log d - log d' (Eigen, Puhrsch and Fergus 2014,
    section 3.2; as in Wu, Rupprecht and Vedaldi 2020 and GAN2Shape). A factor on the depth costs
    nothing. Papers often print 100 times this.

    Args:
        prediction: depth d [B, H, W] or [H, W], in any unit.
        truth: depth d', of that shape.
        mask: bool [B, H, W], the pixels that count. Those where a depth is not above 0 or not
            finite never do.
        erode: leave out the pixels within this many of one that does not count, or of the image's
            edge, where depths mix; 1 in those papers.

    Returns:
        [B], a scalar for single maps, without a unit; 0 without valid pixels. Differentiable; the
        gradient at 0 is 0.

    Raises:
        ValueError: shapes, devices or options do not fit.
        TypeError: dtypes do not fit.

    Determinism: deterministic, values and gradients.

    Example:
        >>> truth = torch.tensor([[1.0, 2.0], [4.0, 0.0]])
        >>> scale_invariant_depth_error(3 * truth, truth).item() < 1e-6
        True
    """
    op = "scale_invariant_depth_error"
    arrays = _checks.Arrays(op, prediction=prediction, truth=truth)
    d, t = (arrays.take(n, v, "B H W") for n, v in (("prediction", prediction), ("truth", truth)))
    valid = arrays.mask("mask", mask, "B H W")
    if erode < 0:
        raise ValueError(f"{op}: erode must be at least 0, got {erode}")
    for depth in (d, t):
        valid = valid & (depth > 0) & depth.isfinite()
    valid = _masked.erode(valid, erode)
    delta = torch.where(valid, d, 1).log() - torch.where(valid, t, 1).log()
    # Centred first: the difference of the two means would lose the digits of a small deviation.
    delta = delta - _masked.mean(delta, valid, 2)[:, None, None]
    error = _reduce.safe_sqrt(_masked.mean(delta.square(), valid, 2))
    return error[0] if arrays.single else error
