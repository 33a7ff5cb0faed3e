# SPDX-License-Identifier: MIT
"""Keypoints to be lifted: rigs on the clouds of a set, skeletons that move, and their views.

A rig names the same N joints on every shape of a category. On clouds, whose points have no names,
it comes from matching: `pointloss.assign` gives every point of the category's barycentre its own
partner in each cloud. Joints are anchors on the barycentre, far from one another. Another number
of anchors is another rig of the same objects. Skeletons are trees of bones with random lengths and
random turns at the joints: bodies that are made up (`SKELETONS`), and trees that are drawn.

Frame of the shapes: y up. Frame of a view: x right, y up, z towards the viewer; orthographic.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from models.baselines import mean_shape
from pointloss import assign

JOINTS = 24  # of every tensor here; what a rig has less is masked
BLEND, STRETCH = 0.5, 0.2  # see `Pool.draw`
ELEVATION, ROLL = (-10.0, 50.0), 15.0  # degrees
TURNS = 11 + JOINTS  # uniform numbers that a view of a pool's shape needs: 7 and `look`'s
POINTS = 512  # of the clouds that are matched
AROUND = 6  # a joint is the mean of the partners of so many points of the barycentre


@dataclass(frozen=True)
class Rig:
    """The joints of a category's shapes."""

    name: str
    category: str
    shapes: Tensor  # [S, JOINTS, 3] float32
    objects: list[str]  # [S], what the shapes are of
    joints: Tensor  # [JOINTS] bool, those that the rig has
    edges: Tensor  # [JOINTS, JOINTS] bool, symmetric, without the diagonal
    blend: bool = True  # a mean of two shapes is a shape

    def of(self, rows: Sequence[int]) -> "Rig":
        """The same rig of some of the shapes."""
        return replace(self, shapes=self.shapes[rows], objects=[self.objects[i] for i in rows])


class Views(NamedTuple):
    """What is lifted, and the truth. The unit is that of the keypoints: their spread is 1."""

    keypoints: Tensor  # [B, N, 2], centred on the visible joints' mean; 0 where not visible
    mask: Tensor  # [B, N] bool, joints that are visible
    edges: Tensor  # [B, N, N] bool
    truth: Tensor  # [B, N, 3], likewise; its x and y are the keypoints
    size: Tensor  # [B], root mean square distance of the visible joints from their mean, in 3-D


def farthest(points: Tensor, count: int, first: int | None = None) -> Tensor:
    """Indices [count] of points [P, 3] far from one another.

    The first is `first`, or the one that is farthest from the middle.
    """
    if first is None:
        first = int((points - points.mean(0)).norm(dim=1).argmax())
    chosen = [first]
    nearest = (points - points[chosen[0]]).norm(dim=1)
    while len(chosen) < count:
        chosen.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, (points - points[chosen[-1]]).norm(dim=1))
    return torch.tensor(chosen)


def neighbours(points: Tensor, count: int = 3) -> Tensor:
    """Bool [N, N]: i is among the `count` nearest of j, or j among those of i."""
    near = torch.cdist(points, points).fill_diagonal_(float("inf"))
    edges = torch.zeros_like(near, dtype=torch.bool)
    edges.scatter_(1, near.topk(count, largest=False).indices, True)
    return edges | edges.T


def padded(values: Tensor, dims: int) -> Tensor:
    """The first `dims` axes after the batch filled up with zeros to JOINTS."""
    shape = [values.shape[0], *[JOINTS] * dims, *values.shape[1 + dims :]]
    out = values.new_zeros(shape)
    out[(slice(None), *(slice(0, n) for n in values.shape[1 : 1 + dims]))] = values
    return out


