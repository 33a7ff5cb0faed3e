# SPDX-License-Identifier: MIT
"""pytorch3d.loss.chamfer_distance, pytorch3d.ops.knn_points and knn_gather."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pointloss import _checks
from pointloss._reduce import PointDistances
from pointloss.losses.normal_loss import normal_loss
from pointloss.ops import _function
from pointloss.ops.chamfer import chamfer
from pointloss.ops.nearest import MAX_NEIGHBOURS, nearest


def chamfer_distance(
    x: Any,
    y: Any,
    x_lengths: Tensor | None = None,
    y_lengths: Tensor | None = None,
    x_normals: Tensor | None = None,
    y_normals: Tensor | None = None,
    weights: Tensor | None = None,
    batch_reduction: str | None = "mean",
    point_reduction: str | None = "mean",
    norm: int = 2,
    single_directional: bool = False,
    abs_cosine: bool = True,
) -> tuple[Any, Any]:
    """pytorch3d.loss.chamfer_distance: squared distances and normals, with its reductions.

    What differs: a point with an empty target is at distance inf (there 0), with normals as far
    apart as can be; give such a pair of clouds the weight 0 to leave it out (NaN stays NaN). For
    norm 1 the gradient at equal coordinates is 0 (there -1 and 1). float16, bfloat16 and float64
    work, and the gradient of float64 keeps its digits. Nothing waits for the GPU: a negative weight
    raises on the CPU and gives NaN on CUDA, and a length that is too large gives NaN. With "max"
    normals are reduced like distances, and points that tie for the maximum share the gradient.

    Args:
        x: points [N, P1, D], or an object with points_padded(), num_points_per_cloud() and
            normals_padded(), such as pytorch3d's Pointclouds, which brings its own lengths and
            normals.
        y: points [N, P2, D], or such an object.
        x_lengths: int [N], the valid points of each cloud of x.
        y_lengths: int [N], likewise for y.
        x_normals: [N, P1, D].
        y_normals: [N, P2, D].
        weights: [N], >= 0, of the pairs of clouds: a mean over the batch becomes
            sum(w v) / sum(w), all else is multiplied.
        batch_reduction: "mean", "sum" or None.
        point_reduction: "mean", "sum", "max" (the Hausdorff distance), or None, which needs
            batch_reduction None.
        norm: 2 (squared) or 1.
        single_directional: of x to y only.
        abs_cosine: take the absolute value of the normals' cosine.

    Returns:
        (loss, loss_normals), the latter None unless both clouds have normals. Scalars; [N] for
        batch_reduction None; for point_reduction None tuples of [N, P1] and [N, P2], or [N, P1]
        alone if single_directional.

    Raises:
        ValueError: shapes, devices or options do not fit; on the CPU also a negative weight.
        TypeError: dtypes do not fit.
    """
    op = "chamfer_distance"
    _checks.choice(op, "batch_reduction", batch_reduction, ("mean", "sum", None))
    _checks.choice(op, "point_reduction", point_reduction, ("mean", "sum", "max", None))
    if point_reduction is None and batch_reduction is not None:
        raise ValueError(f"{op}: point_reduction None needs batch_reduction None")
    x, x_lengths, x_normals = _cloud("x", x, x_lengths, x_normals)
    y, y_lengths, y_normals = _cloud("y", y, y_lengths, y_normals)
    _checks.pair(op, x=x, y=y)
    if weights is not None:
        weights = _not_negative(_checks.in_shape(op, "weights", weights, x.shape[:1], x, False))
    shared: dict[str, Any] = {
        "x_lengths": x_lengths,
        "y_lengths": y_lengths,
        "cloud_weights": weights if batch_reduction is not None else None,
        "point_reduction": point_reduction or "none",
        "batch_reduction": batch_reduction or "none",
    }
    direction = "x_to_y" if single_directional else "both"
    loss, idx = chamfer(x, y, norm=norm, direction=direction, return_idx=True, **shared)
    loss_normals = None
    if x_normals is not None and y_normals is not None:
        loss_normals = normal_loss(x_normals, y_normals, idx, absolute=abs_cosine, **shared)
    left = weights if batch_reduction is None else None
    return _as_theirs(loss, left), _as_theirs(loss_normals, left)


def _cloud(
    name: str, points: Any, lengths: Tensor | None, normals: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Points, lengths and normals of a tensor or of an object that has them all."""
    if hasattr(points, "points_padded"):
        return points.points_padded(), points.num_points_per_cloud(), points.normals_padded()
    _padded("chamfer_distance", name, points)
    return points, lengths, normals


def _padded(op: str, name: str, points: Any) -> None:
    _checks.tensor(op, name, points)
    if points.dim() != 3:
        raise ValueError(f"{op}: {name} must have shape [N, P, D], got {list(points.shape)}")


