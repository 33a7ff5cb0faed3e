# SPDX-License-Identifier: MIT
"""What methods say of an image's depth: networks, and what learns little or nothing."""

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor, nn

from models.data.renders import Renders
from models.networks.gan2shape import Guess
from models.tables import TRUE_DEPTH

PLANE, ELLIPSOID, INFLATED = "plane", "ellipsoid in the mask", "inflated mask"
CATEGORY = f"category's mean{TRUE_DEPTH}"

# Of images [B, 4, H, W] -> depth [B, H, W] in their own view, centre of the object at 1.
Guesser = Callable[[Tensor], Tensor]


def network_guesser(network: nn.Module) -> Guesser:
    """The depth that a network's surface has in the image's view, on the object's mask."""

    @torch.no_grad()
    def guess(image: Tensor) -> Tensor:
        out: Guess = network(image)
        return filled(out, image[:, 3] > 0.5)

    return guess


def filled(out: Guess, mask: Tensor) -> Tensor:
    """Depth [B, H, W] of a network's answer where the object is known to be, mask [B, H, W].

    A pixel of the mask in which the network sees no object takes the depth of the nearest pixel
    in which it sees one.
    """
    seen = mask & (out.image[:, 3] > 0.5)
    depth = out.depth.clone()
    for row, (known, wanted) in enumerate(zip(seen.cpu().numpy(), mask.cpu(), strict=True)):
        if known.any() and not known[wanted.numpy()].all():
            place = distance_transform_edt(~known, return_distances=False, return_indices=True)
            near = out.depth[row][tuple(torch.from_numpy(axis).long() for axis in place)]
            depth[row] = torch.where(seen[row], depth[row], near)
    return depth


def plane(image: Tensor) -> Tensor:
    """Everything is as far away as the object's centre."""
    return torch.ones_like(image[:, 0])


def ellipsoid(image: Tensor, fov: float) -> Tensor:
    """An ellipsoid with the mask's centre and second moments, as deep as it is wide and high.

    Its half depth is the geometric mean of the other two half axes. A filled ellipse with half axes
    a has the second moment a^2 / 4 along each.
    """
    side = image.shape[-1]
    pixel = _pixel(side, fov)
    weight = image[:, 3]
    total = weight.sum((1, 2)).clamp_min(1e-6)
    number = (torch.arange(side, device=image.device) + 0.5) * pixel
    x, y = number.expand(side, side), number[:, None].expand(side, side)

    def mean(values: Tensor) -> Tensor:
        return (weight * values).sum((1, 2)) / total

    x, y = x - mean(x)[:, None, None], y - mean(y)[:, None, None]
    xx, xy, yy = mean(x * x), mean(x * y), mean(y * y)
    determinant = (xx * yy - xy * xy).clamp_min(pixel**4)
    # (x, y) S^-1 (x, y)^T / 4 is 1 on the outline.
    form = yy[:, None, None] * x * x - 2 * xy[:, None, None] * x * y + xx[:, None, None] * y * y
    inside = 1 - form / determinant[:, None, None] / 4
    half = 2 * determinant.sqrt().sqrt()
    return 1 - half[:, None, None] * inside.clamp_min(0).sqrt()


def inflated(image: Tensor, fov: float) -> Tensor:
    """A pillow on the mask: a pixel that lies t from the outline stands sqrt(t (2 T - t)) forward.

    T is the largest t. Of a disc it is the half ball.
    """
    masks = (image[:, 3] > 0.5).cpu().numpy()
    reach = np.stack([distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1] for mask in masks])
    most = reach.max(axis=(1, 2), keepdims=True)
    height = np.sqrt(reach * (2 * most - reach)) * _pixel(image.shape[-1], fov)
    return 1 - torch.from_numpy(height).to(image)


def category_guesser(train: Renders) -> Guesser:
    """At each pixel the mean depth of the training views that see something there, else 1.

    `train` has depths, so this looks at the truth that the networks are not given.
    """
    seen = train.depth > 0
    count = seen.sum(0)
    mean = torch.where(count > 0, train.depth.sum(0) / count.clamp_min(1), 1)
    # Views from the left and from the right are equally many.
    mean = (mean + mean.flip(1)) / 2

    def guess(image: Tensor) -> Tensor:
        return mean.to(image).expand(len(image), -1, -1)

    return guess


def _pixel(side: int, fov: float) -> float:
    """A pixel's side at the distance 1."""
    return 2 * math.tan(math.radians(fov) / 2) / side


def baselines(train: Renders | None, fov: float) -> dict[str, Guesser]:
    """All that needs no training; the category's mean where training views have depth."""
    found: dict[str, Guesser] = {
        PLANE: plane,
        ELLIPSOID: lambda image: ellipsoid(image, fov),
        INFLATED: lambda image: inflated(image, fov),
    }
    if train is not None and train.depth.any():
        found[CATEGORY] = category_guesser(train)
    return found
