# SPDX-License-Identifier: MIT
"""Agreement of normals at nearest points."""

from __future__ import annotations

import torch
from torch import Tensor

from pointloss import _checks, _reduce
from pointloss.losses.normal_loss import cosines
from pointloss.ops._injection import Order
from pointloss.ops.nearest import nearest_batched


def normal_consistency(
    x: Tensor,
    y: Tensor,
    x_normals: Tensor,
    y_normals: Tensor,
    *,
    x_lengths: Tensor | None = None,
    y_lengths: Tensor | None = None,
    x_mask: Tensor | None = None,
    y_mask: Tensor | None = None,
    absolute: bool = True,
) -> Tensor:
    """Mean cosine between each point's normal and that of its nearest point, both directions.

    1/2 (1/N sum_i |n_i . m_j(i)| + 1/M sum_j |m_j . n_i(j)|), with |.| only if `absolute`
    (Mescheder, Oechsle, Niemeyer, Nowozin and Geiger 2019, supplementary, "normal consistency").

    Args:
        x: points [B, N, D] or [N, D].
        y: points [B, M, D] or [M, D], on x's device; dtypes as for `nearest`.
        x_normals: normals of x, of its shape; they need not have unit length.
        y_normals: normals of y, of its shape.
        x_lengths: int [B], the valid points of each x.
        y_lengths: int [B], likewise for y.
        x_mask: bool [B, N], the points of x that count, in place of x_lengths; the others may hold
            anything, NaN too.
        y_mask: bool [B, M], likewise for y.
        absolute: take the cosine's absolute value, for normals whose sign is arbitrary.

    Returns:
        [B], a scalar for single clouds; 1 is perfect. Differentiable in the normals, the
        neighbours are constants. A point without a neighbour, or with a zero normal, has cosine 0.
        Exactly one empty cloud gives the worst value, 0 or without `absolute` -1; two empty clouds
        give 0. A length out of range gives NaN.

    Raises:
        ValueError: shapes or devices do not fit.
        TypeError: dtypes do not fit.
        RuntimeError: CUDA tensors in a build without CUDA.

    Determinism: deterministic forward; the gradient of a gather adds in any order on CUDA.

    Example:
        >>> x, up = torch.rand(5, 3), torch.tensor([0.0, 0, 1]).expand(5, 3)
        >>> normal_consistency(x, x, up, -up).item()
        1.0
    """
    name = "normal_consistency"
    c = _checks.clouds(name, x, y, x_lengths, y_lengths, x_mask, y_mask)
    with torch.no_grad():
        _, idx_x, _, idx_y = nearest_batched(c, 2, both=True)

    def of(label: str, given: Tensor, cloud: Tensor, order: Order | None) -> Tensor:
        given = _checks.in_shape(name, label, given, tuple(cloud.shape), cloud, c.single)
        return (given if order is None else order.apply(given)).to(cloud.dtype)

    def one_way(own: Tensor, other: Tensor, idx: Tensor, count: Tensor) -> Tensor:
        cosine = cosines(own, other, idx)
        cosine = cosine.abs() if absolute else cosine
        return _reduce.over_points(cosine, count, None, "mean", None)

    n, m = of("x_normals", x_normals, c.x, c.x_order), of("y_normals", y_normals, c.y, c.y_order)
    total = 0.5 * (
        one_way(n, m, idx_x, _reduce.counts(c.x, c.x_lengths))
        + one_way(m, n, idx_y, _reduce.counts(c.y, c.y_lengths))
    )
    total = _reduce.settle(total, c, 0.0 if absolute else -1.0)
    return total[0] if c.single else total