def assigned_rigs(
    category: str,
    objects: list[str],
    clouds: Tensor,
    known: int,
    counts: Sequence[int],
    firsts: Sequence[int | None] = (),
) -> list[Rig]:
    """A rig on clouds [O, P, 3] for each of `counts` anchors.

    The first `known` clouds give the barycentre, so that nothing of a test object goes into a rig.
    On the CPU, where a matching is the same every time: the rigs of a run are those of its scores.
    `firsts`: of each rig the number of the barycentre's point that is its first anchor, see
    `farthest`.
    """
    clouds = clouds[:, :POINTS].cpu()
    middle = mean_shape(clouds[:known], "cpu")
    partners = []
    for part in clouds.split(16):
        match = assign(middle.expand_as(part), part, rtol=0.05)
        partners.append(torch.gather(part, 1, match.idx[..., None].expand(-1, -1, 3)))
    partner = torch.cat(partners)  # [O, P, 3] in the order of the barycentre's points
    rigs = []
    for count, first in zip(counts, firsts or [None] * len(counts), strict=True):
        anchors = middle[farthest(middle, count, first)]
        around = torch.cdist(anchors, middle).topk(AROUND, largest=False).indices  # [N, AROUND]
        shapes = partner[:, around].mean(2)  # [O, N, 3]
        edges = padded(neighbours(anchors)[None], 2)[0]
        name = f"{category} {count}"
        joints = torch.arange(JOINTS) < count
        rigs.append(Rig(name, category, padded(shapes, 1), objects, joints, edges))
    return rigs


# Bodies at rest: for each joint its parent (-1: none), the bone to it, and how far it turns
# (radians, about each axis). Left is +x, up +y, ahead +z.
Bone = tuple[int, float, float, float, float]


def _leg(first: int, hip: int, x: float, z: float, parts: Sequence[float]) -> list[Bone]:
    """A limb down from joint `hip`: its first joint has the number `first`."""
    bones: list[Bone] = [(hip, x, 0.0, z, 0.1)]
    return bones + [(first + i, 0.0, -length, 0.0, 0.5) for i, length in enumerate(parts)]


def _biped() -> list[Bone]:
    bones: list[Bone] = [(-1, 0, 0, 0, 0), (0, 0, 0.25, 0, 0.2), (1, 0, 0.25, 0, 0.2)]
    bones += [(2, 0, 0.15, 0, 0.2), (3, 0, 0.2, 0.05, 0.3)]
    for side in (1, -1):
        first = len(bones)
        bones += [(2, 0.2 * side, 0, 0, 0.1), (first, 0.28 * side, -0.05, 0, 1.0)]
        bones += [(first + 1, 0.25 * side, 0, 0.05, 0.9)]
    for side in (1, -1):
        bones += _leg(len(bones), 0, 0.11 * side, 0, (0.42, 0.4))
    return bones


def _quadruped() -> list[Bone]:
    bones: list[Bone] = [(-1, 0, 0, 0, 0), (0, 0, 0.03, 0.35, 0.15), (1, 0, 0, 0.35, 0.15)]
    bones += [(2, 0, 0.2, 0.15, 0.4), (3, 0, 0.1, 0.12, 0.4), (4, 0, -0.03, 0.18, 0.2)]
    bones += [(0, 0, 0.05, -0.2, 0.4), (6, 0, -0.05, -0.25, 0.5)]
    for hip in (0, 2):
        for side in (1, -1):
            bones += _leg(len(bones), hip, 0.13 * side, 0, (0.32, 0.3))
    return bones


def _hand() -> list[Bone]:
    bones: list[Bone] = [(-1, 0, 0, 0, 0)]
    fingers = (
        (-0.25, 0.3, 0.5),
        (-0.16, 0.75, 1),
        (0, 0.8, 1.1),
        (0.14, 0.75, 1),
        (0.27, 0.65, 0.8),
    )
    for x, y, length in fingers:
        first = len(bones)
        bones.append((0, x, y, 0, 0.1))
        for i, part in enumerate((0.4, 0.28, 0.22)):
            bones.append((first + i, 0.04 * x * length, 0.1 * part * length, -0.1, 0.45))
    return bones


