# SPDX-License-Identifier: MIT
"""Mean per-joint position error, as it is and after a Procrustes alignment."""

from __future__ import annotations

from torch import Tensor

from pointloss import _checks, _masked
from pointloss.geometry.procrustes import procrustes


def mpjpe(x: Tensor, y: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Mean per-joint position error: mean_i |x_i - y_i|, plain distances (Ionescu et al. 2014).

    Args:
        x: predicted joints [B, N, D] or [N, D], float; halves are computed in float32.
        y: true joints, of x's shape and in its frame; subtract the root joint of both first, if
            the error relative to it is meant.
        mask: bool [B, N], the joints that count; the others may hold anything.

    Returns:
        [B], a scalar for single samples, in the unit of the coordinates; 0 without joints.
        Differentiable; the gradient at distance 0 is 0.

    Raises:
        ValueError: shapes or devices do not fit.
        TypeError: dtypes do not fit.

    Determinism: deterministic, values and gradients.

    Example:
        >>> mpjpe(torch.tensor([[0.0, 0, 0], [1, 0, 0]]), torch.tensor([[0.0, 3, 4], [1, 0, 0]]))
        tensor(2.5000)
    """
    arrays = _checks.Arrays("mpjpe", x=x, y=y)
    x, y = arrays.take("x", x, "B N D"), arrays.take("y", y, "B N D")
    valid = arrays.mask("mask", mask, "B N")
    error = _masked.mean(_masked.length(_masked.keep(x - y, valid)), valid, 1)
    return error[0] if arrays.single else error


def pa_mpjpe(
    x: Tensor,
    y: Tensor,
    *,
    mask: Tensor | None = None,
    scale: bool = True,
    reflection: bool = False,
) -> Tensor:
    """`mpjpe` after the similarity that brings x closest to y in least squares (`procrustes`).

    Args:
        x: predicted joints [B, N, 3] or [N, 3], float.
        y: true joints, of x's shape.
        mask: bool [B, N], the joints that count, in the alignment too.
        scale: align the scale too.
        reflection: x may be mirrored.

    Returns:
        [B], a scalar for single samples, in the unit of y. Differentiable, through the alignment.

    Raises:
        ValueError: shapes or devices do not fit.
        TypeError: dtypes do not fit.

    Determinism: deterministic, values and gradients.

    Example:
        >>> x = torch.rand(6, 3)
        >>> pa_mpjpe(2 * x[:, [1, 2, 0]] + 1, x).item() < 1e-5
        True
    """
    arrays = _checks.Arrays("pa_mpjpe", x=x, y=y)
    x, y = arrays.take("x", x, "B N 3"), arrays.take("y", y, "B N 3")
    valid = arrays.mask("mask", mask, "B N")
    # A NaN in a masked joint would reach the gradient through the product with the rotation.
    x = _masked.keep(x, valid)
    fit = procrustes(x, y, mask=valid, scale=scale, reflection=reflection)
    error = mpjpe(fit.apply(x), y, mask=valid)
    return error[0] if arrays.single else error
