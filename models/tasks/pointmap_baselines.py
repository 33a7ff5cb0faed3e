# SPDX-License-Identifier: MIT
"""What methods say of pairs of views: the network, and what learns little or nothing."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor, nn

from models.augment import mirror_pair
from models.baselines import thumbnails
from models.config import Config
from models.data.pairs import Pair, Pairs
from models.networks.pointmap import Pointmaps
from models.tables import TRUE_POSE
from pointloss import depth_to_points, procrustes, transform_points

NETWORK, BLANKED, RETRIEVAL = "pointmap", "second view blanked", "nearest pair"
BLANKED_POSED = BLANKED + TRUE_POSE
CATEGORY, PLANE = f"category's mean depth{TRUE_POSE}", f"plane at the median depth{TRUE_POSE}"


class Guess(NamedTuple):
    """What a method says of a batch of pairs."""

    points: Tensor  # [B, 2, H, W, 3], first camera's frame, any unit
    motion: Tensor  # [B, 3, 4], second camera's frame -> first's, in any unit
    confidence: Tensor | None = None  # [B, 2, H, W]


Guesser = Callable[[Pair, Tensor], Guess]  # of pairs, and of their numbers


def pose(own: Tensor, points: Tensor, mask: Tensor, weights: Tensor | None = None) -> Tensor:
    """A camera from its view's pointmap in its own frame and in another's, both [B, H, W, 3].

    Returns [B, 3, 4], own frame -> the other, in the other's unit. mask, weights: [B, H, W].
    """
    fit = procrustes(
        own.flatten(1, 2),
        points.flatten(1, 2),
        mask=mask.flatten(1),
        weights=None if weights is None else weights.flatten(1),
    )
    return torch.cat([fit.rotation, fit.translation.unsqueeze(2)], 2)


def network_guesser(network: nn.Module) -> Guesser:
    """Both orders of the pair are asked: the second view's own pointmap is the other's first."""

    @torch.no_grad()
    def guess(pair: Pair, _: Tensor) -> Guess:
        image = pair.image[:, :, :3]
        out, swapped = network(image), network(image.flip(1))
        weights = (1 + out.confidence[:, 1].exp()) * (1 + swapped.confidence[:, 0].exp())
        motion = pose(swapped.points[:, 0], out.points[:, 1], pair.mask[:, 1], weights)
        return Guess(out.points, motion, out.confidence)

    return guess


def blanked_guesser(network: nn.Module) -> Guesser:
    """The same network; whichever view is asked about, the other one shows nothing.

    The two answers share no unit, so each is divided by its mean distance, as in the loss.
    """

    @torch.no_grad()
    def guess(pair: Pair, _: Tensor) -> Guess:
        image = pair.image[:, :, :3]
        one, two = image.unbind(1)
        blank = torch.ones_like(one)
        first: Pointmaps = network(torch.stack([one, blank], 1))
        second: Pointmaps = network(torch.stack([blank, two], 1))
        own: Pointmaps = network(torch.stack([two, blank], 1))
        points = [first.points[:, 0], second.points[:, 1]]
        alone = [unit_size(p, m) for p, m in zip(points, pair.mask.unbind(1), strict=True)]
        motion = pose(own.points[:, 0], points[1], pair.mask[:, 1])
        return Guess(torch.stack(alone, 1), motion)

    return guess


def blanked_posed_guesser(network: nn.Module) -> Guesser:
    """The same network asked about each view alone; true are the cameras and each view's size.

    What it lacks is only what the other view tells of the shape.
    """

    @torch.no_grad()
    def guess(pair: Pair, _: Tensor) -> Guess:
        image = pair.image[:, :, :3]
        own = transform_points(pair.points[:, 1], pair.motion, inverse=True)
        alone = []
        for view, truth in enumerate((pair.points[:, 0], own)):
            asked = torch.stack([image[:, view], torch.ones_like(image[:, view])], 1)
            points, mask = network(asked).points[:, 0], pair.mask[:, view]
            alone.append(unit_size(points, mask) * mean_distance(truth, mask))
        alone[1] = transform_points(alone[1], pair.motion)
        return Guess(torch.stack(alone, 1), pair.motion)

    return guess


def mean_distance(points: Tensor, mask: Tensor) -> Tensor:
    """Of points [B, ..., 3] that count, [B, ...], to the origin: [B, 1, ..., 1], 1e-8 or more."""
    distance = torch.linalg.vector_norm(points, dim=-1) * mask
    size: Tensor = distance.flatten(1).sum(1) / mask.flatten(1).sum(1).clamp_min(1)
    return size.clamp_min(1e-8).view(-1, *[1] * (points.dim() - 1))


def unit_size(points: Tensor, mask: Tensor) -> Tensor:
    """Points [B, ..., 3] over the mean distance to the origin of those that count, [B, ...]."""
    unit: Tensor = points / mean_distance(points, mask)
    return unit


def _with_true_pose(depth: Tensor, test: Pairs, pair: Pair, numbers: Tensor) -> Guess:
    """Depth maps [B, 2, H, W], lifted by the true cameras."""
    intrinsics = test.views.intrinsics[test.index[numbers]]
    points = depth_to_points(depth.flatten(0, 1), intrinsics.flatten(0, 1)).unflatten(0, (-1, 2))
    second = transform_points(points[:, 1], pair.motion)
    return Guess(torch.stack([points[:, 0], second], 1), pair.motion)


def plane_guesser(test: Pairs) -> Guesser:
    """Each view is a plane at the median of its true depth."""

    def guess(pair: Pair, numbers: Tensor) -> Guess:
        depth = test.views.depth[test.index[numbers]]  # [B, 2, H, W]
        seen = torch.where(depth > 0, depth, torch.nan).flatten(2)
        middle = seen.nanquantile(0.5, dim=2, interpolation="lower")[:, :, None, None]
        return _with_true_pose(middle.expand_as(depth), test, pair, numbers)

    return guess


def category_guesser(train: Pairs, test: Pairs) -> Guesser:
    """At each pixel the mean depth of the category's training views, counted from the object's
    centre, whose true distance is given; where none of them sees anything, that of the centre.
    """
    views = train.views
    member = torch.tensor([train.data.object_categories[o] for o, _ in train.data.samples])
    seen = views.depth > 0
    relative = (views.depth - views.extrinsics[:, 2, 3, None, None]) * seen
    means = torch.zeros(len(train.data.categories), *views.depth.shape[1:]).to(relative)
    for category in member.unique().tolist():
        own = (member == category).to(seen.device)
        means[category] = relative[own].sum(0) / seen[own].sum(0).clamp_min(1)

    def guess(pair: Pair, numbers: Tensor) -> Guess:
        categories = [test.category(number) for number in numbers.tolist()]
        distance = test.views.extrinsics[test.index[numbers], 2, 3]  # [B, 2]
        depth = means[categories].unsqueeze(1) + distance[:, :, None, None]
        return _with_true_pose(depth, test, pair, numbers)

    return guess


def retrieval_guesser(train: Pairs, mirrored: bool) -> Guesser:
    """The training pair whose two images are nearest (L2 of thumbnails), also mirrored.

    A pixel that sees nothing in the retrieved pair takes the point of its nearest one that does.
    """
    images = train.views.image[:, :3].float() / 255
    flips = (False, True) if mirrored else (False,)
    keys = [thumbnails(images.flip(3) if flip else images) for flip in flips]

    def guess(pair: Pair, _: Tensor) -> Guess:
        one, two = (thumbnails(image[:, :3]) for image in pair.image.unbind(1))
        distances = [
            torch.cdist(one, key).square()[:, train.index[:, 0]]
            + torch.cdist(two, key).square()[:, train.index[:, 1]]
            for key in keys
        ]
        found = torch.cat(distances, 1).argmin(1)
        near = train(found % len(train))
        flipped = found >= len(train)
        turned = mirror_pair(near)
        points = torch.where(flipped[:, None, None, None, None], turned.points, near.points)
        mask = torch.where(flipped[:, None, None, None], turned.mask, near.mask)
        motion = torch.where(flipped[:, None, None], turned.motion, near.motion)
        return Guess(_filled(points, mask), motion)

    return guess


def _filled(points: Tensor, mask: Tensor) -> Tensor:
    """[B, 2, H, W, 3] with the point of the nearest pixel that sees one at those that do not."""
    flat, seen = points.flatten(0, 1), mask.flatten(0, 1).cpu().numpy()
    filled = []
    for view, known in zip(flat, seen, strict=True):
        row, column = distance_transform_edt(~known, return_distances=False, return_indices=True)
        filled.append(view[torch.from_numpy(row).long(), torch.from_numpy(column).long()])
    return torch.stack(filled).view_as(points)


def guessers(config: Config, network: nn.Module, train: Pairs, test: Pairs) -> dict[str, Guesser]:
    """The network, and beside it what evaluate.baselines asks for."""
    own = {NETWORK: network_guesser(network)}
    if not config.evaluate.baselines:
        return own
    return own | {
        BLANKED: blanked_guesser(network),
        BLANKED_POSED: blanked_posed_guesser(network),
        RETRIEVAL: retrieval_guesser(train, config.augment.mirror != "none"),
        CATEGORY: category_guesser(train, test),
        PLANE: plane_guesser(test),
    }