def _hexapod() -> list[Bone]:
    bones: list[Bone] = [(-1, 0, 0, 0, 0), (0, 0, 0.02, 0.3, 0.15), (0, 0, 0.02, -0.4, 0.2)]
    bones.append((1, 0, 0.05, 0.25, 0.3))
    for hip, z in ((1, 0.1), (0, 0.0), (2, 0.15)):
        for side in (1, -1):
            first = len(bones)
            bones += [(hip, 0.15 * side, 0, z, 0.2), (first, 0.3 * side, 0.15, 0, 0.4)]
            bones += [(first + 1, 0.2 * side, -0.35, 0, 0.4)]
    return bones


SKELETONS = {"biped": _biped(), "quadruped": _quadruped(), "hand": _hand(), "hexapod": _hexapod()}


def random_tree(generator: torch.Generator) -> list[Bone]:
    """A skeleton of 8 to 20 joints: mostly chains, which fork now and then."""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    bones: list[Bone] = [(-1, 0, 0, 0, 0)]
    for joint in range(1, int(uniform(8, 21))):
        parent = joint - 1 if uniform(0, 1) < 0.65 else int(uniform(0, joint))
        ahead = torch.tensor(bones[parent][1:4]) + 0.6 * torch.randn(3, generator=generator)
        x, y, z = (ahead / ahead.norm().clamp(min=0.1) * uniform(0.3, 1)).tolist()
        bones.append((parent, x, y, z, uniform(0.1, 0.7)))
    return bones


def turn(vectors: Tensor) -> Tensor:
    """Rotations [..., 3, 3] about vectors [..., 3], by twice the arc tangent of half their length.

    Close to the angle in radians while that is small, and smooth everywhere.
    """
    x, y, z = (vectors / 2).unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
    scale = 2 / (1 + (vectors / 2).square().sum(-1))[..., None, None]
    identity = torch.eye(3, dtype=vectors.dtype, device=vectors.device)
    return identity + scale * (cross + cross @ cross)


def pose(bones: list[Bone], numbers: Tensor) -> Tensor:
    """Shapes [S, J, 3] of a skeleton of J joints by uniform `numbers` [S, J, 4].

    Of a joint's numbers the first gives the length of its bone, a factor of 0.7 to 1.4, and the
    others how it turns. The size is that of the other shapes: a longest side of about 1.
    """
    vectors = torch.tensor([bone[1:4] for bone in bones], device=numbers.device)
    spread = torch.tensor([bone[4] for bone in bones], device=numbers.device)
    turns = turn((2 * numbers[..., 1:] - 1) * spread[:, None])
    vectors = vectors * (0.7 * 2 ** numbers[..., :1])
    places, frames = [torch.zeros_like(vectors[:, 0])], [turns[:, 0]]
    for joint, bone in enumerate(bones[1:], 1):
        frames.append(frames[bone[0]] @ turns[:, joint])
        places.append(places[bone[0]] + (frames[-1] @ vectors[:, joint, :, None])[..., 0])
    shape = torch.stack(places, 1)
    sides = shape.amax(1) - shape.amin(1)
    shape = shape - (shape.amax(1) + shape.amin(1))[:, None] / 2
    return shape / sides.amax(1)[:, None, None]


def skeleton_rig(name: str, bones: list[Bone], poses: int, seed: int) -> Rig:
    """`poses` shapes of a skeleton."""
    generator = torch.Generator().manual_seed(seed)
    shapes = pose(bones, torch.rand(poses, len(bones), 4, generator=generator))
    edges = torch.zeros(JOINTS, JOINTS, dtype=torch.bool)
    for joint, bone in enumerate(bones[1:], 1):
        edges[joint, bone[0]] = edges[bone[0], joint] = True
    joints = torch.arange(JOINTS) < len(bones)
    objects = [f"{name} {number}" for number in range(poses)]
    return Rig(name, name, padded(shapes, 1), objects, joints, edges, blend=False)


