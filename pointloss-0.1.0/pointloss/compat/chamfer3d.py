# SPDX-License-Identifier: MIT
"""ChamferDistancePytorch: chamfer_3DDist, its forms for other dimensions, and fscore."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pointloss import _checks
from pointloss.ops.nearest import nearest_both


class chamfer_3DDist(nn.Module):
    """ChamferDistancePytorch's chamfer_3DDist: squared distances and neighbours of both directions.

    What differs: any dimension up to 64, any float type, strided clouds, and the caller's stream;
    of an empty target the distance is inf and the index -1. The root of a distance has no gradient
    at 0, here as there: torch.sqrt(dist1) gives NaN where points coincide.
    pointloss.chamfer(squared=False), and compat.pointr and compat.dcd, give 0.
    """

    def forward(self, input1: Tensor, input2: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Dist1 [B, N], dist2 [B, M], idx1 int32 [B, N], idx2 int32 [B, M] of two clouds.

        Args:
            input1: points [B, N, D].
            input2: points [B, M, D].

        Raises:
            ValueError: shapes or devices do not fit.
            TypeError: dtypes do not fit.
        """
        _checks.pair("chamfer_3DDist", input1=input1, input2=input2)
        there, back = nearest_both(input1, input2)
        return there.dist, back.dist, there.idx.int(), back.idx.int()


chamfer_2DDist = chamfer_5DDist = chamfer_6DDist = chamfer_3DDist


def fscore(dist1: Tensor, dist2: Tensor, threshold: float = 0.001) -> tuple[Tensor, Tensor, Tensor]:
    """ChamferDistancePytorch's fscore: of distances that chamfer_3DDist returned.

    Args:
        dist1: squared distances [B, N].
        dist2: squared distances [B, M].
        threshold: of the squared distances, below which a point is hit: 0.001 is 0.0316 of the
            coordinates' unit.

    Returns:
        (F-score, share of dist1, share of dist2), each [B], 0..1; the F-score is 0 where both
        shares are.
    """
    one, two = (
        (dist < threshold).float().sum(1) / max(dist.shape[1], 1) for dist in (dist1, dist2)
    )
    total = one + two
    return 2 * one * two / torch.where(total > 0, total, 1), one, two
