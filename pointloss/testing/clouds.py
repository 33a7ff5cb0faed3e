# SPDX-License-Identifier: MIT
"""Clouds that break implementations: each kind gives two clouds [B, N, 3] and [B, M, 3], float64.

A kind is called as kind(batch, n, m, generator); `make` seeds it and converts what it gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn.functional import normalize

Pair = tuple[Tensor, Tensor]
Kind = Callable[[int, int, int, Generator], Pair]


def surface(batch: int, n: int, m: int, generator: Generator) -> Pair:
    """Two independent samples of one bumpy ellipsoid."""

    def sample(k: int) -> Tensor:
        v = torch.randn(batch, k, 3, generator=generator, dtype=torch.float64)
        v = torch.nn.functional.normalize(v, dim=-1)
        bump = 1 + 0.2 * (5 * v[..., :1]).sin() * (4 * v[..., 1:2]).cos()
        return v * bump * torch.tensor([0.5, 0.35, 0.25], dtype=torch.float64)

    return sample(n), sample(m)


def noisy(batch: int, n: int, m: int, generator: Generator) -> Pair:
    """Two copies of one cloud, of which one has 2 % noise."""
    x, y = surface(batch, max(n, m), 1, generator)
    y = x + 0.02 * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    return x[:, :n], y[:, :m]


def blob(batch: int, n: int, m: int, generator: Generator) -> Pair:
    """One cluster against a surface, as at the start of a training."""
    x, y = surface(batch, n, m, generator)
    return 0.01 * x + 0.1, y


def uniform(batch: int, n: int, m: int, generator: Generator) -> Pair:
    """Two independent samples of the unit cube."""
    draw = torch.rand(batch, n + m, 3, generator=generator, dtype=torch.float64)
    return draw[:, :n], draw[:, n:]


def equal(batch: int, n: int, m: int, generator: Generator) -> Pair:
    """All points in one place."""
    x, y = (torch.full((batch, k, 3), 0.25, dtype=torch.float64) for k in (n, m))
    return x, y


def duplicates(batch: int, n: int, m: int, generator: Generator) -> Pair:
    """A few places, each many times."""
    places = torch.rand(batch, 4, 3, generator=generator, dtype=torch.float64)

    def draw(k: int) -> Tensor:
        which = torch.randint(4, (batch, k, 1), generator=generator)
        return places.gather(1, which.expand(-1, -1, 3))

    return draw(n), draw(m)


def line(batch: int, n: int, m: int, generator: Generator) -> Pair:
    """Two samples of a segment of the first axis."""
    x, y = uniform(batch, n, m, generator)
    return x * torch.tensor([1.0, 0, 0]), y * torch.tensor([1.0, 0, 0])


def ring(batch: int, n: int, m: int, generator: Generator) -> Pair:
    """Two evenly spaced rings, turned by half a step: every matching is nearly as good."""

    def circle(k: int, shift: float) -> Tensor:
        t = (torch.arange(k, dtype=torch.float64) + shift) * 2 * math.pi / max(k, 1)
        return torch.stack([t.cos(), t.sin(), 0 * t], -1).expand(batch, -1, -1)

    return circle(n, 0), circle(m, 0.5)


def lattice(batch: int, n: int, m: int, generator: Generator) -> Pair:
    """Integer coordinates: massive ties."""
    x, y = (torch.randint(3, (batch, k, 3), generator=generator).double() for k in (n, m))
    return x, y


def outlier(batch: int, n: int, m: int, generator: Generator) -> Pair:
    """Two samples of a surface; the first point of x lies at 1e6."""
    x, y = surface(batch, n, m, generator)
    x = x.clone()
    x[:, :1] = 1e6
    return x, y


def two_scales(batch: int, n: int, m: int, generator: Generator) -> Pair:
    """Half of each cloud in a hundredth of its size."""
    x, y = surface(batch, n, m, generator)
    for cloud in (x, y):
        cloud[:, ::2] = 0.01 * cloud[:, ::2] + 0.2
    return x, y


def far(batch: int, n: int, m: int, generator: Generator) -> Pair:
    """Spacing 1e-2 at offset 1e4: the expanded form x^2 - 2xy + y^2 loses every digit here."""
    x, y = uniform(batch, n, m, generator)
    return x + 1e4, y + 1e4


def clusters(batch: int, n: int, m: int, generator: Generator) -> Pair:
    """Twenty clusters, each a three hundredth of the whole."""
    x, y = surface(batch, n, m, generator)
    places = torch.rand(batch, 20, 3, generator=generator, dtype=torch.float64)

    def scatter(cloud: Tensor) -> Tensor:
        which = torch.randint(20, (batch, cloud.shape[1], 1), generator=generator)
        return 0.003 * cloud + places.gather(1, which.expand(-1, -1, 3))

    return scatter(x), scatter(y)


def exponents(batch: int, n: int, m: int, generator: Generator) -> Pair:
    """Sizes from 1 down to 2^-40, evenly in the exponent."""
    x, y = surface(batch, n, m, generator)

    def shrink(cloud: Tensor) -> Tensor:
        draw = torch.rand(batch, cloud.shape[1], 1, generator=generator, dtype=torch.float64)
        return cloud * torch.exp2(-40 * draw)

    return shrink(x), shrink(y)


def skeleton(batch: int, n: int, m: int, generator: Generator) -> Pair:
    """The circle inside of a torus against the torus."""
    turn, height = 2 * math.pi * torch.rand(2, batch, m, 1, generator=generator).double()
    out = torch.cat([turn.cos(), turn.sin(), 0 * turn], -1)
    up = torch.tensor([0.0, 0, 1])
    return ring(batch, n, 1, generator)[0], out * (1 + 0.3 * height.cos()) + 0.3 * height.sin() * up


def axis(batch: int, n: int, m: int, generator: Generator) -> Pair:
    """A segment against the tube around it."""
    angle = 2 * math.pi * torch.rand(batch, m, 1, generator=generator).double()
    along = torch.rand(2, batch, max(n, m), 1, generator=generator).double()
    tube = torch.cat([0.25 * angle.cos(), 0.25 * angle.sin(), along[1, :, :m]], -1)
    return along[0, :, :n] * torch.tensor([0.0, 0, 1]), tube


def middle(batch: int, n: int, m: int, generator: Generator) -> Pair:
    """A blob in the middle of a sphere that is twenty times as large."""
    x, y = torch.randn(2, batch, max(n, m), 3, generator=generator).double()
    return 0.025 * x[:, :n] / x[:, :n].norm(dim=-1).amax(), normalize(y[:, :m], dim=-1)


KINDS: list[Kind] = [
    surface,
    noisy,
    blob,
    uniform,
    equal,
    duplicates,
    line,
    ring,
    lattice,
    outlier,
    two_scales,
    far,
]


# What crowds into few cells of a grid: a trial for spatial indices.
CROWDED: list[Kind] = [clusters, exponents]


# Points to which much of the other cloud is about equally near: a trial for bounds.
EQUIDISTANT: list[Kind] = [skeleton, axis, middle]


def make(
    kind: Kind,
    batch: int,
    n: int,
    m: int,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> Pair:
    """Two contiguous clouds [B, n, 3] and [B, m, 3] of a kind; the same bits for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    x, y = kind(batch, n, m, generator)
    return x.to(device, dtype).contiguous(), y.to(device, dtype).contiguous()


def approach(x: Tensor, y: Tensor, idx: Tensor) -> Tensor:
    """X a tenth of the way to its partners in y, as a training goes in a step."""
    return 0.9 * x + 0.1 * y.gather(1, idx.unsqueeze(-1).expand_as(x))
