# SPDX-License-Identifier: MIT
"""Every op in plain torch and scipy: slow, float64, obviously right. The judge of all tests.

Imported only by tests, benchmarks (which verify before they time) and the self-check of
`python -m pointloss`. All functions take batched clouds [B, N, D] and [B, M, D].
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment, linprog, minimize_scalar
from scipy.sparse import eye, kron, vstack
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


def k_nearest(
    x: Tensor,
    y: Tensor,
    k: int,
    x_lengths: Tensor | None = None,
    y_lengths: Tensor | None = None,
    norm: int = 2,
) -> Nearest:
    """The k nearest neighbours, [B, N, k], by sorting the rows of the full distance matrix."""
    batch, n, m = x.shape[0], x.shape[1], y.shape[1]
    dist = torch.zeros(batch, n, k, dtype=torch.float64)
    idx = torch.full((batch, n, k), -1)
    for b in range(batch):
        rows = n if x_lengths is None else int(x_lengths[b])
        columns = m if y_lengths is None else int(y_lengths[b])
        if not (0 <= rows <= n and 0 <= columns <= m):
            dist[b] = torch.nan
            continue
        d = pairwise(x[b, :rows].cpu(), y[b, :columns].cpu(), norm)
        d = torch.where(d.isnan(), torch.inf, d)
        values, order = d.sort(dim=1, stable=True)  # stable: equal distances by ascending index
        found = min(k, columns)
        dist[b, :rows] = torch.inf
        dist[b, :rows, :found] = values[:, :k]
        idx[b, :rows, :found] = torch.where(values.isinf(), -1, order)[:, :k]
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


def least_cost(cost: Tensor) -> Tensor:
    """Least mean cost [B] of a one-to-one matching by costs [B, N, M], inf if there is none."""
    costs = []
    for matrix in cost.detach().cpu().double().numpy():
        try:
            rows, columns = linear_sum_assignment(matrix)
        except ValueError:  # infeasible
            costs.append(np.inf)
        else:
            costs.append(float(np.mean(matrix[rows, columns])))
    return torch.tensor(costs, dtype=torch.float64)


def optimal_cost(x: Tensor, y: Tensor, squared: bool = False) -> Tensor:
    """Least mean distance of an injection of the smaller cloud into the larger, [B] in float64."""
    d = torch.stack([pairwise(a, b) for a, b in zip(x.cpu(), y.cpu(), strict=True)])
    return least_cost(d if squared else d.sqrt())


def transport(x: Tensor, y: Tensor, a: Tensor, b: Tensor, squared: bool = False) -> Tensor:
    """Least cost [B] of moving mass a [B, N] of x to b [B, M] of y, as a linear programme."""
    costs = []
    for p, q, u, v in zip(x.detach().cpu(), y.detach().cpu(), *_np(a, b), strict=True):
        d = _np(pairwise(p, q) if squared else pairwise(p, q).sqrt())[0]
        n, m = d.shape
        sums = vstack([kron(eye(n), np.ones((1, m))), kron(np.ones((1, n)), eye(m))])
        marginals = np.concatenate([u / u.sum(), v / v.sum()])
        # One sum follows from the others; rounding would make it contradict them.
        found = linprog(d.flatten(), A_eq=sums.tocsr()[:-1], b_eq=marginals[:-1], method="highs")
        costs.append(found.fun)
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


def _np(*tensors: Tensor) -> list[np.ndarray]:
    return [t.detach().cpu().double().numpy() for t in tensors]


def procrustes(
    x: Tensor, y: Tensor, weights: Tensor | None = None, scale: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Scale [B], rotation [B, 3, 3], translation [B, 3] of x onto y, by LAPACK's SVD (Umeyama)."""
    fits = []
    for b in range(x.shape[0]):
        p, q = _np(x[b], y[b])
        w = np.ones(len(p)) if weights is None else _np(weights[b])[0]
        w = (w / w.sum())[:, None]
        centre, goal = (w * p).sum(0), (w * q).sum(0)
        u, s, vh = np.linalg.svd((w * (q - goal)).T @ (p - centre))
        sign = np.array([1, 1, np.sign(np.linalg.det(u @ vh))])
        rotation = u @ np.diag(sign) @ vh
        size = (s * sign).sum() / (w * (p - centre) ** 2).sum() if scale else 1.0
        fits.append((np.array(size), rotation, goal - size * rotation @ centre))
    return tuple(torch.from_numpy(np.stack(part)) for part in zip(*fits, strict=True))  # type: ignore[return-value]