def look(shapes: Tensor, joints: Tensor, edges: Tensor, numbers: Tensor, occlusion: float) -> Views:
    """A view of each shape [B, N, 3] by uniform `numbers` [B, 4 + N].

    Azimuth from all around, elevation and roll in ELEVATION and ROLL. Up to the share `occlusion`
    of a rig's joints [B, N] is not visible, each view its own.
    """
    azimuth, elevation, roll, share = numbers[:, :4].unbind(1)
    degree = torch.pi / 180
    low, high = ELEVATION
    a, e = 2 * torch.pi * azimuth, degree * (low + (high - low) * elevation)
    r = degree * ROLL * (2 * roll - 1)
    turned = _plane(a, 0, 2) @ shapes.transpose(1, 2)
    turned = (_plane(r, 0, 1) @ _plane(e, 1, 2) @ turned).transpose(1, 2)
    rank = numbers[:, 4:].masked_fill(~joints, 2.0).argsort(1).argsort(1)
    hidden = rank < (share * occlusion * joints.sum(1)).floor()[:, None]
    mask = joints & ~hidden
    shown, count = mask[..., None], mask.sum(1)[:, None, None]
    centre = (turned * shown).sum(1, keepdim=True) / count
    truth = (turned - centre) * shown
    spread = (truth[..., :2].square().sum((1, 2), keepdim=True) / count).sqrt().clamp(min=1e-6)
    truth = truth / spread
    size = (truth.square().sum((1, 2)) / count[:, 0, 0]).sqrt()
    return Views(truth[..., :2], mask, edges, truth, size)


def _plane(angle: Tensor, first: int, second: int) -> Tensor:
    """Rotations [B, 3, 3] by `angle` [B] from axis `first` towards axis `second`."""
    out = torch.eye(3, device=angle.device).repeat(len(angle), 1, 1)
    out[:, first, first] = out[:, second, second] = angle.cos()
    out[:, second, first] = angle.sin()
    out[:, first, second] = -angle.sin()
    return out


class Pool:
    """Shapes of many rigs on a device, to be drawn from.

    Args:
        groups: lists of rigs; each group is drawn equally often, and in it each rig.
        device: where the shapes lie.
        occlusion: see `look`.
    """

    def __init__(self, groups: Sequence[Sequence[Rig]], device: str, occlusion: float):
        groups = [group for group in groups if group]
        rigs = [rig for group in groups for rig in group]
        longest = max(map(len, groups))
        numbers = torch.arange(len(rigs)).split([len(group) for group in groups])
        table = torch.cat([n.repeat(-(-longest // len(n)))[:longest] for n in numbers])
        counts = torch.tensor([len(rig.shapes) for rig in rigs])
        self.table = table.to(device)
        self.counts, self.starts = counts.to(device), (counts.cumsum(0) - counts).to(device)
        self.shapes = torch.cat([rig.shapes for rig in rigs]).to(device)
        self.joints = torch.stack([rig.joints for rig in rigs]).to(device)
        self.edges = torch.stack([rig.edges for rig in rigs]).to(device)
        self.blend = torch.tensor([BLEND * rig.blend for rig in rigs], device=device)
        self.occlusion = occlusion

    def draw(self, numbers: Tensor, rig: Tensor | None = None) -> Views:
        """Views of shapes by uniform `numbers` [B, TURNS], of rigs [B] or of any.

        A shape is the mean of two of its rig's, with the weight of the second below BLEND, if the
        rig allows it, and stretched along each axis by a factor in [1 - STRETCH, 1 + STRETCH].
        """
        if rig is None:
            rig = self.table[_index(numbers[:, 0], len(self.table))]
        rows = (self.starts[rig] + _index(numbers[:, k], self.counts[rig]) for k in (1, 2))
        one, two = (self.shapes[row] for row in rows)
        part = (numbers[:, 3] * self.blend[rig])[:, None, None]
        shapes = one + part * (two - one)
        shapes = shapes * (1 + STRETCH * (2 * numbers[:, 4:7] - 1))[:, None]
        return look(shapes, self.joints[rig], self.edges[rig], numbers[:, 7:], self.occlusion)


def _index(numbers: Tensor, count: Tensor | int) -> Tensor:
    """Uniform numbers in [0, 1) -> whole numbers below `count`."""
    return (numbers * count).long()
