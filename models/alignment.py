# SPDX-License-Identifier: MIT
"""Global alignment: pairwise pointmaps of many views brought into one frame.

Wang et al., "DUSt3R" (CVPR 2024), section 3.4, equation 5. An edge e = (n, m) is a pair of views
with a pointmap X of each in the frame of camera n. Sought are a pointmap Y of each view in one
frame and of each edge a rotation R, a translation t and a scale s,

    minimise  sum over e, over its views, over pixels i  of  C_i |Y_i - s R X_i - t|,

with s of product 1, by gradient descent on all of them. It starts, as the paper's does, from a
spanning tree of the edges that are trusted most, which is closed-form.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pointloss import Similarity, procrustes

STEPS, RATE = 300, 0.01  # of Adam, as in the paper; points have a mean size of 1 here


class Edges(NamedTuple):
    """Pairwise pointmaps. The pixels of a view have the same order in all of its edges."""

    views: Tensor  # [E, 2] int64, n and m
    points: Tensor  # [E, 2, N, 3] float, both in the frame of camera n, in any unit
    weights: Tensor  # [E, 2, N] float, C; 0 where a pixel sees nothing


class Alignment(NamedTuple):
    """The views in the frame of camera 0, in a unit of its own."""

    points: Tensor  # [V, N, 3], Y; of no meaning where the weight is 0 in every edge
    motion: Tensor  # [V, 3, 4], each camera's frame -> that of camera 0
    loss: Tensor  # [steps + 1], before each step and at the end: weighted mean of the distances


def align(edges: Edges, *, steps: int = STEPS, rate: float = RATE) -> Alignment:
    """The alignment of the views 0 to V - 1.

    With 0 steps it is the spanning tree alone. Deterministic.

    Raises:
        ValueError: the edges do not connect the views, or a view is the first of no edge, so that
            nothing tells where its camera is.
    """
    count = int(edges.views.max()) + 1
    if len(edges.views[:, 0].unique()) < count:
        raise ValueError(f"align: each of the {count} views must be the first of an edge")
    size = torch.linalg.vector_norm(edges.points, dim=-1, keepdim=True)
    weights = edges.weights[..., None]
    size = (size * weights).sum((1, 2), True) / weights.sum((1, 2), True)
    edges = edges._replace(points=edges.points / size)
    placed = _spanning_tree(edges, count)
    start = _fit(edges, placed)
    mean = start.scale.log().mean().exp()
    values = [placed / mean, start.translation / mean]
    values += [start.scale.log(), torch.zeros_like(start.translation)]
    free = [value.clone().requires_grad_() for value in values]

    def misfit() -> Tensor:
        return _misfit(edges, free[0], _similarity(start.rotation, *free[1:]))

    losses = _descend(misfit, free, steps, rate)
    with torch.no_grad():
        return _in_first_frame(edges, free[0], _similarity(start.rotation, *free[1:]), losses)


def _spanning_tree(edges: Edges, count: int) -> Tensor:
    """The points [V, N, 3] of every view, in the frame of the most trusted edge.

    Each further view is placed by the most trusted of the edges that join one to those placed.
    """
    trust, views = edges.weights.mean((1, 2)).tolist(), edges.views.tolist()
    order = sorted(range(len(views)), key=lambda edge: -trust[edge])
    placed = dict(zip(views[order[0]], edges.points[order[0]], strict=True))
    while len(placed) < count:
        leads = [e for e in order if (views[e][0] in placed) != (views[e][1] in placed)]
        if not leads:
            raise ValueError(f"align: the edges connect {len(placed)} of the {count} views")
        edge = leads[0]
        known = 0 if views[edge][0] in placed else 1
        fit = procrustes(
            edges.points[edge, known],
            placed[views[edge][known]],
            weights=edges.weights[edge, known],
        )
        placed[views[edge][1 - known]] = fit.apply(edges.points[edge, 1 - known])
    return torch.stack([placed[view] for view in range(count)])


def _fit(edges: Edges, placed: Tensor) -> Similarity:
    """Each edge's map onto the points of its two views."""
    wanted = placed[edges.views].flatten(1, 2)
    return procrustes(edges.points.flatten(1, 2), wanted, weights=edges.weights.flatten(1))


def _similarity(start: Tensor, translation: Tensor, log_scale: Tensor, bend: Tensor) -> Similarity:
    """Each edge's map: `start` [E, 3, 3] turned by `bend` [E, 3]; the scales' product is 1."""
    x, y, z = bend.unbind(-1)
    zero = torch.zeros_like(x)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
    scale = (log_scale - log_scale.mean()).exp()
    return Similarity(scale, torch.linalg.matrix_exp(skew) @ start, translation)


def _misfit(edges: Edges, placed: Tensor, fit: Similarity) -> Tensor:
    moved = fit.apply(edges.points.flatten(1, 2))
    off = torch.linalg.vector_norm(placed[edges.views].flatten(1, 2) - moved, dim=-1)
    misfit: Tensor = (edges.weights.flatten(1) * off).sum() / edges.weights.sum()
    return misfit


def _descend(misfit: Callable[[], Tensor], free: list[Tensor], steps: int, rate: float) -> Tensor:
    """Minimise by Adam, its rate falling along half a cosine; the misfit before and after."""
    losses = []
    optimiser = torch.optim.Adam(free, rate, betas=(0.9, 0.9))
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(steps, 1))
    for _ in range(steps):
        optimiser.zero_grad()
        loss = misfit()
        loss.backward()
        losses.append(loss.detach())
        optimiser.step()
        falling.step()
    return torch.stack([*losses, misfit().detach()])


def _in_first_frame(edges: Edges, placed: Tensor, fit: Similarity, losses: Tensor) -> Alignment:
    """A camera is where the maps of the edges take the frame that they begin with."""
    cameras = []
    for view in range(len(placed)):
        own = edges.views[:, 0] == view
        cameras.append(
            procrustes(
                (fit.scale[own, None, None] * edges.points[own, 0]).flatten(0, 1),
                placed[view].repeat(int(own.sum()), 1),
                weights=edges.weights[own, 0].flatten(),
                scale=False,
            )
        )
    first = cameras[0].inverse()
    motion = [
        torch.cat([first.rotation @ c.rotation, first.apply(c.translation[None]).mT], dim=1)
        for c in cameras
    ]
    return Alignment(first.apply(placed.flatten(0, 1)).view_as(placed), torch.stack(motion), losses)
