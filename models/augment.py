# SPDX-License-Identifier: MIT
"""What is varied of a training batch, on the device."""

import torch
from torch import Tensor

from models.config import Augment

DRAWS = 3  # uniform numbers that each sample needs


def augment(
    image: Tensor, points: Tensor, azimuth: Tensor | None, options: Augment, draws: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Mirror half of the samples, jitter brightness and contrast.

    image [B, 3, H, W] in 0..1, points [B, N, 3], azimuth [B] in degrees or None, draws [B, 3]
    uniform in 0..1 -> image, points, azimuth.

    The cloud stands in the object's frame with x to its side. So the flipped image is a view of
    the object mirrored in x, from the mirrored azimuth (0 is on +x): all are mirrored or none.
    """
    if options.mirror:
        flip = draws[:, 0] < 0.5
        image = torch.where(flip[:, None, None, None], image.flip(3), image)
        sides = torch.where(flip[:, None], points.new_tensor([-1, 1, 1]), 1.0)  # [B, 3]
        points = points * sides[:, None]
        if azimuth is not None:
            azimuth = torch.where(flip, 180 - azimuth, azimuth)
    jitter = 2 * draws[:, 1:, None, None, None] - 1  # [B, 2, 1, 1, 1]
    brightness = 1 + options.brightness * jitter[:, 0]
    contrast = 1 + options.contrast * jitter[:, 1]
    mean = image.mean(dim=(1, 2, 3), keepdim=True)
    return ((image - mean) * contrast + mean * brightness).clamp(0, 1), points, azimuth
