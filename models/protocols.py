# SPDX-License-Identifier: MIT
"""How a predicted cloud is compared with the true one: the conventions of the papers, by name.

A number can only be compared with a published one that was computed the same way, so a protocol
says all of it: points, normalisation, alignment, squaring, directions, factor.
"""

from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor

from pointloss import assign, chamfer, f_score, nearest


class RigidMotion(NamedTuple):
    """x -> x R^T + t for rows x: rotation [B, 3, 3] (det +1), translation [B, 1, 3]."""

    rotation: Tensor
    translation: Tensor

    def apply(self, x: Tensor) -> Tensor:
        return x @ self.rotation.mT + self.translation

    def invert(self, y: Tensor) -> Tensor:
        """Exact inverse. (3D-LMNet's code computes y R - t, which is off by |t - t R|.)"""
        return (y - self.translation) @ self.rotation


class Box(NamedTuple):
    """A cloud's bounding cube: centre [B, 1, 3] and the longest side of its box, [B, 1, 1]."""

    centre: Tensor
    side: Tensor

    def apply(self, x: Tensor) -> Tensor:
        """Move the cube to centre 0 and side 1, and x with it."""
        return (x - self.centre) / self.side


def bounding_box(x: Tensor) -> Box:
    """The box of each cloud of x [B, N, 3]. One repeated point has side 1, so it stays finite."""
    low, high = x.amin(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)
    side = (high - low).amax(dim=2, keepdim=True)
    return Box((low + high) / 2, torch.where(side > 0, side, torch.ones_like(side)))