def mpjpe(x: Tensor, y: Tensor) -> Tensor:
    """Mean distance of partners, [B]."""
    p, q = _np(x, y)
    return torch.from_numpy(np.linalg.norm(p - q, axis=-1).mean(-1))


def depth_to_points(depth: Tensor, intrinsics: Tensor) -> Tensor:
    """[B, H, W, 3] of depth [B, H, W] and intrinsics [B, 3, 3], by the inverse matrix."""
    d, k = _np(depth, intrinsics)
    _, height, width = d.shape
    u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    rays = np.einsum("bij,hwj->bhwi", np.linalg.inv(k), np.stack([u, v, np.ones_like(u)], -1))
    return torch.from_numpy(d[..., None] * rays)


def depth_to_normals(depth: Tensor, intrinsics: Tensor) -> Tensor:
    """Unit normals [B, H, W, 3], towards the camera, of depth > 0 everywhere, pixel by pixel."""
    points = depth_to_points(depth, intrinsics).numpy()
    normals = np.zeros_like(points)
    batch, height, width = points.shape[:3]
    for b, r, c in np.ndindex(batch, height, width):
        right, left = points[b, r, min(c + 1, width - 1)], points[b, r, max(c - 1, 0)]
        below, above = points[b, min(r + 1, height - 1), c], points[b, max(r - 1, 0), c]
        normal = np.cross(below - above, right - left)
        normals[b, r, c] = normal / np.linalg.norm(normal)
    return torch.from_numpy(normals)


def mutual_nearest(x: Tensor, y: Tensor) -> Tensor:
    """Index [B, N] of each point's partner, or -1."""
    rows = []
    for a, b in zip(x, y, strict=True):
        d = pairwise(a.cpu(), b.cpu())
        there, back = d.argmin(1), d.argmin(0)
        rows.append([int(j) if back[j] == i else -1 for i, j in enumerate(there)])
    return torch.tensor(rows)


def voxelize(points: Tensor, resolution: int, low: float = -0.5, high: float = 0.5) -> Tensor:
    """Points per voxel [B, R, R, R], by numpy's histogram."""
    bins = [np.linspace(low, high, resolution + 1)] * 3
    grids = [np.histogramdd(p, bins)[0] for p in _np(points)[0]]
    return torch.from_numpy(np.stack(grids)).long()


def rerender(
    depth: Tensor, texture: Tensor, intrinsics: Tensor, extrinsics: Tensor, softness: float
) -> tuple[Tensor, Tensor]:
    """Image [C, H, W] and depth [H, W] of one map seen anew, sample by sample, one per pixel."""
    points = depth_to_points(depth[None], intrinsics[None])[0].numpy().reshape(-1, 3)
    colours, k, pose = _np(texture, intrinsics, extrinsics)
    colours = colours.reshape(len(colours), -1).T
    height, width = depth.shape
    image, found = np.zeros((len(colours.T), height, width)), np.zeros((height, width))
    moved = points @ pose[:, :3].T + pose[:, 3]
    pixels = moved @ k.T
    for r, c in np.ndindex(height, width):
        samples = []
        for (x, y, z), colour in zip(pixels, colours, strict=True):
            share = max(1 - abs(x / z - c - 0.5), 0) * max(1 - abs(y / z - r - 0.5), 0)
            if share > 0:
                samples.append((share * z ** (-1 / softness), z, colour))
        total = sum(s[0] for s in samples)
        if total > 0:
            image[:, r, c] = sum(s[0] * s[2] for s in samples) / total
            found[r, c] = sum(s[0] * s[1] for s in samples) / total
    return torch.from_numpy(image), torch.from_numpy(found)


