# SPDX-License-Identifier: MIT
"""Iterative closest point."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pointloss import _checks
from pointloss.geometry.procrustes import Similarity, _fit
from pointloss.ops._function import is_eager
from pointloss.ops.nearest import nearest_batched


class Registration(NamedTuple):
    """What `icp` found for each pair of clouds."""

    motion: Similarity
    distance: Tensor
    rounds: Tensor
    converged: Tensor


Registration.motion.__doc__ = "Brings x onto y; motion.inverse().apply(y) brings y onto x."
Registration.distance.__doc__ = "[B], mean plain distance of x to y, in the last round's search."
Registration.rounds.__doc__ = "int64 [B], how many fits were made."
Registration.converged.__doc__ = "bool [B], whether the stopping rule was met."


def icp(
    x: Tensor,
    y: Tensor,
    *,
    x_lengths: Tensor | None = None,
    y_lengths: Tensor | None = None,
    x_mask: Tensor | None = None,
    y_mask: Tensor | None = None,
    scale: bool = False,
    max_rounds: int = 50,
    tolerance: float = 1e-5,
    initial: Similarity | None = None,
) -> Registration:
    """Iterative closest point: the rigid motion of x onto y, from where x lies (Besl, McKay 1992).

    A round finds each moved point's nearest in y and fits x to those (`procrustes`). A pair of
    clouds is done when its mean distance changes by less than the tolerance from one search to the
    next, or is 0; it keeps its motion while others go on. The result is a local optimum.

    Args:
        x: points [B, N, 3] or [N, 3] that move.
        y: points [B, M, 3] or [M, 3] that stay, on x's device; dtypes as for `nearest`.
        x_lengths: int [B], the valid points of each x; the rest is padding.
        y_lengths: int [B], likewise for y.
        x_mask: bool [B, N], the points of x that count, in place of x_lengths; the others may hold
            anything, NaN too.
        y_mask: bool [B, M], likewise for y.
        scale: fit a scale too. Mind that a small x costs little where y is dense.
        max_rounds: most fits of a cloud.
        tolerance: of the stopping rule, in the unit of the coordinates.
        initial: a motion to start from, such as another method's; else the identity.

    Returns:
        Registration(motion, distance [B], rounds [B], converged [B]), without batch axis for single
        clouds. The motion is differentiable in x and y with the last matching held fixed, as
        `procrustes`; the rest is not, and neither is `initial`. Beside an empty cloud x keeps the
        initial motion, at distance inf; with a NaN point or a length out of range the distance is
        NaN. Neither counts as converged. Fits are made in float64, so that they do not hang on
        rounding.

    Raises:
        ValueError: shapes, devices or options do not fit.
        TypeError: dtypes do not fit.
        RuntimeError: CUDA tensors in a build without CUDA.

    Determinism: deterministic values; gradients as those of `nearest`. Nothing waits for the GPU:
    there all max_rounds searches are made, also when every cloud is done. On the CPU, outside of
    torch.compile and torch.func, the last cloud that is done ends them. torch.compile unrolls the
    rounds, so keep max_rounds small there.

    Example:
        >>> x = torch.tensor([[0.0, 0, 0], [3, 0, 0], [0, 2, 0], [0, 0, 1]])
        >>> icp(x, x + 0.25).motion.translation.round(decimals=4).tolist()
        [0.25, 0.25, 0.25]
    """
    c = _checks.clouds("icp", x, y, x_lengths, y_lengths, x_mask, y_mask)
    if c.x.shape[2] != 3:
        raise ValueError(f"icp: x must have shape [B, N, 3] or [N, 3], got {list(x.shape)}")
    if max_rounds < 0:
        raise ValueError(f"icp: max_rounds must be at least 0, got {max_rounds}")
    batch, n = c.x.shape[:2]
    exact = _checks.Clouds(c.x.double(), c.y.double(), c.x_lengths, c.y_lengths, c.single)
    start = _start(initial, exact)
    motion = start
    idx = torch.full((batch, n), -1, device=c.x.device)
    distance = exact.x.new_full((batch,), torch.inf)
    rounds = torch.zeros(batch, dtype=torch.int64, device=c.x.device)
    done = torch.zeros(batch, dtype=torch.bool, device=c.x.device)
    may_look = c.x.device.type == "cpu" and is_eager()
    with torch.no_grad():
        for _ in range(max_rounds):
            moved = motion.apply(exact.x).to(c.x.dtype)
            dist, found, _, _ = nearest_batched(c._replace(x=moved), 2, both=False)
            matched = found >= 0
            count = matched.sum(1)
            # A NaN point makes the distance NaN, without a round more.
            far = torch.where(matched | dist.isnan(), dist, 0).double().sqrt().sum(1)
            now = torch.where((count == 0) & ~far.isnan(), torch.inf, far / count.clamp_min(1))
            going = ~done & ((distance - now).abs() >= tolerance) & (now > 0) & (count > 0)
            distance = torch.where(done, distance, now)
            done = ~going
            if may_look and bool(done.all()):
                break
            idx = torch.where(going.unsqueeze(1), found, idx)
            fit = _matched_fit(exact, found, scale)
            motion = _choose(going, fit, motion)
            rounds = rounds + going
    motion = _choose(rounds > 0, _matched_fit(exact, idx, scale), start)
    motion = Similarity(*(part.to(c.x.dtype) for part in motion))
    converged = done & distance.isfinite()
    distance = distance.to(c.x.dtype)
    if not c.single:
        return Registration(motion, distance, rounds, converged)
    motion = Similarity(*(part[0] for part in motion))
    return Registration(motion, distance[0], rounds[0], converged[0])


def _start(initial: Similarity | None, c: _checks.Clouds) -> Similarity:
    """The initial motion in float64, [B] each."""
    batch = c.x.shape[0]
    if initial is None:
        eye = torch.eye(3, dtype=torch.float64, device=c.x.device).expand(batch, 3, 3)
        return Similarity(c.x.new_ones(batch), eye, c.x.new_zeros(batch, 3))
    shapes = ((batch,), (batch, 3, 3), (batch, 3))
    parts = [
        _checks.in_shape("icp", f"initial.{name}", part, shape, c.x, c.single)
        for name, part, shape in zip(Similarity._fields, initial, shapes, strict=True)
    ]
    return Similarity(*(part.detach().double() for part in parts))


def _matched_fit(c: _checks.Clouds, idx: Tensor, scale: bool) -> Similarity:
    """The fit of x to y[idx], without the points whose idx is -1."""
    valid = idx >= 0
    if c.y.shape[1] == 0:
        partners = torch.zeros_like(c.x)
    else:
        partners = c.y.gather(1, idx.clamp_min(0).unsqueeze(-1).expand_as(c.x))
    return _fit(c.x, partners, valid.to(c.x.dtype), valid, scale, False)


def _choose(condition: Tensor, a: Similarity, b: Similarity) -> Similarity:
    """A for the samples where the condition [B] holds, b for the others."""
    sizes = (condition, condition[:, None, None], condition[:, None])
    return Similarity(*(torch.where(c, p, q) for c, p, q in zip(sizes, a, b, strict=True)))
