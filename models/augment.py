# SPDX-License-Identifier: MIT
"""What is varied of a training batch, on the device."""

import torch
from torch import Tensor

from models.config import Augment

DRAWS = 3  # uniform numbers that each sample needs


MIRROR = {"x": (-1.0, 1.0, 1.0), "z": (1.0, 1.0, -1.0)}


def augment(
    image: Tensor, points: Tensor, azimuth: Tensor, options: Augment, draws: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Mirror half of the samples, jitter brightness and contrast.

    image [B, 3, H, W] in 0..1, points [B, N, 3], azimuth [B] in degrees (NaN: not known), draws
    [B, 3] uniform in 0..1 -> image, points, azimuth.

    The flipped image is a view of the object mirrored in x (or z), from the mirrored azimuth (0 is
    on +x, 90 on +z): all are mirrored or none. options.mirror names the axis to the object's side,
    so that its front stays where it is.
    """
    if options.mirror != "none":
        flip = draws[:, 0] < 0.5
        image = torch.where(flip[:, None, None, None], image.flip(3), image)
        sides = torch.where(flip[:, None], points.new_tensor(MIRROR[options.mirror]), 1.0)  # [B, 3]
        points = points * sides[:, None]
        azimuth = torch.where(flip, (180 if options.mirror == "x" else 0) - azimuth, azimuth)
    jitter = 2 * draws[:, 1:, None, None, None] - 1  # [B, 2, 1, 1, 1]
    brightness = 1 + options.brightness * jitter[:, 0]
    contrast = 1 + options.contrast * jitter[:, 1]
    mean = image.mean(dim=(1, 2, 3), keepdim=True)
    return ((image - mean) * contrast + mean * brightness).clamp(0, 1), points, azimuth