def pointmap_loss(x: Tensor, y: Tensor, c: Tensor, mask: Tensor, alpha: float = 0.2) -> Tensor:
    """DUSt3R's confidence loss [B] of pointmaps [B, V, H, W, 3], view by view."""
    losses = []
    for b in range(x.shape[0]):
        p, q, logit = _np(x[b], y[b], c[b])
        valid = mask[b].cpu().numpy()
        p /= np.linalg.norm(p[valid], axis=-1).mean()
        q /= np.linalg.norm(q[valid], axis=-1).mean()
        confidence = 1 + np.exp(logit)
        terms = confidence * np.linalg.norm(p - q, axis=-1) - alpha * np.log(confidence)
        losses.append(sum(t[v].mean() for t, v in zip(terms, valid, strict=True)))
    return torch.tensor(losses, dtype=torch.float64)


def smoothness(values: Tensor) -> Tensor:
    """Mean size of the second differences, [B], of maps [B, H, W]."""
    v = _np(values)[0]
    down, across = np.diff(v, axis=1), np.diff(v, axis=2)
    seconds = (np.diff(across, axis=2), np.diff(across, axis=1), np.diff(down, axis=2),
               np.diff(down, axis=1))  # fmt: skip
    return torch.from_numpy(np.sum([np.abs(s).mean((1, 2)) for s in seconds], 0))


def scale_invariant_depth_error(d: Tensor, t: Tensor, mask: Tensor) -> Tensor:
    """Standard deviation [B] of the difference of logarithms."""
    return torch.stack([(a.double().log() - b.double().log())[m].std(correction=0).cpu()
                        for a, b, m in zip(d, t, mask, strict=True)])  # fmt: skip


def mean_angle_deviation(a: Tensor, b: Tensor) -> Tensor:
    """Mean angle [B] in degrees of normal maps [B, H, W, 3], by Kahan's half-angle formula."""
    p, q = (v / np.linalg.norm(v, axis=-1, keepdims=True) for v in _np(a, b))
    half = np.arctan2(np.linalg.norm(p - q, axis=-1), np.linalg.norm(p + q, axis=-1))
    return torch.from_numpy(np.rad2deg(2 * half).mean((1, 2)))


def optimal_scale(x: Tensor, y: Tensor, power: int) -> Tensor:
    """The factor [B] that minimises sum |s x - y|^power, by a search."""
    scales = []
    for p, q in zip(*_np(x, y), strict=True):
        scales.append(
            minimize_scalar(
                lambda s, p=p, q=q: (np.linalg.norm(s * p - q, axis=-1) ** power).sum(), tol=1e-12
            ).x
        )
    return torch.tensor(scales, dtype=torch.float64)


def voxel_iou(p: Tensor, t: Tensor, threshold: float) -> Tensor:
    """Intersection over union [B] of sets of voxels."""
    scores = []
    for a, b in zip(p.cpu() > threshold, t.cpu(), strict=True):
        cut, true = ({tuple(v) for v in grid.nonzero().tolist()} for grid in (a, b))
        scores.append(len(cut & true) / len(cut | true) if cut | true else 1.0)
    return torch.tensor(scores, dtype=torch.float64)


def pointmap_error(x: Tensor, y: Tensor) -> Tensor:
    """Scale- and shift-invariant error [B] of pointmaps [B, ..., 3] without a mask."""

    def settled(points: np.ndarray) -> np.ndarray:
        points = points.reshape(-1, 3)
        middle = np.sort(points, axis=0)[(len(points) - 1) // 2]
        sizes = np.sort(np.linalg.norm(points - middle, axis=1))
        rest: np.ndarray = (points - [0, 0, middle[2]]) / sizes[(len(points) - 1) // 2]
        return rest

    pairs = zip(*_np(x, y), strict=True)
    errors = [np.linalg.norm(settled(p) - settled(q), axis=1).mean() for p, q in pairs]
    return torch.tensor(errors, dtype=torch.float64)


def kl_standard_normal(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL divergence [B], by torch.distributions."""
    normal = torch.distributions.Normal(mu.double(), torch.exp(logvar.double() / 2))
    standard = torch.distributions.Normal(torch.zeros_like(normal.loc), 1.0)
    return torch.distributions.kl_divergence(normal, standard).sum(-1)
