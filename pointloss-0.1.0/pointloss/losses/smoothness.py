# SPDX-License-Identifier: MIT
"""Second-order smoothness of maps."""

from __future__ import annotations

from torch import Tensor

from pointloss import _checks, _masked, _reduce


def smoothness(
    values: Tensor, *, mask: Tensor | None = None, batch_reduction: str = "mean"
) -> Tensor:
    """Second-order smoothness: mean |d_xx| + 2 mean |d_xy| + mean |d_yy| of a map's differences.

    With d_xx = v[r, c - 1] - 2 v[r, c] + v[r, c + 1], d_yy likewise down the rows, and
    d_xy = v[r, c] - v[r, c + 1] - v[r + 1, c] + v[r + 1, c + 1], which counts twice, as d_xy and
    d_yx (Zhou, Brown, Snavely and Lowe 2017, section 3.4). Planes cost nothing.

    Args:
        values: [B, H, W] or [H, W], such as depth; spacing is one pixel.
        mask: bool [B, H, W], the pixels that count; a difference needs all of its pixels.
        batch_reduction: "mean", "sum" or "none" ([B]).

    Returns:
        A scalar, or [B], in the unit of the values. A sum without any difference is 0. The gradient
        of |.| at 0 is 0.

    Raises:
        ValueError: shapes, devices or options do not fit.
        TypeError: dtypes do not fit.

    Determinism: deterministic, values and gradients.

    Example:
        >>> smoothness(torch.tensor([[0.0, 0, 3]])).item()
        3.0
    """
    op = "smoothness"
    _checks.choice(op, "batch_reduction", batch_reduction, ("mean", "sum", "none"))
    arrays = _checks.Arrays(op, values=values)
    values = arrays.take("values", values, "B H W")
    valid = arrays.mask("mask", mask, "B H W")
    # The masked pixels' values may be NaN.
    values = _masked.keep(values.unsqueeze(-1), valid).squeeze(-1)

    def step(v: Tensor, m: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        n = max(v.shape[axis] - 1, 0)
        after, before = (slice(1, None), slice(0, n))
        if axis == 1:
            return v[:, after] - v[:, before], m[:, after] & m[:, before]
        return v[:, :, after] - v[:, :, before], m[:, :, after] & m[:, :, before]

    across, down = step(values, valid, 2), step(values, valid, 1)
    parts = ((1, step(*across, 2)), (2, step(*across, 1)), (1, step(*down, 1)))
    total = sum((factor * _masked.mean(v.abs(), m, 2) for factor, (v, m) in parts),
                values.new_zeros(values.shape[0]))  # fmt: skip
    return total[0] if arrays.single else _reduce.over_batch(total, batch_reduction)
