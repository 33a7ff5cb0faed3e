# SPDX-License-Identifier: MIT
"""How a predicted cloud is compared with the true one: the conventions of the papers, by name.

A number can only be compared with a published one that was computed the same way, so a protocol
says all of it: points, unit, alignment, squared or not, mean or sum, directions, factor.

    from pointloss.protocols import PROTOCOLS

    PROTOCOLS["pointr-cd-l1"].score(prediction, truth)  # {"CD": [B], "CD to truth": [B], ...}
    PROTOCOLS["pointr-cd-l1"].describe()                # what these numbers are, in words

Three traps. CD-L1 of the completion papers is the plain Euclidean distance, not `norm=1`, and it is
halved; their CD-L2 is squared and not halved. Where a paper aligns or scales, it does so to
the prediction too. Where a paper's code has a fault, the number here is the one it was meant to be,
and `source` says so.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pointloss import _checks
from pointloss.geometry.icp import icp
from pointloss.metrics.f_score import f_score
from pointloss.ops.assign import assign
from pointloss.ops.chamfer import chamfer

ALL = sys.maxsize  # points: as many as a cloud has


class Box(NamedTuple):
    """A cloud's bounding cube: centre [B, 1, D] and the longest side of its box, [B, 1, 1]."""

    centre: Tensor
    side: Tensor

    def apply(self, x: Tensor) -> Tensor:
        """Move the cube to centre 0 and side 1, and x with it."""
        return (x - self.centre) / self.side


def bounding_box(x: Tensor) -> Box:
    """The box of each cloud of x [B, N, D]. One repeated point has side 1, so it stays finite."""
    if x.shape[1] == 0:  # nothing to move
        centre = x.new_zeros(x.shape[0], 1, x.shape[2])
        return Box(centre, torch.ones_like(centre[..., :1]))
    low, high = x.amin(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)
    side = (high - low).amax(dim=2, keepdim=True)
    return Box((low + high) / 2, torch.where(side > 0, side, torch.ones_like(side)))


def subset(x: Tensor, points: int, seed: int, ids: Tensor | None = None) -> Tensor:
    """A seeded choice of `points` points of each cloud of x [B, N, D]; all if N <= points.

    One choice for all clouds; with `ids` [B] a choice of its own for each, which depends on the
    cloud's id and not on its batch.
    """
    if x.shape[1] <= points:
        return x
    seeds = [seed] if ids is None else [seed + 2 * int(i) for i in ids]
    chosen = [
        torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(s))[:points]
        for s in seeds
    ]
    rows = torch.stack(chosen).to(x.device).expand(len(x), -1)  # [B, points]
    return torch.gather(x, 1, rows[..., None].expand(-1, -1, x.shape[2]))


