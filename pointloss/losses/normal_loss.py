# SPDX-License-Identifier: MIT
"""Disagreement of normals at nearest points."""

from __future__ import annotations

import torch
from torch import Tensor

from pointloss import _checks, _reduce
from pointloss._reduce import PointDistances, Reduction
from pointloss.ops.chamfer import PointIndices


def normal_loss(
    x_normals: Tensor,
    y_normals: Tensor,
    idx: PointIndices,
    *,
    x_lengths: Tensor | None = None,
    y_lengths: Tensor | None = None,
    x_mask: Tensor | None = None,
    y_mask: Tensor | None = None,
    x_weights: Tensor | None = None,
    y_weights: Tensor | None = None,
    cloud_weights: Tensor | None = None,
    absolute: bool = True,
    point_reduction: str = "mean",
    batch_reduction: str = "mean",
) -> Tensor | PointDistances:
    """One less the cosine between the normals of nearest points, reduced as `chamfer` does.

        loss, idx = chamfer(x, y, return_idx=True)
        loss = loss + 0.1 * normal_loss(x_normals, y_normals, idx)

    One search serves both terms. With the defaults 1/N sum_i (1 - |n_i . m_j(i)|) for each
    direction that `idx` has, their sum, and its mean over the batch. Any other features of points,
    up to 64 numbers each, can stand in place of normals.

    Args:
        x_normals: [B, N, D] or [N, D] of the points of x; they need not have unit length.
        y_normals: [B, M, D] or [M, D] of the points of y.
        idx: which point is nearest to which, from `chamfer(..., return_idx=True)`.
        x_lengths: int [B], the valid points of each x, as in that call; likewise all options below.
        y_lengths: int [B], likewise for y.
        x_mask: bool [B, N], the points of x that count, in place of x_lengths.
        y_mask: bool [B, M], likewise for y.
        x_weights: [B, N], weight of each point of x.
        y_weights: [B, M], likewise for y.
        cloud_weights: [B], weight of each pair of clouds.
        absolute: take the cosine's absolute value, for normals whose sign is arbitrary.
        point_reduction: "mean", "sum", "max" or "none".
        batch_reduction: "mean", "sum" or "none".

    Returns:
        A scalar, [B] or PointDistances, see `chamfer`; each direction's mean lies in 0..1, or
        without `absolute` in 0..2. Differentiable in the normals, the neighbours are constants. A
        point with a zero normal has cosine 0, one without a neighbour the worst value, 1 or 2. A
        length out of range gives NaN, and so does an index beyond the other cloud's rows.

    Raises:
        ValueError: shapes, devices or options do not fit.
        TypeError: dtypes do not fit, or idx is no PointIndices.
        RuntimeError: CUDA tensors in a build without CUDA.

    Determinism: deterministic forward; the gradient of a gather adds in any order on CUDA.

    Example:
        >>> from pointloss import chamfer
        >>> x, up = torch.rand(5, 3), torch.tensor([0.0, 0, 1]).expand(5, 3)
        >>> _, idx = chamfer(x, x, return_idx=True)
        >>> normal_loss(up, -up, idx).item(), normal_loss(up, -up, idx, absolute=False).item()
        (0.0, 4.0)
    """
    op = "normal_loss"
    if not isinstance(idx, PointIndices):
        raise TypeError(
            f"{op}: idx must be PointIndices, got {type(idx).__name__}; take the idx of "
            "chamfer(..., return_idx=True), or make PointIndices(x_to_y, y_to_x), None for one "
            "direction"
        )
    c = _checks.clouds(op, x_normals, y_normals, x_lengths, y_lengths, x_mask, y_mask)
    weights = (x_weights, y_weights)
    how = Reduction.of(op, c, point_reduction, batch_reduction, weights, cloud_weights)

    def one_way(name: str, idx: Tensor | None, c: _checks.Clouds) -> Tensor | None:
        if idx is None:
            return None
        name, shape = f"idx.{name}", tuple(c.x.shape[:2])
        idx = _checks.in_shape(op, name, idx, shape, c.x, c.single, integer=True).long()
        idx = idx if c.x_order is None else c.x_order.apply(idx)
        beyond = idx >= c.y.shape[1]
        idx = torch.where(beyond, -1, idx)
        idx = idx if c.y_order is None else c.y_order.find(idx)
        cosine = cosines(c.x, c.y, idx)
        term = 1 - (cosine.abs() if absolute else cosine)
        term = torch.where(idx >= 0, term, 1.0 if absolute else 2.0)
        term = torch.where(beyond, torch.nan, term)
        count = _reduce.counts(c.x, c.x_lengths).unsqueeze(1)
        term = torch.where(torch.arange(shape[1], device=idx.device) < count, term, 0)
        return _reduce.settle(term, c)

    ways = one_way("x_to_y", idx.x_to_y, c), one_way("y_to_x", idx.y_to_x, c.swapped())
    if ways == (None, None):
        raise ValueError(f"{op}: idx must have at least one direction, got none")
    return how.apply(c, *ways, None)


def cosines(own: Tensor, other: Tensor, idx: Tensor) -> Tensor:
    """Cosine between own [B, N, D] and other[idx] for idx [B, N]; 0 where that is -1."""
    found = (idx >= 0).unsqueeze(-1)
    # A spare row of zeros is the normal of the neighbour that is not there.
    padded = torch.nn.functional.pad(other, (0, 0, 0, 1))
    row = torch.where(found, idx.unsqueeze(-1), other.shape[1]).expand_as(own)
    # In float64, as the gradient of a normal that many points are nearest to is a long sum.
    neighbour = _unit(padded.double().gather(1, row))
    # Padding must not reach the gradient as 0 * NaN.
    return (_unit(torch.where(found, own, 0)) * neighbour).sum(-1).to(own.dtype)


def _unit(vectors: Tensor) -> Tensor:
    """Vectors of length 1, however short or long they were; 0 stays, with derivative 0."""
    # Squares of the components as given would underflow or overflow.
    largest = vectors.detach().abs().amax(-1, keepdim=True)
    zero = largest == 0
    scaled = torch.where(zero, 1, vectors) / torch.where(zero, 1, largest)
    return torch.where(zero, 0, torch.nn.functional.normalize(scaled, dim=-1))