def _not_negative(weights: Tensor) -> Tensor:
    if weights.device.type == "cpu" and _function.is_eager() and (weights < 0).any():
        raise ValueError("chamfer_distance: weights must not be negative")
    return torch.where(weights < 0, torch.nan, weights)


def _as_theirs(value: Any, weights: Tensor | None) -> Any:
    """Values of each cloud or point times the clouds' weights, if those are still to be applied."""
    if isinstance(value, PointDistances):
        parts = tuple(_as_theirs(part, weights) for part in value if part is not None)
        return parts[0] if len(parts) == 1 else parts
    if value is None or weights is None:
        return value
    weights = weights.to(value.dtype).view(-1, *[1] * (value.dim() - 1))
    # Weight 0 leaves out a cloud at distance inf, too; NaN stays, as in a mean over the batch.
    return weights * torch.where((weights == 0) & (value == torch.inf), 0, value)


class KNN(NamedTuple):
    """What knn_points returns."""

    dists: Tensor  # [N, P1, K]
    idx: Tensor  # int64 [N, P1, K]
    knn: Tensor | None  # [N, P1, K, D]


def knn_points(
    p1: Tensor,
    p2: Tensor,
    lengths1: Tensor | None = None,
    lengths2: Tensor | None = None,
    norm: int = 2,
    K: int = 1,
    version: int = -1,
    return_nn: bool = False,
    return_sorted: bool = True,
) -> KNN:
    """pytorch3d.ops.knn_points: for each point of p1 its K nearest points of p2, nearest first.

    What differs: ties take the lowest index; the gradient of norm 1 at equal coordinates is 0; K is
    at most 64. A NaN point of p2 is nobody's neighbour: the places that it leaves free have the
    distance inf and the index 0. One of p1 has the distance NaN.

    Args:
        p1: points [N, P1, D].
        p2: points [N, P2, D].
        lengths1: int [N], the valid points of each cloud of p1.
        lengths2: int [N], likewise for p2.
        norm: 2 (squared) or 1.
        K: how many neighbours, 1 to 64.
        version: taken and not needed.
        return_nn: return the neighbours' points, too.
        return_sorted: taken and not needed; they are sorted.

    Returns:
        KNN(dists [N, P1, K], idx int64 [N, P1, K], knn [N, P1, K, D] or None). As in pytorch3d they
        are 0 past the end of a cloud, also where p2 has no K points, an empty p2 included: a 0 in
        dists may be padding. dists is differentiable.

    Raises:
        ValueError: shapes, devices or options do not fit.
        TypeError: dtypes do not fit.
    """
    if not isinstance(K, int) or not 1 <= K <= MAX_NEIGHBOURS:
        raise ValueError(f"knn_points: K must be from 1 to {MAX_NEIGHBOURS}, got {K}")
    for name, points in (("p1", p1), ("p2", p2)):
        _padded("knn_points", name, points)
    _checks.pair("knn_points", p1=p1, p2=p2)
    dists, idx = nearest(p1, p2, x_lengths=lengths1, y_lengths=lengths2, norm=norm, k=K)
    row = torch.arange(p1.shape[1], device=p1.device).view(1, -1, 1)
    place = torch.arange(K, device=p1.device)
    rows, places = (
        points.shape[1] if lengths is None else lengths.view(-1, 1, 1)
        for points, lengths in ((p1, lengths1), (p2, lengths2))
    )
    padding = (row >= rows) | (place >= places)
    dists = torch.where(padding & ~dists.isnan(), 0, dists)
    idx = idx.clamp_min(0)
    return KNN(dists, idx, knn_gather(p2, idx, lengths2) if return_nn else None)


def knn_gather(x: Tensor, idx: Tensor, lengths: Tensor | None = None) -> Tensor:
    """pytorch3d.ops.knn_gather: the rows of x that idx of knn_points names.

    Args:
        x: values of points, [N, M, U].
        idx: int [N, L, K] into x.
        lengths: int [N], the valid points of each cloud of x; None is all M.

    Returns:
        [N, L, K, U]; 0 for the neighbours k that a cloud of fewer than k + 1 points lacks.
        Differentiable in x.

    Raises:
        ValueError: shapes do not fit.
    """
    if x.dim() != 3 or idx.dim() != 3 or len(x) != len(idx):
        raise ValueError(
            "knn_gather: x and idx must have shapes [N, M, U] and [N, L, K], "
            f"got {list(x.shape)} and {list(idx.shape)}"
        )
    (batch, points, size), (_, rows, k) = x.shape, idx.shape
    if points == 0:
        return x.new_zeros(batch, rows, k, size)
    found = x.gather(1, idx.flatten(1).unsqueeze(-1).expand(-1, -1, size))
    count = x.new_full((batch,), points) if lengths is None else lengths
    inside = torch.arange(k, device=x.device) < count.unsqueeze(1)
    return torch.where(inside[:, None, :, None], found.view(batch, rows, k, size), 0)
