# SPDX-License-Identifier: MIT
"""Density-aware Chamfer distance's utils.model_utils: calc_cd, calc_dcd and calc_emd."""

from __future__ import annotations

import torch
from torch import Tensor

from pointloss import _checks
from pointloss._reduce import safe_sqrt
from pointloss.compat._eps import relative
from pointloss.compat.chamfer3d import chamfer_3DDist, fscore
from pointloss.metrics.density_aware_chamfer import density_aware_chamfer
from pointloss.ops.emd import emd


def calc_cd(
    output: Tensor,
    gt: Tensor,
    calc_f1: bool = False,
    return_raw: bool = False,
    normalize: bool = False,
    separate: bool = False,
) -> list[Tensor]:
    """DCD's calc_cd: Chamfer distances of each pair of clouds, plain and squared.

    What differs: the gradient of the plain one at distance 0 is 0 (there NaN).

    Args:
        output: predicted points [B, N, D].
        gt: true points [B, M, D].
        calc_f1: append the F-score at 0.0001 of the squared distance.
        return_raw: append dist1 [B, M] (of gt, squared), dist2 [B, N], and the neighbours idx1,
            idx2, int32.
        normalize: taken and not needed, as there.
        separate: the directions of both, [2, B] each: from gt, then from output.

    Returns:
        [cd_p, cd_t, ...]: half the sum of both directions' mean plain distances, [B]; the sum of
        both directions' mean squared distances, [B].

    Raises:
        ValueError: shapes or devices do not fit.
        TypeError: dtypes do not fit.
    """
    _checks.pair("calc_cd", gt=gt, output=output)
    raw = chamfer_3DDist()(gt, output)
    # Not mean(), so that an empty cloud's own direction is 0 and the other's inf decides.
    squared, plain = (
        torch.stack([form(dist).sum(1) / max(dist.shape[1], 1) for dist in raw[:2]])
        for form in (torch.clone, safe_sqrt)
    )
    results = [plain, squared] if separate else [plain.sum(0) / 2, squared.sum(0)]
    if calc_f1:
        results.append(fscore(raw[0], raw[1], 0.0001)[0])
    return [*results, *raw] if return_raw else results


def calc_dcd(
    x: Tensor,
    gt: Tensor,
    alpha: float = 1000,
    n_lambda: float = 1,
    return_raw: bool = False,
    non_reg: bool = False,
) -> list[Tensor]:
    """DCD's calc_dcd: the density-aware Chamfer distance of each pair of clouds, and two others.

    What differs: the counts do not get 1e-6 added, so equal clouds have exactly 0; float64 stays
    float64.

    Args:
        x: predicted points [B, N, D].
        gt: true points [B, M, D].
        alpha: steepness of exp(-alpha d^2).
        n_lambda: exponent of the counts.
        return_raw: append what calc_cd appends.
        non_reg: let the factor of clouds of unequal size, n / m, not fall below 1.

    Returns:
        [dcd, cd_p, cd_t, ...], [B] each; the last two as from calc_cd. See
        pointloss.density_aware_chamfer.

    Raises:
        ValueError: shapes, devices or options do not fit.
        TypeError: dtypes do not fit.
    """
    _checks.pair("calc_dcd", x=x, gt=gt)
    factor = "ratio_at_least_1" if non_reg else "ratio"
    options = {"alpha": alpha, "n_lambda": n_lambda, "size_factor": factor}
    loss = density_aware_chamfer(x, gt, **options, batch_reduction="none")  # type: ignore[arg-type]
    return [loss, *calc_cd(x, gt, return_raw=return_raw)]


def calc_emd(output: Tensor, gt: Tensor, eps: float = 0.005, iterations: int = 50) -> Tensor:
    """DCD's calc_emd: the mean plain distance of a matching, of each pair of clouds.

    What differs: see emdModule; and the gradient at distance 0 is 0 (there NaN).

    Args:
        output: predicted points [B, N, D].
        gt: true points [B, M, D].
        eps: see emdModule.
        iterations: taken and not needed.

    Returns:
        [B].

    Raises:
        ValueError: shapes, devices or eps do not fit.
        TypeError: dtypes do not fit.
    """
    _checks.pair("calc_emd", output=output, gt=gt)
    return emd(output, gt, rtol=relative("calc_emd", eps), batch_reduction="none")