@dataclass(frozen=True)
class Protocol:
    """One convention: what is done to the clouds, and what the numbers are."""

    name: str
    source: str  # where the convention is from, and what it does that this project does not
    points: int = ALL  # of each cloud, for CD and EMD; a cloud with fewer gives what it has
    own_box: bool = False  # scale each cloud, also the prediction, by its own bounding box
    icp_rounds: int = 0  # 0: no alignment
    squared: bool = False  # of the Chamfer distance; the EMD is plain in all of them
    weight: float = 1.0  # of the sum of the two directions' means
    factor: float = 1.0
    emd: bool = True  # the mean plain distance of matched points
    emd_factor: float | None = None  # None: as the Chamfer distance's
    radii: tuple[float, ...] = (0.01, 0.02, 0.05)  # of the F-score, plain distances
    strict: bool = True  # a point counts below the radius; else also at it
    f_points: int = 10_000  # of the true cloud, for the F-score
    emd_rtol: float = 1e-2

    def columns(self) -> list[str]:
        """The names of the numbers, in the order of `score`."""
        emd = ["EMD", "gap"] if self.emd else []
        radii = [f"F@{100 * radius:.3g}%" for radius in self.radii]
        return ["CD", "CD to truth", "CD to pred", *emd, *radii]

    def describe(self) -> str:
        """Units, factors and sampling: what a number needs before it can be compared."""
        unit = "the longest side of a cloud's own box" if self.own_box else "the data's unit"
        kind = "squared distance" if self.squared else "distance (not squared)"
        half = "" if self.weight == 1 else f"{self.weight:g} x "
        emd_factor = "" if self.emd_factor is None else f", x{self.emd_factor:g}"
        points = "all points" if self.points == ALL else f"{self.points} points"
        sentences = [
            f"Convention {self.name} ({self.source}).",
            f"Unit: {unit}, x{self.factor:g}.",
            f"CD = {half}(mean {kind} prediction -> truth + mean {kind} truth -> prediction); the "
            f"two means stand beside it"
            + (f"; EMD = mean matched distance, not squared{emd_factor}." if self.emd else "."),
            f"On {points} a cloud, "
            + (
                f"the prediction aligned by ICP (<= {self.icp_rounds} rounds)."
                if self.icp_rounds
                else "no alignment."
            ),
        ]
        if self.radii:
            truth = "those of the truth" if self.f_points == ALL else "a denser true cloud"
            sentences.append(
                f"F = harmonic mean of precision and recall, 0..1, at a distance "
                f"{'below' if self.strict else 'up to'} the radius (in % of the unit), all points "
                f"of the prediction against {truth}."
            )
        return " ".join(sentences)

    @torch.no_grad()
    def score(
        self,
        x: Tensor,
        y: Tensor,
        seed: int = 0,
        ids: Tensor | None = None,
        dense: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Compare predictions x with the truth y.

        Args:
            x: predicted points [B, N, 3] or [N, 3], float.
            y: true points [B, M, 3] or [M, 3], on x's device.
            seed: of the choice of points, where a cloud has more than the convention takes.
            ids: [B], give each cloud a choice of points of its own, which does not hang on the
                rest of the batch.
            dense: [B, K, 3], the truth with more points, for the F-score; without it y serves.

        Returns:
            By each name of `columns` a tensor [B], a scalar for single clouds, factors included;
            "gap" is the certified relative gap of the EMD. Not differentiable.

        Raises:
            ValueError: shapes or devices do not fit.
            TypeError: dtypes do not fit.
            RuntimeError: CUDA tensors in a build without CUDA.

        Determinism: that of `assign` for the EMD, else deterministic by seed.
        """
        c = _checks.clouds(f"protocol {self.name}", x, y)
        x, y = c.x, c.y
        if dense is None:
            dense = y
        else:
            dense = dense.unsqueeze(0) if c.single else dense
            dense = _checks.clouds(f"protocol {self.name}, dense", x, dense).y
        if self.own_box:  # before the subset, as 3D-LMNet does
            frame = bounding_box(y)
            y, dense = frame.apply(y), frame.apply(dense)
            x = bounding_box(x).apply(x)
        # Two seeds: the same cloud on both sides must not meet its own points.
        a = subset(x, self.points, 2 * seed, ids)
        b = subset(y, self.points, 2 * seed + 1, ids)
        if self.icp_rounds and a.shape[1] and b.shape[1]:
            back = icp(b, a, max_rounds=self.icp_rounds).motion.inverse()
            a, x = back.apply(a), back.apply(x)
        values = self._distances(a, b)
        if self.radii:
            dense = subset(dense, self.f_points, 2 * seed + 1, ids)
            radii = x.new_tensor(self.radii)
            if not self.strict:
                radii = torch.nextafter(radii, torch.full_like(radii, torch.inf))
            values += f_score(x, dense, radii).f_score.unbind(dim=1)
        if c.single:
            values = [value[0] for value in values]
        return dict(zip(self.columns(), values, strict=True))

    def _distances(self, x: Tensor, y: Tensor) -> list[Tensor]:
        """CD with its two directions, EMD and gap."""
        found = chamfer(x, y, squared=self.squared, point_reduction="none")
        # Nothing is nearest to nothing: an empty cloud is as far away as can be.
        there, back = (
            self.factor * (d.mean(dim=1) if d.shape[1] else d.new_full((d.shape[0],), torch.inf))
            for d in found
            if d is not None
        )
        values = [self.weight * (there + back), there, back]
        if self.emd:
            match = assign(x, y, rtol=self.emd_rtol)
            factor = self.factor if self.emd_factor is None else self.emd_factor
            values += [factor * match.cost.to(x.dtype), match.gap.to(x.dtype)]
        return values


# What was predicted, as it is. It stands beside whatever else is asked for: own boxes punish a few
# stray points, ICP forgives a wrong pose, and together they can turn a comparison round.
PLAIN = Protocol("plain", "neither own boxes nor ICP", points=1024, factor=100)

PROTOCOLS = {
    p.name: p
    for p in (
        PLAIN,
        # 50 rounds of ICP for the code's 1000: about 0.03 in the mean CD, more in single clouds.
        Protocol(
            "lmnet",
            "metrics.py of 3D-LMNet, Mandikal et al. 2018, with the inverse of its alignment put "
            "right",
            points=1024,
            own_box=True,
            icp_rounds=50,
            factor=100,
        ),
        Protocol("pix3d", "Sun et al. 2018; IoU is not computed", points=1024, own_box=True),
        Protocol(
            "occnet",
            "Chamfer-L1 of Mescheder et al. 2019, who sample 100000 points of a mesh and print "
            "tenths of the unit; no IoU",
            points=100_000,
            weight=0.5,
            factor=10,
            emd=False,
        ),
        Protocol(
            "what3d",
            "Tatarchenko et al. 2019, whose measure is F alone, in the viewer's frame",
            points=10_000,
            own_box=True,
            emd=False,
            radii=(0.005, 0.01, 0.02, 0.05, 0.1, 0.2),
        ),
        Protocol(
            "pixel2mesh",
            "Wang et al. 2018; thresholds 1e-4 and 2e-4 on squared distances",
            points=2466,
            squared=True,
            factor=1000,
            emd=False,
            radii=(1e-2, 2**0.5 * 1e-2),
            strict=False,
        ),
        Protocol(
            "atlasnet",
            "Groueix et al. 2018; threshold 0.001 on squared distances",
            points=2500,
            squared=True,
            factor=1000,
            emd=False,
            radii=(0.001**0.5,),
        ),
        Protocol(
            "pcn",
            "Yuan et al. 2018, tables in thousandths; the EMD's matching is one-to-one, their "
            "code's is not",
            points=16384,
            weight=0.5,
            factor=1000,
            radii=(),
        ),
        Protocol(
            "pointr-cd-l1",
            "CD-L1 of PoinTr, Yu et al. 2021, as on the PCN set; their code skips points whose "
            "coordinates sum to 0 if the batch is 1",
            weight=0.5,
            factor=1000,
            emd=False,
            radii=(0.01,),
            f_points=ALL,
        ),
        Protocol(
            "pointr-cd-l2",
            "CD-L2 of PoinTr, Yu et al. 2021, as on ShapeNet-55 and -34; their code skips points "
            "whose coordinates sum to 0 if the batch is 1",
            squared=True,
            factor=1000,
            emd=False,
            radii=(0.01,),
            f_points=ALL,
        ),
        Protocol(
            "completion3d",
            "benchmark of Tchapmi et al. 2019, tables in units of 1e-4",
            points=2048,
            squared=True,
            factor=10_000,
            emd=False,
            radii=(),
        ),
        Protocol(
            "pointflow",
            "the distances under MMD, COV and 1-NNA of Yang et al. 2019, tables with CD x1000 and "
            "EMD x100; the EMD's matching is one-to-one, their code's is not",
            points=2048,
            squared=True,
            factor=1000,
            emd_factor=100,
            radii=(),
        ),
        Protocol(
            "pytorch3d",
            "pytorch3d.loss.chamfer_distance with its defaults",
            squared=True,
            emd=False,
            radii=(),
        ),
        Protocol(
            "kaolin",
            "kaolin.metrics.pointcloud; its f_score divides both sides by the number of predicted "
            "points, here each by its own",
            squared=True,
            emd=False,
            radii=(0.01,),
            strict=False,
            f_points=ALL,
        ),
    )
}
