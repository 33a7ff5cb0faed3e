# SPDX-License-Identifier: MIT
"""PoinTr's extensions.chamfer_dist: ChamferDistanceL1 and its kin."""

from __future__ import annotations

from torch import Tensor, nn

from pointloss import _checks
from pointloss.ops.chamfer import chamfer


class _ChamferDistance(nn.Module):
    def __init__(self, ignore_zeros: bool = False) -> None:
        super().__init__()
        self.ignore_zeros = ignore_zeros

    def _distance(
        self, xyz1: Tensor, xyz2: Tensor, squared: bool, direction: str = "both"
    ) -> Tensor:
        _checks.pair(type(self).__name__, xyz1=xyz1, xyz2=xyz2)
        x_mask, y_mask = (
            (cloud != 0).any(-1) if self.ignore_zeros else None for cloud in (xyz1, xyz2)
        )
        return chamfer(
            xyz1, xyz2, x_mask=x_mask, y_mask=y_mask, squared=squared, direction=direction
        )


class ChamferDistanceL2(_ChamferDistance):
    """PoinTr's ChamferDistanceL2, CD-L2: mean squared distance, both directions added.

    What differs in all four: the gradient at distance 0 is 0 (there NaN for L1); with ignore_zeros
    the points at the origin are left out in batches of any size (there only in a batch of one, and
    with them all points whose coordinates sum to 0).

    Args:
        ignore_zeros: leave out the points at the origin, which some data sets pad with.
    """

    def forward(self, xyz1: Tensor, xyz2: Tensor) -> Tensor:
        """The mean over a batch of clouds [B, N, 3] and [B, M, 3], a scalar."""
        return self._distance(xyz1, xyz2, squared=True)


class ChamferDistanceL2_split(_ChamferDistance):
    """PoinTr's ChamferDistanceL2_split: the two directions of CD-L2; see ChamferDistanceL2."""

    def forward(self, xyz1: Tensor, xyz2: Tensor) -> tuple[Tensor, Tensor]:
        """Scalars, from xyz1 to xyz2 and back."""
        return (
            self._distance(xyz1, xyz2, squared=True, direction="x_to_y"),
            self._distance(xyz1, xyz2, squared=True, direction="y_to_x"),
        )


class ChamferDistanceL1(_ChamferDistance):
    """PoinTr's ChamferDistanceL1, CD-L1: half the sum of both directions' mean plain distances.

    That is the Euclidean distance, not norm 1. See ChamferDistanceL2 for what differs.
    """

    def forward(self, xyz1: Tensor, xyz2: Tensor) -> Tensor:
        """The mean over a batch of clouds [B, N, 3] and [B, M, 3], a scalar."""
        return self._distance(xyz1, xyz2, squared=False) / 2


class ChamferDistanceL1_PM(_ChamferDistance):
    """PoinTr's ChamferDistanceL1_PM: the mean plain distance from xyz1 to xyz2, not halved."""

    def forward(self, xyz1: Tensor, xyz2: Tensor) -> Tensor:
        """The mean over a batch of clouds [B, N, 3] and [B, M, 3], a scalar."""
        return self._distance(xyz1, xyz2, squared=False, direction="x_to_y")
