# SPDX-License-Identifier: MIT
"""kaolin.metrics.pointcloud: sided_distance, chamfer_distance and f_score."""

from __future__ import annotations

import torch
from torch import Tensor

from pointloss import _checks
from pointloss.metrics import f_score as _f_score
from pointloss.ops.chamfer import chamfer
from pointloss.ops.nearest import nearest


def sided_distance(p1: Tensor, p2: Tensor) -> tuple[Tensor, Tensor]:
    """Kaolin's sided_distance: from each point of p1 to its nearest of p2.

    What differs: any dimension up to 64 and the CPU; of an empty p2 the distance is inf and the
    index -1 (there 0 and 0); half types are computed in float32.

    Args:
        p1: points [B, N, D].
        p2: points [B, M, D].

    Returns:
        (dist, idx), both [B, N]: squared, in p1's dtype, differentiable in both clouds; int64.

    Raises:
        ValueError: shapes or devices do not fit.
        TypeError: dtypes do not fit.
    """
    _checks.pair("sided_distance", p1=p1, p2=p2)
    dist, idx = nearest(p1, p2)
    return dist.to(p1.dtype), idx


def chamfer_distance(
    p1: Tensor, p2: Tensor, w1: float = 1.0, w2: float = 1.0, squared: bool = True
) -> Tensor:
    """Kaolin's chamfer_distance: w1 times the mean from p1 to p2, plus w2 times that from p2 to p1.

    What differs: without `squared` the gradient at distance 0 is 0 (there NaN); if one of two
    clouds is empty, the distance is inf.

    Args:
        p1: points [B, N, D].
        p2: points [B, M, D].
        w1: weight of the direction from p1; one of weight 0 is not looked at.
        w2: weight of the direction from p2, likewise.
        squared: squared distances, or plain ones.

    Returns:
        [B], in p1's dtype; differentiable in both clouds.

    Raises:
        ValueError: shapes or devices do not fit.
        TypeError: dtypes do not fit.
    """
    _checks.pair("chamfer_distance", p1=p1, p2=p2)
    ways = {"both": w1} if w1 == w2 else {"x_to_y": w1, "y_to_x": w2}
    total = p1.new_zeros(p1.shape[:-2])
    for direction, weight in ways.items():
        if weight != 0:  # 0 * inf is NaN
            total = total + weight * chamfer(
                p1, p2, squared=squared, direction=direction, batch_reduction="none"
            )
    return total.to(p1.dtype)


def f_score(
    gt_points: Tensor, pred_points: Tensor, radius: float = 0.01, eps: float = 1e-8
) -> Tensor:
    """Kaolin's f_score: of points that lie within the radius, or exactly at it.

    What differs: recall is divided by the number of true points (there the hits are those of the
    prediction on both sides, which is the same number only by chance); nothing within the radius is
    0.

    Args:
        gt_points: true points [B, N, D].
        pred_points: predicted points [B, M, D].
        radius: plain distance up to which a point is hit.
        eps: added to precision + recall in the denominator.

    Returns:
        [B], 0..1, in gt_points' dtype; not differentiable.

    Raises:
        ValueError: shapes or devices do not fit; radius is negative.
        TypeError: dtypes do not fit.
    """
    _checks.pair("f_score", pred_points=pred_points, gt_points=gt_points)
    dtype = torch.promote_types(
        torch.promote_types(gt_points.dtype, pred_points.dtype), torch.float32
    )
    beyond = torch.nextafter(
        torch.tensor(radius, dtype=dtype), torch.tensor(torch.inf, dtype=dtype)
    )
    _, precision, recall = _f_score.f_score(pred_points, gt_points, beyond.item())
    return (2 * precision * recall / (precision + recall + eps)).to(gt_points.dtype)
