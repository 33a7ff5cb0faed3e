# SPDX-License-Identifier: MIT
"""F-score at a distance threshold."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pointloss import _checks, _reduce
from pointloss.ops.nearest import nearest_batched


class FScore(NamedTuple):
    """Harmonic mean of precision and recall, each in 0..1 (not percent)."""

    f_score: Tensor
    precision: Tensor
    recall: Tensor


FScore.f_score.__doc__ = "2 precision recall / (precision + recall); 0 where both are 0."
FScore.precision.__doc__ = "Share of the points of x that are nearer than the radius to y."
FScore.recall.__doc__ = "Share of the points of y that are nearer than the radius to x."


def f_score(
    x: Tensor,
    y: Tensor,
    radius: float | Tensor,
    *,
    x_lengths: Tensor | None = None,
    y_lengths: Tensor | None = None,
    x_mask: Tensor | None = None,
    y_mask: Tensor | None = None,
) -> FScore:
    """F-score of a predicted cloud x against a true cloud y.

    Precision is over the points of x, recall over those of y, each divided by its own number of
    points; a point counts if its distance (plain, not squared) is strictly below the radius
    (Knapitsch, Park, Zhou and Koltun 2017, "Tanks and Temples", eq. 3 to 6).

    Args:
        x: predicted points [B, N, D] or [N, D].
        y: true points [B, M, D] or [M, D], on x's device; dtypes as for `nearest`.
        radius: one threshold >= 0, or several as a tensor [R], in the unit of the coordinates.
        x_lengths: int [B], the valid points of each x.
        y_lengths: int [B], likewise for y.
        x_mask: bool [B, N], the points of x that count, in place of x_lengths; the others may hold
            anything, NaN too.
        y_mask: bool [B, M], likewise for y.

    Returns:
        FScore(f_score, precision, recall), each [B], or [B, R] for several radii, without batch
        axis for single clouds. Where precision + recall is 0, so is the F-score; an empty cloud
        has precision or recall 0, so one or two empty clouds have F-score 0. A point with NaN is
        not near. A length out of range, and a negative or NaN radius in a tensor, give NaN. Not
        differentiable.

    Raises:
        ValueError: shapes or devices do not fit; radius is a negative number.
        TypeError: dtypes do not fit.
        RuntimeError: CUDA tensors in a build without CUDA.

    Determinism: deterministic.

    Example:
        >>> x, y = torch.tensor([[0.0, 0], [9, 9]]), torch.tensor([[0.0, 0.5]])
        >>> [v.item() for v in f_score(x, y, 1.0)]
        [0.6666666865348816, 0.5, 1.0]
    """
    c = _checks.clouds("f_score", x, y, x_lengths, y_lengths, x_mask, y_mask)
    if isinstance(radius, int | float):
        _checks.not_negative("f_score", "radius", radius)
    limit = torch.as_tensor(radius, dtype=c.x.dtype, device=c.x.device)
    if limit.dim() > 1:
        raise ValueError(f"f_score: radius must be a number or [R], got {list(limit.shape)}")
    limits = limit.reshape(-1)

    with torch.no_grad():
        dist_x, idx_x, dist_y, idx_y = nearest_batched(c, 2, both=True)

    def share(dist: Tensor, idx: Tensor, count: Tensor) -> Tensor:
        near = (dist.sqrt().unsqueeze(-1) < limits) & (idx >= 0).unsqueeze(-1)
        part = near.sum(1) / count.clamp_min(1).unsqueeze(-1)
        return _reduce.settle(torch.where(limits >= 0, part, torch.nan), c)

    precision = share(dist_x, idx_x, _reduce.counts(c.x, c.x_lengths))
    recall = share(dist_y, idx_y, _reduce.counts(c.y, c.y_lengths))
    both = precision + recall
    score = 2 * precision * recall / torch.where(both == 0, 1, both)
    results = (score, precision, recall)
    if limit.dim() == 0:
        results = tuple(r.squeeze(-1) for r in results)  # type: ignore[assignment]
    return FScore(*(r[0] if c.single else r for r in results))
