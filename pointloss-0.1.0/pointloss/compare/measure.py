# SPDX-License-Identifier: MIT
"""What is measured of one pair of clouds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pointloss.compare.sample import Cloud
from pointloss.geometry.icp import icp
from pointloss.io import Array
from pointloss.metrics.hausdorff import percentile_of
from pointloss.ops.assign import assign
from pointloss.ops.nearest import nearest_both
from pointloss.protocols import Protocol, bounding_box, subset

EMD_POINTS = 4096  # of each cloud: half a second on one CPU core
ICP_POINTS = 20_000
ICP_ROUNDS = 100


class Radius(NamedTuple):
    """A radius of the F-score, in the unit of the data or as a share of B's longest side."""

    value: float
    relative: bool

    def __str__(self) -> str:
        """As on the command line."""
        return f"{100 * self.value:g}%" if self.relative else f"{self.value:g}"

    def name(self) -> str:
        """The column of this radius."""
        return f"F@{self}"


@dataclass(frozen=True)
class Options:
    """How two clouds are compared."""

    protocol: Protocol | None = None
    align: str = "none"  # or "icp": A rigidly onto B
    scale: str = "none"  # "box": both by B's bounding box; "own-box": each by its own
    radii: tuple[Radius, ...] = (Radius(0.01, True), Radius(0.02, True), Radius(0.05, True))
    points: int | None = None
    seed: int = 0
    device: str = "cpu"

    def describe(self) -> list[str]:
        """What the columns are, in words."""
        if self.protocol:
            return [self.protocol.describe() + " A is the prediction, B the truth."]
        unit = {
            "none": "the files' own",
            "box": "the longest side of B's box; A is scaled by the same",
            "own-box": "the longest side of each cloud's own box, centred on 0",
        }[self.scale]
        return [
            f"Unit: {unit}. "
            + ("A aligned to B by ICP." if self.align == "icp" else "No alignment."),
            "A to B, B to A: mean distance of a cloud's points to the other cloud, not squared. "
            "CD: their sum. CD squared: the sum of both means of squared distances. "
            "Hausdorff, HD95: the largest distance, the 95th percentile; the larger of both "
            "directions. EMD: mean distance of matched points, not squared, at most gap above the "
            f"optimum, on min(N, M, {EMD_POINTS}) points of each cloud; EMD floor: that of two "
            "such choices of B's points alone, below which no EMD means anything. F: harmonic mean "
            "of the shares of A and of B nearer than the radius (in % of the longest side of B's "
            "box). Normals: mean |cosine| at nearest points, both directions.",
        ]


class Pair(NamedTuple):
    """One pair after alignment and scaling, and what was measured of it.

    With a protocol, which aligns and scales on its own, x and y are only centred.
    """

    values: dict[str, float]  # by column; normals only if both clouds have them
    notes: list[str]
    x: Tensor  # [N, 3] float32, A, about the centre of B's box in its file
    y: Tensor  # [M, 3] float32, B, likewise
    a: Array  # [N, 3] float64, the points of x where they lie in their file


def measure(a: Cloud, b: Cloud, options: Options) -> Pair:
    """Compare two clouds.

    Args:
        a: the cloud that is judged; with a protocol the prediction.
        b: what it is compared with.
        options: see Options.

    Returns:
        Pair; values have one entry per column, in the order that they are printed.

    Raises:
        RuntimeError: options.device is CUDA in a build without CUDA.
    """
    # About one centre, in float64: float32 would lose a cloud that lies far from the origin.
    centre = (b.points.min(axis=0) + b.points.max(axis=0)) / 2
    x, y = (
        torch.from_numpy(np.asarray(c.points - centre, np.float32)).to(options.device)
        for c in (a, b)
    )
    if options.protocol:
        scores = options.protocol.score(x, y, options.seed)
        return Pair({name: float(value) for name, value in scores.items()}, [], x, y, a.points)
    x, y = _scaled(x, y, options.scale)
    notes, turn = [], None
    if options.align == "icp":
        few = [subset(c[None], ICP_POINTS, options.seed)[0] for c in (x, y)]
        found = icp(few[0], few[1], max_rounds=ICP_ROUNDS)
        x, turn = found.motion.apply(x), found.motion.rotation
        stopped = "" if found.converged else ", not converged"
        notes.append(f"ICP on at most {ICP_POINTS} points: {int(found.rounds)} rounds{stopped}.")
    there, back = nearest_both(x, y)
    dist = [found.dist.double().sqrt() for found in (there, back)]
    values = {"A to B": dist[0].mean(), "B to A": dist[1].mean()}
    values["CD"] = values["A to B"] + values["B to A"]
    values["CD squared"] = there.dist.double().mean() + back.dist.double().mean()
    values["Hausdorff"] = torch.maximum(dist[0].max(), dist[1].max())
    values["HD95"] = torch.maximum(*(percentile_of(d[None], 95)[0] for d in dist))
    matched, note = _matched(x, y, options.seed)
    values |= matched
    notes += note
    side = bounding_box(y[None]).side.double().item()
    for radius in options.radii:
        limit = radius.value * side if radius.relative else radius.value
        precision, recall = ((d < limit).double().mean() for d in dist)
        both = precision + recall
        values[radius.name()] = 2 * precision * recall / both if both > 0 else both
    if a.normals is not None and b.normals is not None:
        normals = [_unit(c.normals, options.device) for c in (a, b)]
        if turn is not None:
            normals[0] = normals[0] @ turn.double().T
        cosines = (
            (normals[0] * normals[1][there.idx]).sum(1).abs().mean(),
            (normals[1] * normals[0][back.idx]).sum(1).abs().mean(),
        )
        values["normals"] = (cosines[0] + cosines[1]) / 2
    return Pair({name: float(value) for name, value in values.items()}, notes, x, y, a.points)


def _scaled(x: Tensor, y: Tensor, how: str) -> tuple[Tensor, Tensor]:
    if how == "none":
        return x, y
    frame = bounding_box(y[None])
    own = bounding_box(x[None]) if how == "own-box" else frame
    return own.apply(x[None])[0], frame.apply(y[None])[0]


def _matched(x: Tensor, y: Tensor, seed: int) -> tuple[dict[str, Tensor], list[str]]:
    """EMD and gap on equally many points of each; the floor where that leaves points out."""
    size = min(len(x), len(y), EMD_POINTS)
    few = [subset(c[None], size, 2 * seed + i) for i, c in enumerate((x, y))]
    match = assign(few[0], few[1])
    values, note = {"EMD": match.cost[0], "gap": match.gap[0]}, []
    if size < max(len(x), len(y)):
        note.append(f"EMD on {size} points of each, chosen at random of {len(x)} and {len(y)}.")
    if 2 * size <= len(y):
        halves = subset(y[None], 2 * size, 2 * seed + 1)
        values["EMD floor"] = assign(halves[:, :size], halves[:, size:]).cost[0]
    return values, note


def _unit(normals: object, device: str) -> Tensor:
    return torch.nn.functional.normalize(torch.as_tensor(normals, device=device), dim=1)


def distances(pair: Pair) -> tuple[Tensor, Tensor]:
    """Plain distances of each point to the other cloud, [N] and [M], on the CPU."""
    there, back = nearest_both(pair.x, pair.y)
    return there.dist.sqrt().cpu(), back.dist.sqrt().cpu()
