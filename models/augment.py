# SPDX-License-Identifier: MIT
"""What is varied of a training batch, on the device."""

from itertools import permutations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config import Augment

DRAWS = 10  # uniform numbers that each sample needs
MIRROR = {"x": (-1.0, 1.0, 1.0), "z": (1.0, 1.0, -1.0), "none": (1.0, 1.0, 1.0)}


class Augmentation(nn.Module):
    """Mirrors half of the samples; varies place, size, colours and background of each image.

    The flipped image is a view of the object mirrored in x (or z), from the mirrored azimuth (0 is
    on +x, 90 on +z): all are mirrored or none. options.mirror names the axis to the object's side,
    so that its front stays where it is.

    Shift and scale move the image alone. A cloud has its unit and origin from the object's own box,
    so the picture of the same object from a little nearer, or a little off the middle, has the same
    cloud.

    Brightness, contrast and colours are the object's, before it is set on its background. Nothing
    here waits for the GPU or copies to it, so a CUDA graph can hold it.
    """

    sides: Tensor
    orders: Tensor

    def __init__(self, options: Augment):
        super().__init__()
        self.options = options
        sides = torch.tensor([MIRROR[options.mirror], MIRROR["none"]])
        self.register_buffer("sides", sides, persistent=False)
        orders = torch.tensor(list(permutations(range(3))))
        self.register_buffer("orders", orders, persistent=False)

    def forward(
        self, image: Tensor, points: Tensor, azimuth: Tensor, draws: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Vary a batch.

        image: [B, 4, H, W] in 0..1, colours on white and alpha. points: [B, N, 3]. azimuth: [B] in
        degrees (NaN: not known). draws: [B, DRAWS], uniform in 0..1.

        Returns image [B, 3, H, W] in 0..1 on its background, points, azimuth.
        """
        o = self.options
        flip, brighter, harder, larger, right, down, order, on_grey, grey, _ = draws.unbind(1)
        if o.mirror != "none":
            flipped = flip < 0.5
            image = torch.where(_each(flipped), image.flip(3), image)
            points = points * torch.where(flipped[:, None], self.sides[0], self.sides[1])[:, None]
            half = 180 if o.mirror == "x" else 0
            azimuth = torch.where(flipped, half - azimuth, azimuth)
        alpha = image[:, 3:]
        # The object alone: each colour times alpha, which is linear and so may be resampled.
        paint = (image[:, :3] - (1 - alpha)).clamp(min=0)
        if o.scale or o.shift:
            factor = 1 + o.scale * _centred(larger)
            grid = _grid(image, factor, o.shift * _centred(right), o.shift * _centred(down))
            moved = F.grid_sample(torch.cat([paint, alpha], 1), grid, align_corners=False)
            paint, alpha = moved[:, :3], moved[:, 3:]
        if o.colours:
            chosen = self.orders[(order * len(self.orders)).long()]  # [B, 3]
            paint = paint.gather(1, chosen[:, :, None, None].expand_as(paint))
        brightness = _each(1 + o.brightness * _centred(brighter))
        contrast = _each(1 + o.contrast * _centred(harder))
        mean = paint.sum((1, 2, 3), keepdim=True) / (3 * alpha.sum((1, 2, 3), keepdim=True) + 1e-6)
        paint = paint * contrast + alpha * mean * (brightness - contrast)
        paint = paint.clamp(min=0).minimum(alpha)
        background = _each(torch.where(on_grey < o.background, grey, 1.0))
        return paint + (1 - alpha) * background, points, azimuth


def choose_points(cloud: Tensor, points: int, draws: Tensor) -> Tensor:
    """`points` of each dense cloud [B, M, 3], as `draws` [B, DRAWS] say: [B, points, 3].

    The points of a set's clouds are independent of each other, so a run of them from a random place
    on is a fair sample of the surface.
    """
    dense = cloud.shape[1]
    if dense == points:
        return cloud
    first = (draws[:, -1:] * dense).long()  # [B, 1]
    index = (first + torch.arange(points, device=cloud.device)) % dense
    return cloud.gather(1, index[:, :, None].expand(-1, -1, 3))


def _centred(draw: Tensor) -> Tensor:
    return 2 * draw - 1


def _each(value: Tensor) -> Tensor:
    """[B] to be used with [B, C, H, W]."""
    return value[:, None, None, None]


def _grid(image: Tensor, factor: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """Where F.grid_sample finds each pixel of the images enlarged by `factor` [B] and moved.

    `right` and `down` [B] are parts of half a side.
    """
    height, width = image.shape[-2:]
    x, y = (
        (torch.arange(n, device=image.device) * 2 + 1) / n - 1 - shift[:, None]
        for n, shift in ((width, right), (height, down))
    )  # [B, W] and [B, H]
    x, y = x / factor[:, None], y / factor[:, None]
    return torch.stack(torch.broadcast_tensors(x[:, None], y[:, :, None]), dim=3)
