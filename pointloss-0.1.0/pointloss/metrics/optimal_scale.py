# SPDX-License-Identifier: MIT
"""The factor between corresponding points."""

from __future__ import annotations

import torch
from torch import Tensor

from pointloss import _checks, _masked


def optimal_scale(
    x: Tensor,
    y: Tensor,
    *,
    mask: Tensor | None = None,
    method: str = "least_squares",
    rounds: int = 10,
) -> Tensor:
    """The factor s with which s x comes closest to y, row by row.

    - "least_squares" minimises sum |s x_i - y_i|^2: s = sum x_i . y_i / sum |x_i|^2.
    - "median" is the (lower) median of the points' own factors, x_i . y_i / |x_i|^2.
    - "weiszfeld" approaches the minimum of sum |s x_i - y_i|, not squared, which outliers move
      little: least squares again and again, weighted by 1 / |s x_i - y_i| (Weiszfeld 1937).

    Args:
        x: points [B, N, D] or [N, D], such as a predicted pointmap, flattened; depths as D = 1.
        y: their partners, of x's shape.
        mask: bool [B, N], the pairs that count; the others may hold anything.
        method: "least_squares", "median" or "weiszfeld".
        rounds: of "weiszfeld", which starts from least squares; 10 in DUSt3R's code.

    Returns:
        [B], a scalar for single clouds; 1 if x is 0 or no pair counts. Differentiable, except that
        the weights of "weiszfeld" are constants.

    Raises:
        ValueError: shapes, devices or options do not fit.
        TypeError: dtypes do not fit.

    Determinism: deterministic, values and gradients. Nothing waits for the GPU.

    Example:
        >>> x, y = torch.ones(5, 1), torch.tensor([[2.0], [2.0], [2.0], [2.0], [7.0]])
        >>> [round(optimal_scale(x, y, method=m).item(), 2) for m in ("least_squares", "median")]
        [3.0, 2.0]
    """
    op = "optimal_scale"
    _checks.choice(op, "method", method, ("least_squares", "median", "weiszfeld"))
    if rounds < 0:
        raise ValueError(f"{op}: rounds must be at least 0, got {rounds}")
    arrays = _checks.Arrays(op, x=x, y=y)
    x, y = arrays.take("x", x, "B N D"), arrays.take("y", y, "B N D")
    valid = arrays.mask("mask", mask, "B N")
    x, y = _masked.keep(x, valid), _masked.keep(y, valid)
    both, own = (x * y).sum(-1), x.square().sum(-1)
    if method == "median":
        valid = valid & (own > 0)
        scale = _masked.median(both / torch.where(valid, own, 1), valid)
        scale = torch.where(valid.any(1), scale, 1)
    else:
        scale = _ratio(both.sum(1), own.sum(1))
        for _ in range(rounds if method == "weiszfeld" else 0):
            off = _masked.length(scale[:, None, None] * x - y).detach()
            # The least distance, as a share of the mean one, keeps the weights finite.
            least = 1e-6 * _masked.mean(off, valid, 1).unsqueeze(1)
            weight = 1 / torch.maximum(off, torch.where(least > 0, least, 1))
            scale = _ratio((weight * both).sum(1), (weight * own).sum(1))
    return scale[0] if arrays.single else scale


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """Above / below; 1 where below is 0."""
    some = below != 0
    return torch.where(some, above / torch.where(some, below, 1), 1)
