# SPDX-License-Identifier: MIT
"""Rotated points, and the rotation nearest to a matrix: no LAPACK, no wait for the GPU."""

from __future__ import annotations

import torch
from torch import Tensor

_SWEEPS = 5  # four reach the rounding of float64, also if singular values tie


def rotate(points: Tensor, matrix: Tensor) -> Tensor:
    """R p for points [..., N, 3] and R [..., 3, 3]."""
    # A sum, not a matmul, which autocast and TF32 would round to half the digits.
    return (points.unsqueeze(-2) * matrix.unsqueeze(-3)).sum(-1)


def nearest_rotation(matrices: Tensor, tolerance: float, reflection: bool) -> Tensor:
    """The rotation R that maximises tr(R^T H), for matrices H [B, 3, 3] in float64.

    If H = U S V^T with det U = det V = 1 and S = diag(s1, s2, s3), s1 >= s2 >= |s3|, then
    R = U V^T. Its differential is R W, with the antisymmetric W that solves

        W P + P W = R^T dH - dH^T R,    P = R^T H = V S V^T.

    In the axes of V that divides by s_i + s_j: ties of singular values are harmless, and only a sum
    of 0, about whose axis any rotation is as good, has no derivative. There it is taken to be 0.

    The equation is used as Newton's step from the R that was found without a gradient: one step
    has R's first derivative, two also its second, and the values gain their last digits.

    Args:
        matrices: H; a matrix with NaN or inf gives NaN.
        tolerance: the sum s_i + s_j, as a share of s1, up to which it counts as 0.
        reflection: R may also have determinant -1, where that makes tr(R^T H) larger.
    """
    finite = matrices.isfinite().all(-1).all(-1)[:, None, None]
    h = torch.where(finite, matrices, 0)
    # A power of the size drops out of R; without it, sums of squares under- or overflow.
    size = h.detach().abs().amax((1, 2), keepdim=True)
    h = h / torch.where(size > 0, size, 1)
    u, s, v = _svd(h.detach())
    if reflection:
        sign = torch.where(s[:, 2] < 0, -1.0, 1.0).to(s.dtype)
        u = torch.cat([u[..., :2], u[..., 2:] * sign[:, None, None]], -1)
        s = torch.cat([s[:, :2], s[:, 2:] * sign[:, None]], -1)
    sums = s.unsqueeze(2) + s.unsqueeze(1)
    determined = sums > tolerance * s[:, :1, None]
    inverse = torch.where(determined, 1 / torch.where(determined, sums, 1), 0)
    rotation = u @ v.mT
    for _ in range(2):
        lack = rotation.mT @ h
        turn = v @ (inverse * (v.mT @ (lack - lack.mT) @ v)) @ v.mT
        rotation = rotation + rotation @ (turn + turn @ turn / 2)
    return torch.where(finite, rotation, torch.nan)


def _svd(h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U [B, 3, 3], s [B, 3], V of H = U diag(s) V^T; U and V are rotations, so s3 may be negative.

    By one-sided Jacobi rotations (Hestenes 1958), which turn pairs of H's columns until they are
    orthogonal. Where singular values vanish, U takes V's axes: R = U V^T is then the identity for
    H = 0.
    """
    # Each column of V hangs below its column of H, and turns with it.
    axes = torch.eye(3, dtype=h.dtype, device=h.device).expand_as(h)
    columns = list(torch.cat([h, axes], 1).unbind(-1))
    for _ in range(_SWEEPS):
        for p, q in ((0, 1), (0, 2), (1, 2)):
            a, b = columns[p], columns[q]
            cos, sin = _jacobi(a[:, :3], b[:, :3])
            columns[p], columns[q] = cos * a - sin * b, sin * a + cos * b
    g, v = torch.stack(columns, -1).split(3, 1)
    order = g.square().sum(1).argsort(dim=-1, descending=True, stable=True)
    order = order.unsqueeze(1).expand_as(h)
    g, v = g.gather(2, order), v.gather(2, order)
    v1, v2, _ = v.unbind(-1)
    v3 = torch.linalg.cross(v1, v2)  # the order may have made V a reflection
    g1, g2, _ = g.unbind(-1)
    tiny = torch.finfo(h.dtype).eps
    u1 = _axis(g1, v1, g1.abs().amax(-1, keepdim=True) > 0)
    rest = g2 - (g2 * u1).sum(-1, keepdim=True) * u1
    spare = _across(v2, v3, u1)
    u2 = _axis(rest, spare, _norm(rest) > 8 * tiny * _norm(g1))
    u3 = torch.linalg.cross(u1, u2)
    u, v = torch.stack([u1, u2, u3], -1), torch.stack([v1, v2, v3], -1)
    return u, (u * (h @ v)).sum(1), v


def _jacobi(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine [B, 1] of the turn that makes columns a and b [B, 3] orthogonal."""
    twice = 2 * torch.linalg.vecdot(a, b)
    ratio = torch.linalg.vecdot(b, b) - torch.linalg.vecdot(a, a)
    # The smaller root of tan^2 + 2 (ratio / twice) tan = 1, without a division by twice, which
    # is 0 for columns that are orthogonal already.
    down = ratio + torch.hypot(ratio, twice).copysign(ratio)
    tan = (twice / torch.where(down == 0, 1, down)).unsqueeze(-1)
    cos = (1 + tan * tan).rsqrt()
    return cos, cos * tan


def _axis(vector: Tensor, other: Tensor, usable: Tensor) -> Tensor:
    """Unit vectors along `vector` where that is usable, and along `other` elsewhere."""
    chosen = torch.where(usable, vector, other)
    return chosen / _norm(chosen)


def _across(a: Tensor, b: Tensor, axis: Tensor) -> Tensor:
    """Of a and b the one that points further away from the axis, without its part along it."""
    a = a - (a * axis).sum(-1, keepdim=True) * axis
    b = b - (b * axis).sum(-1, keepdim=True) * axis
    return torch.where(_norm(a) >= _norm(b), a, b)


def _norm(vectors: Tensor) -> Tensor:
    return vectors.square().sum(-1, keepdim=True).sqrt()