def subset(x: Tensor, points: int, seed: int, ids: Tensor | None = None) -> Tensor:
    """A seeded choice of `points` points of each cloud of x [B, N, 3]; all if N <= points.

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
    return torch.gather(x, 1, rows[..., None].expand(-1, -1, 3))


def rigid_fit(x: Tensor, y: Tensor) -> RigidMotion:
    """Least-squares rigid motion of x [B, N, 3] onto y, row by row, no reflection (Kabsch 1976)."""
    mean_x, mean_y = x.mean(dim=1, keepdim=True), y.mean(dim=1, keepdim=True)
    u, _, vh = torch.linalg.svd((y - mean_y).mT @ (x - mean_x))  # [B, 3, 3]
    sign = torch.ones_like(u[:, 0])
    sign[:, 2] = torch.linalg.det(u @ vh).sign()
    rotation = (u * sign[:, None]) @ vh
    return RigidMotion(rotation, mean_y - mean_x @ rotation.mT)


def icp(x: Tensor, y: Tensor, max_rounds: int = 50, tolerance: float = 1e-5) -> RigidMotion:
    """Iterative closest point (Besl and McKay 1992): the motion of x onto y, from where it is.

    A cloud is done when its mean distance changes by less than `tolerance`, or after `max_rounds`.
    Motions are float64, so that the result does not hang on the float32 rounding of the SVD.
    """
    x64, y64 = x.double(), y.double()
    rotation = torch.eye(3, dtype=x64.dtype, device=x.device).repeat(len(x), 1, 1)
    translation = x64.new_zeros(len(x), 1, 3)
    previous = x64.new_full((len(x),), float("inf"))
    active = torch.arange(len(x), device=x.device)
    for _ in range(max_rounds):
        moved = RigidMotion(rotation[active], translation[active]).apply(x64[active])
        found = nearest(moved.to(x.dtype), y[active])
        distance = found.dist.double().sqrt().mean(dim=1)
        # At distance 0 there is nothing to gain: a cloud against itself is not moved at all.
        going = ((previous[active] - distance).abs() >= tolerance) & (distance > 0)
        previous[active] = distance
        active, idx = active[going], found.idx[going]
        if len(active) == 0:
            break
        matched = torch.gather(y64[active], 1, idx[..., None].expand(-1, -1, 3))
        rotation[active], translation[active] = rigid_fit(x64[active], matched)
    return RigidMotion(rotation, translation)


@dataclass(frozen=True)
class Protocol:
    """One convention. EMD is the mean plain matched distance times the factor, in all of them."""

    name: str
    source: str  # where the convention is from, and what it does that this project cannot
    points: int  # of each cloud, for CD and EMD; a cloud with fewer gives what it has
    own_box: bool  # scale each cloud, also the prediction, by its own bounding box
    icp_rounds: int = 0  # 0: no alignment
    squared: bool = False  # of the Chamfer distance
    weight: float = 1.0  # of the sum of the two directions' means
    factor: float = 1.0
    emd: bool = True
    radii: tuple[float, ...] = (0.01, 0.02, 0.05)  # of the F-score, plain distances
    strict: bool = True  # a point counts below the radius; else also at it
    f_points: int = 10_000  # of the true cloud, for the F-score
    emd_rtol: float = 1e-2

    def columns(self) -> list[str]:
        emd = ["EMD", "gap"] if self.emd else []
        radii = [f"F@{100 * radius:.3g}%" for radius in self.radii]
        return ["CD", "CD to truth", "CD to pred", *emd, *radii]

    def describe(self) -> str:
        """Units, factors and sampling: what a number needs before it can be compared."""
        unit = "the longest side of a cloud's own box" if self.own_box else "the data's unit"
        kind = "squared distance" if self.squared else "distance (not squared)"
        half = "" if self.weight == 1 else f"{self.weight:g} x "
        return (
            f"Convention {self.name} ({self.source}). Unit: {unit}, x{self.factor:g}. "
            f"CD = {half}(mean {kind} prediction -> truth + mean {kind} truth -> prediction); the "
            f"two means stand beside it"
            + ("; EMD = mean matched distance, not squared. " if self.emd else ". ")
            + f"On {self.points} points a cloud, "
            + (
                f"the prediction aligned by ICP (<= {self.icp_rounds} rounds). "
                if self.icp_rounds
                else "no alignment. "
            )
            + f"F = harmonic mean of precision and recall, 0..1, at a distance "
            f"{'below' if self.strict else 'up to'} the radius (in % of the unit), all points of "
            f"the prediction against a denser true cloud."
        )

    @torch.no_grad()
    def score(
        self,
        prediction: Tensor,
        truth: Tensor,
        seed: int = 0,
        ids: Tensor | None = None,
        dense: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Compare prediction [B, N, 3] with truth [B, M, 3]: each column [B].

        `ids` [B] give each cloud a choice of points of its own. `dense` [B, K, 3] is the truth
        with more points, for the F-score; without it `truth` serves.
        """
        dense = truth if dense is None else dense
        if self.own_box:  # before the subset, as 3D-LMNet does
            frame = bounding_box(truth)
            truth, dense = frame.apply(truth), frame.apply(dense)
            prediction = bounding_box(prediction).apply(prediction)
        # Two seeds: the same cloud on both sides must not meet its own points.
        x = subset(prediction, self.points, 2 * seed, ids)
        y = subset(truth, self.points, 2 * seed + 1, ids)
        if self.icp_rounds:
            motion = icp(y, x, self.icp_rounds)
            x, prediction = (motion.invert(c.double()).to(y.dtype) for c in (x, prediction))
        found = chamfer(x, y, squared=self.squared, point_reduction="none")
        there, back = cast("tuple[Tensor, Tensor]", found)  # both directions
        there, back = self.factor * there.mean(dim=1), self.factor * back.mean(dim=1)
        values = [self.weight * (there + back), there, back]
        if self.emd:
            match = assign(x, y, rtol=self.emd_rtol)
            values += [self.factor * match.cost.to(x.dtype), match.gap.to(x.dtype)]
        dense = subset(dense, self.f_points, 2 * seed + 1, ids)
        radii = prediction.new_tensor(self.radii)
        if not self.strict:
            radii = torch.nextafter(radii, torch.full_like(radii, float("inf")))
        values += f_score(prediction, dense, radii).f_score.unbind(dim=1)
        return dict(zip(self.columns(), values, strict=True))


# What was predicted, as it is. It stands beside whatever else is asked for: own boxes punish a few
# stray points, ICP forgives a wrong pose, and together they can turn a comparison round.
PLAIN = Protocol("plain", "neither own boxes nor ICP", points=1024, own_box=False, factor=100)

PROTOCOLS = {
    p.name: p
    for p in (
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
            own_box=False,
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
            own_box=False,
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
            own_box=False,
            squared=True,
            factor=1000,
            emd=False,
            radii=(0.001**0.5,),
        ),
        PLAIN,
    )
}
