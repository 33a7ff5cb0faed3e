# SPDX-License-Identifier: MIT
"""Intersection over union of voxel grids."""

from __future__ import annotations

import torch
from torch import Tensor

from pointloss import _checks


def voxel_iou(
    prediction: Tensor,
    truth: Tensor,
    threshold: float | Tensor = 0.5,
    *,
    mask: Tensor | None = None,
) -> Tensor:
    """Intersection over union of two occupancy grids, the prediction cut at a threshold.

    |P and T| / |P or T| with P = prediction > threshold (strictly), as in 3D-R2N2 (Choy et al.
    2016). Search the threshold on validation data, and use the one found for the test:

        best = thresholds[voxel_iou(p, t, thresholds).mean(0).argmax()]

    Args:
        prediction: [B, X, Y, Z] or [X, Y, Z], float: probabilities, or any score such as logits.
        truth: bool, of that shape.
        threshold: a number, or several as a tensor [T].
        mask: bool, of that shape, the voxels that count, such as those whose truth is known.

    Returns:
        [B], or [B, T] for several thresholds, in 0..1, without batch axis for single grids. Two
        empty grids have 1. A NaN in the prediction is not occupied. Not differentiable.

    Raises:
        ValueError: shapes or devices do not fit.
        TypeError: dtypes do not fit.

    Determinism: deterministic.

    Example:
        >>> p, t = torch.tensor([[[0.9, 0.6, 0.1]]]), torch.tensor([[[True, False, True]]])
        >>> voxel_iou(p, t, torch.tensor([0.5, 0.8])).tolist()
        [0.3333333432674408, 0.5]
    """
    op = "voxel_iou"
    arrays = _checks.Arrays(op, prediction=prediction)
    p = arrays.take("prediction", prediction, "B X Y Z").detach()
    t = arrays.mask("truth", truth, "B X Y Z")
    valid = arrays.mask("mask", mask, "B X Y Z")
    cuts: list[float | Tensor] = [threshold]
    several = isinstance(threshold, Tensor) and threshold.dim() > 0
    if isinstance(threshold, Tensor) and threshold.dim() > 0:
        if threshold.dim() > 1:
            raise ValueError(
                f"{op}: threshold must be a number or [T], got {list(threshold.shape)}"
            )
        cuts = list(threshold.unbind())
    p, t, valid = p.flatten(1), t.flatten(1) & valid.flatten(1), valid.flatten(1)
    scores = []
    # One by one: memory stays that of one grid, and thresholds on the CPU are not copied.
    for cut in cuts:
        occupied = (p > cut) & valid
        union = (occupied | t).sum(1)
        score = (occupied & t).sum(1).to(p.dtype) / union.clamp_min(1)
        scores.append(torch.where(union == 0, 1, score))
    iou = torch.stack(scores, 1) if several else scores[0]
    return iou[0] if arrays.single else iou
