# SPDX-License-Identifier: MIT
"""Divergence of where two sets of clouds have their points."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pointloss import _checks
from pointloss.ops.nearest import nearest
from pointloss.ops.pad import pad


def occupancy_jsd(
    a: Tensor | Sequence[Tensor],
    b: Tensor | Sequence[Tensor],
    *,
    a_lengths: Tensor | None = None,
    b_lengths: Tensor | None = None,
    resolution: int = 28,
) -> Tensor:
    """Jensen-Shannon divergence of the places of the points of two sets of clouds, in bits.

    All points of a set together are counted on a grid, each at its nearest node (Achlioptas,
    Diamanti, Mitliagkas and Guibas 2018, section 3; the grid as in the code of PointFlow, Yang et
    al. 2019): resolution^D nodes from -0.5 to 0.5 on each axis, without those outside the ball of
    radius 0.5. So the clouds must lie in that ball; a point outside counts at its nearest node,
    too.

    Args:
        a: S clouds [S, N, D], D <= 3, or a list of [N_i, D].
        b: T clouds [T, M, D], or a list, on a's device.
        a_lengths: int [S], the valid points of each cloud of a; not for a list.
        b_lengths: int [T], likewise for b.
        resolution: nodes on an axis, at least 2.

    Returns:
        A scalar, float64, 0 (the same places) to 1 (no place in common). A set without points is as
        far as can be from one with points: 1. NaN points and lengths out of range give NaN. Not
        differentiable.

    Raises:
        ValueError: shapes, devices or resolution do not fit.
        TypeError: dtypes do not fit.
        RuntimeError: CUDA tensors in a build without CUDA.

    Determinism: deterministic.

    Example:
        >>> a = torch.tensor([[[0.1, 0, 0], [0.3, 0, 0]]])
        >>> occupancy_jsd(a, a[:, :1]).item()
        0.31127812445913283
    """
    op = "occupancy_jsd"
    if resolution < 2:
        raise ValueError(f"{op}: resolution must be at least 2, got {resolution}")
    a, a_lengths = cloud_set(op, "a", a, a_lengths)
    b, b_lengths = cloud_set(op, "b", b, b_lengths)
    if a.shape[2] != b.shape[2] or a.shape[2] > 3:
        raise ValueError(
            f"{op}: a and b must have shapes [S, N, D] and [T, M, D] with D <= 3, "
            f"got {list(a.shape)} and {list(b.shape)}"
        )
    if a.device != b.device:
        raise ValueError(f"{op}: a and b must be on one device, got {a.device} and {b.device}")
    grid = _nodes(resolution, a.shape[2]).to(a)
    (p, p_total), (q, q_total) = (_shares(v, n, grid) for v, n in ((a, a_lengths), (b, b_lengths)))
    nats = torch.special.entr((p + q) / 2) - (torch.special.entr(p) + torch.special.entr(q)) / 2
    value = nats.sum() / math.log(2)
    return torch.where((p_total == 0) == (q_total == 0), value.clamp(0, 1), 1.0 + 0 * value)


def cloud_set(
    op: str, name: str, clouds: Tensor | Sequence[Tensor], lengths: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """A set of clouds as [S, N, D] with lengths, without gradient, from either form of it."""
    if isinstance(clouds, list | tuple) and all(isinstance(cloud, Tensor) for cloud in clouds):
        if lengths is not None:
            raise ValueError(f"{op}: {name}_lengths do not apply to a list of clouds")
        if len(clouds) == 0:
            raise ValueError(f"{op}: {name} must have at least one cloud, got an empty list")
        clouds, lengths = pad(clouds)
    _checks.tensor(op, name, clouds)
    assert isinstance(clouds, Tensor)  # for mypy
    if clouds.dim() != 3:
        raise ValueError(
            f"{op}: {name} must be clouds [S, N, D], or a list of [N, D], got {list(clouds.shape)}"
        )
    return clouds.detach(), _checks.lengths(op, f"{name}_lengths", lengths, clouds)


def _nodes(resolution: int, dim: int) -> Tensor:
    """The grid's nodes in the ball, [K, D]; which are in it is decided in whole numbers."""
    steps = 2 * torch.arange(resolution) - (resolution - 1)
    nodes = torch.cartesian_prod(*[steps] * dim).view(-1, dim)
    inside = nodes.square().sum(1) <= (resolution - 1) ** 2
    return nodes[inside].double() / (2 * (resolution - 1))


def _shares(clouds: Tensor, lengths: Tensor | None, grid: Tensor) -> tuple[Tensor, Tensor]:
    """The share of a set's points at each node, float64 [K], NaN if unknown, and their number."""
    target = grid.expand(len(clouds), -1, -1)
    found = nearest(clouds, target, x_lengths=lengths)
    count = torch.bincount(found.idx.flatten() + 1, minlength=len(grid) + 1)[1:]
    total = count.sum()
    share = count / total.clamp_min(1).double()
    return torch.where(found.dist.isfinite().all(), share, torch.nan), total
