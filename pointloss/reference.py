# SPDX-License-Identifier: MIT
"""Every op in plain torch and scipy: slow, float64, obviously right. The judge of all tests.

Imported only by tests, benchmarks (which verify before they time) and the self-check of
`python -m pointloss`. All functions take batched clouds [B, N, D] and [B, M, D].
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from pointloss.ops.nearest import Nearest


def pairwise(x: Tensor, y: Tensor, norm: int = 2) -> Tensor:
    """All distances [N, M] between two clouds in float64; squared for norm 2, plain for norm 1."""
    diff = x.double().unsqueeze(1) - y.double().unsqueeze(0)
    return diff.square().sum(-1) if norm == 2 else diff.abs().sum(-1)


def nearest(
    x: Tensor,
    y: Tensor,
    x_lengths: Tensor | None = None,
    y_lengths: Tensor | None = None,
    norm: int = 2,
) -> Nearest:
    """Nearest neighbours by the full distance matrix; `pointloss.nearest` tells the conventions."""
    batch, n, m = x.shape[0], x.shape[1], y.shape[1]
    dist = torch.zeros(batch, n, dtype=torch.float64)
    idx = torch.full((batch, n), -1)
    for b in range(batch):
        rows = n if x_lengths is None else int(x_lengths[b])
        columns = m if y_lengths is None else int(y_lengths[b])
        if not (0 <= rows <= n and 0 <= columns <= m):
            dist[b] = torch.nan
            continue
        if columns > 0:
            d = pairwise(x[b, :rows].cpu(), y[b, :columns].cpu(), norm)
            best, j = torch.where(d.isnan(), torch.inf, d).min(1)
            dist[b, :rows] = best
            idx[b, :rows] = torch.where(best.isinf(), -1, j)
        else:
            dist[b, :rows] = torch.inf
        bad = x[b, :rows].isnan().any(-1).cpu()
        dist[b, :rows][bad] = torch.nan
        idx[b, :rows][bad] = -1
    return Nearest(dist, idx)


def chamfer(x: Tensor, y: Tensor, norm: int = 2, squared: bool = True) -> Tensor:
    """Mean over the points, both directions added, [B] in float64; without lengths."""
    total = []
    for a, b in zip(x, y, strict=True):
        d = pairwise(a, b, norm)
        d = d if squared or norm == 1 else d.sqrt()
        total.append(d.amin(1).mean() + d.amin(0).mean())
    return torch.stack(total)


def density_aware_chamfer(
    x: Tensor,
    y: Tensor,
    alpha: float = 1000,
    n_lambda: float = 1,
    size_factor: str = "none",
    squared: bool = True,
) -> Tensor:
    """Equation 5 of its paper with the options of the published code, [B] in float64."""
    total = []
    for a, b in zip(x, y, strict=True):
        d = pairwise(a, b) if squared else pairwise(a, b).sqrt()
        both = []
        for matrix in (d, d.T):
            n, m = matrix.shape
            factor = {"none": 1, "ratio": n / m, "ratio_at_least_1": max(1, n / m)}[size_factor]
            best, j = matrix.min(1)
            counts = torch.bincount(j, minlength=m)[j].double()
            both.append((1 - factor * (-alpha * best).exp() / counts**n_lambda).mean())
        total.append((both[0] + both[1]) / 2)
    return torch.stack(total)


def optimal_cost(x: Tensor, y: Tensor, squared: bool = False) -> Tensor:
    """Least mean distance of an injection of the smaller cloud into the larger, [B] in float64."""
    costs = []
    for a, b in zip(x.detach().cpu(), y.detach().cpu(), strict=True):
        d = pairwise(a, b)
        matrix = (d if squared else d.sqrt()).numpy()
        rows, columns = linear_sum_assignment(matrix)
        costs.append(float(np.mean(matrix[rows, columns])))
    return torch.tensor(costs, dtype=torch.float64)


def matching_cost(x: Tensor, y: Tensor, idx: Tensor, squared: bool = False) -> Tensor:
    """Mean distance [B] in float64 of the pairs that idx [B, N] names (-1: no pair).

    Raises:
        ValueError: idx is not an injection that matches every point of the smaller cloud.
    """
    costs = []
    for a, b, i in zip(x.cpu(), y.cpu(), idx.cpu(), strict=True):
        rows = (i >= 0).nonzero().squeeze(1)
        partners = i[rows]
        if partners.unique().numel() != partners.numel() or (partners >= b.shape[0]).any():
            raise ValueError("matching_cost: idx is not an injection")
        if rows.numel() != min(a.shape[0], b.shape[0]):
            raise ValueError("matching_cost: a point of the smaller cloud has no partner")
        d = (a[rows].double() - b[partners].double()).square().sum(-1)
        costs.append((d if squared else d.sqrt()).mean())
    return torch.stack(costs)


def f_score(x: Tensor, y: Tensor, radius: float) -> Tensor:
    """F-score [B] at one radius, in float64; without lengths."""
    scores = []
    for a, b in zip(x, y, strict=True):
        near = pairwise(a, b).sqrt() < radius
        precision, recall = near.any(1).double().mean(), near.any(0).double().mean()
        both = precision + recall
        scores.append(2 * precision * recall / both if both > 0 else both)
    return torch.stack(scores)
