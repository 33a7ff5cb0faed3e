# SPDX-License-Identifier: MIT
"""Regression of pointmaps with a confidence."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import softplus

from pointloss import _checks, _masked, _reduce


def pointmap_loss(
    prediction: Tensor,
    truth: Tensor,
    *,
    confidence: Tensor | None = None,
    mask: Tensor | None = None,
    alpha: float = 0.2,
    normalize: bool = True,
    batch_reduction: str = "mean",
) -> Tensor:
    """Confidence-weighted regression of pointmaps (DUSt3R: Wang et al. 2024, eq. 2 to 4).

    The views of a sample share one frame, that of the first camera. With z the mean distance to the
    origin over the valid points of all views together, of the prediction, and z' of the truth,

        l = |X / z - X' / z'|,
        loss = sum over views of mean over valid pixels (C l - alpha log C),

    where C = 1 + exp(c) is the confidence of the network's output c. Without c, C = 1 and the loss
    is the regression alone. The gradient flows through the prediction's z.

    Args:
        prediction: pointmaps [B, V, H, W, 3] or [V, H, W, 3] of V views, for DUSt3R two.
        truth: of that shape, in the same frame.
        confidence: c, [B, V, H, W], before the exponential.
        mask: bool [B, V, H, W], pixels whose true point is known; the others may hold anything.
        alpha: weight of the confidence's regulariser; the paper's code has 0.2.
        normalize: divide by z and z'; without, the truth's unit is learnt.
        batch_reduction: "mean", "sum" or "none" ([B]).

    Returns:
        A scalar, or [B]; it may be negative. Means are over the pixels of a view of a sample, where
        the paper's code takes those of the whole batch. A view without a valid pixel contributes 0.
        The distance's gradient at l = 0 is 0, and z is at least 1e-8.

    Raises:
        ValueError: shapes, devices or options do not fit.
        TypeError: dtypes do not fit.

    Determinism: deterministic, values and gradients.

    Example:
        >>> truth = torch.rand(2, 4, 4, 3)
        >>> pointmap_loss(5 * truth, truth).item() < 1e-6
        True
    """
    op = "pointmap_loss"
    _checks.choice(op, "batch_reduction", batch_reduction, ("mean", "sum", "none"))
    arrays = _checks.Arrays(op, prediction=prediction, truth=truth, confidence=confidence)
    axes = "B V H W"
    x = arrays.take("prediction", prediction, f"{axes} 3")
    y = arrays.take("truth", truth, f"{axes} 3")
    c = arrays.maybe("confidence", confidence, axes)
    valid = arrays.mask("mask", mask, axes)
    x, y = _masked.keep(x, valid), _masked.keep(y, valid)
    if normalize:
        x, y = (v / _mean_distance(v, valid) for v in (x, y))
    loss = _masked.length(x - y)
    if c is not None:
        c = _masked.keep(c.unsqueeze(-1), valid).squeeze(-1)
        loss = (1 + c.exp()) * loss - alpha * softplus(c)  # softplus(c) = log(1 + exp(c))
    total = _masked.mean(loss, valid, 2).sum(1)
    return total[0] if arrays.single else _reduce.over_batch(total, batch_reduction)


def _mean_distance(points: Tensor, valid: Tensor) -> Tensor:
    """Mean distance to the origin over all views, [B, 1, 1, 1, 1]."""
    size = _masked.mean(_masked.length(points), valid, 3).clamp_min(1e-8)
    return size[:, None, None, None, None]
