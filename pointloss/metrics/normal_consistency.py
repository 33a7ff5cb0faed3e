# SPDX-License-Identifier: MIT
"""Agreement of normals at nearest points."""

from __future__ import annotations

import torch
from torch import Tensor

from pointloss import _checks, _reduce
from pointloss.ops.nearest import nearest_batched


def normal_consistency(
    x: Tensor,
    y: Tensor,
    x_normals: Tensor,
    y_normals: Tensor,
    *,
    x_lengths: Tensor | None = None,
    y_lengths: Tensor | None = None,
    absolute: bool = True,
) -> Tensor:
    """Mean cosine between each point's normal and that of its nearest point, both directions.

    1/2 (1/N sum_i |n_i . m_j(i)| + 1/M sum_j |m_j . n_i(j)|), with |.| only if `absolute`
    (Mescheder, Oechsle, Niemeyer, Nowozin and Geiger 2019, supplementary, "normal consistency").

    Args:
        x: points [B, N, D] or [N, D].
        y: points [B, M, D] or [M, D], of x's dtype and device.
        x_normals: normals of x, of its shape; they need not have unit length.
        y_normals: normals of y, of its shape.
        x_lengths: int [B], the valid points of each x.
        y_lengths: int [B], likewise for y.
        absolute: take the cosine's absolute value, for normals whose sign is arbitrary.

    Returns:
        [B], a scalar for single clouds; 1 is perfect. Differentiable in the normals, the
        neighbours are constants. A point without a neighbour, or with a zero normal, has cosine 0.

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
    c = _checks.clouds(name, x, y, x_lengths, y_lengths)
    normals = []
    for label, value, cloud in (("x_normals", x_normals, x), ("y_normals", y_normals, y)):
        if value.shape != cloud.shape:
            raise ValueError(
                f"{name}: {label} must have shape {list(cloud.shape)}, got {list(value.shape)}"
            )
        n = value.to(c.x.dtype).reshape(-1, *value.shape[-2:])
        normals.append(torch.nn.functional.normalize(n, dim=-1))
    with torch.no_grad():
        _, idx_x, _, idx_y = nearest_batched(c, 2, both=True)

    def one_way(own: Tensor, other: Tensor, idx: Tensor, lengths: Tensor | None) -> Tensor:
        if other.shape[1] == 0:
            return own.new_zeros(own.shape[0])
        column = idx.clamp_min(0).unsqueeze(-1).expand_as(own)
        cosine = (own * other.gather(1, column)).sum(-1)
        cosine = torch.where(idx >= 0, cosine.abs() if absolute else cosine, 0)
        return _reduce.over_points(cosine, _reduce.counts(own, lengths), None, "mean", None)

    total = 0.5 * (
        one_way(normals[0], normals[1], idx_x, c.x_lengths)
        + one_way(normals[1], normals[0], idx_y, c.y_lengths)
    )
    return total[0] if c.single else total
