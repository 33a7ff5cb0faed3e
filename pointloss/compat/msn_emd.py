# SPDX-License-Identifier: MIT
"""MSN's emd_module, which many completion networks carry a copy of: emdModule."""

from __future__ import annotations

from torch import Tensor, nn

from pointloss import _checks
from pointloss.compat._eps import relative
from pointloss.ops.emd import emd


class emdModule(nn.Module):
    """MSN's emdModule: squared distances of a matching by plain distances, and that matching.

    What differs: the matching is one-to-one for every eps, and certified (there several points may
    share a partner at the training setting, and sometimes at the evaluation setting); it takes any
    number of points, not multiples of 1024, clouds of unequal sizes, whose unmatched points have
    distance 0 and partner -1, and any dimension; the gradient reaches both clouds (there only the
    first). The root of a distance has no gradient at 0, here as there: torch.sqrt(dist) gives NaN
    where matched points coincide. pointloss.emd gives 0.
    """

    def forward(
        self, input1: Tensor, input2: Tensor, eps: float, iters: int
    ) -> tuple[Tensor, Tensor]:
        """(dist [B, N], assignment int32 [B, N]) of two clouds.

        Args:
            input1: points [B, N, D].
            input2: points [B, M, D].
            eps: the mean plain distance may exceed the optimum by this much, if no distance exceeds
                3, as MSN asks for; relative to larger ones it is eps / 3. MSN trains with 0.005 and
                evaluates with 0.002.
            iters: taken and not needed: the search ends when eps is certified.

        Raises:
            ValueError: shapes, devices or eps do not fit.
            TypeError: dtypes do not fit.

        Warns:
            RuntimeWarning: a matching missed its certificate.
        """
        _checks.pair("emdModule", input1=input1, input2=input2)
        rtol = relative("emdModule", eps)
        value, found = emd(
            input1, input2, rtol=rtol, point_reduction="none", return_assignment=True
        )
        return value.square(), found.idx.int()
