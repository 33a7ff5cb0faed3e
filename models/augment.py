# SPDX-License-Identifier: MIT
"""What is varied of a training batch, on the device."""

from itertools import permutations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config import Augment
from models.data.pairs import Pair
from pointloss import transform_points

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
            paint = swap_colours(paint, order, self.orders)
        paint = recolour(paint, alpha, 1 + o.brightness * _centred(brighter),
                         1 + o.contrast * _centred(harder))  # fmt: skip
        background = _each(torch.where(on_grey < o.background, grey, 1.0))
        return paint + (1 - alpha) * background, points, azimuth


class PairAugmentation(nn.Module):
    """Varies pairs of views of one object, and their pointmaps with them.

    Both views are mirrored or none; they share the order of the colours and the background. Each
    has a brightness, a contrast, a zoom, a shift and a roll of its own, which is another camera in
    the same place: zoom and shift move the pixels alone, a roll turns the camera's frame too. With
    probability `blank` one of the views shows nothing, and its points do not count.

    Nothing here waits for the GPU or copies to it, so a CUDA graph can hold it.
    """

    draws = 5 + 2 * 6  # uniform numbers that each pair needs
    orders: Tensor

    def __init__(self, options: Augment, roll: float, blank: float):
        super().__init__()
        self.options, self.roll, self.blank = options, roll, blank
        orders = torch.tensor(list(permutations(range(3))))
        self.register_buffer("orders", orders, persistent=False)

    def forward(self, pair: Pair, draws: Tensor) -> tuple[Tensor, Pair]:
        """Vary a batch by draws [B, self.draws], uniform in 0..1.

        Returns the images [B, 2, 3, H, W] in 0..1 on their background, and the pair, whose images
        are the objects alone: colours times alpha, and alpha.
        """
        o = self.options
        flip, order, on_grey, grey, blank = draws[:, :5].unbind(1)
        brighter, harder, larger, right, down, roll = (
            draws[:, 5:].unflatten(1, (2, 6)).flatten(0, 1).unbind(1)
        )
        if o.mirror != "none":
            pair = _choose(flip < 0.5, mirror_pair(pair), pair)
        alpha = pair.image[:, :, 3:]
        paint = (pair.image[:, :, :3] - (1 - alpha)).clamp(min=0)
        if o.colours:
            paint = swap_colours(paint.flatten(0, 1), order.repeat_interleave(2), self.orders)
        else:
            paint = paint.flatten(0, 1)
        pair = pair._replace(image=torch.cat([paint, alpha.flatten(0, 1)], 1).unflatten(0, (-1, 2)))
        angle = torch.deg2rad(self.roll * _centred(roll))
        right, down = o.shift * _centred(right), o.shift * _centred(down)
        pair = roll_pair(pair, 1 + o.scale * _centred(larger), right, down, angle)
        hidden = torch.stack([blank < self.blank / 2, 1 - blank < self.blank / 2], 1)
        shown = ~hidden[:, :, None, None]
        pair = pair._replace(image=pair.image * shown.unsqueeze(2), mask=pair.mask & shown)
        paint, alpha = pair.image.flatten(0, 1).split((3, 1), 1)
        factors = (1 + o.brightness * _centred(brighter), 1 + o.contrast * _centred(harder))
        paint = recolour(paint, alpha, *factors)
        background = torch.where(on_grey < o.background, grey, 1.0).repeat_interleave(2)
        image = paint + (1 - alpha) * _each(background)
        return image.unflatten(0, (-1, 2)), pair


def _choose(condition: Tensor, one: Pair, other: Pair) -> Pair:
    """Sample by sample, condition [B]."""
    return Pair(
        *(
            torch.where(condition.view(-1, *[1] * (a.dim() - 1)), a, b)
            for a, b in zip(one, other, strict=True)
        )
    )


def mirror_pair(pair: Pair) -> Pair:
    """What the cameras see of the mirror image of the scene, left and right exchanged."""
    motion = _negate(_negate(pair.motion, 1), 2)
    return Pair(pair.image.flip(4), _negate(pair.points.flip(3), 4), pair.mask.flip(3), motion)


def _negate(values: Tensor, axis: int) -> Tensor:
    """The first entry along an axis with the other sign: of x, y, z it is x."""
    first, others = values.split([1, values.shape[axis] - 1], axis)
    return torch.cat([-first, others], axis)


def roll_pair(pair: Pair, factor: Tensor, right: Tensor, down: Tensor, angle: Tensor) -> Pair:
    """Zoom, shift (parts of half a side) and roll (radians, clockwise) of each view: [2 B] each.

    Colours must be times alpha, so that they may be resampled; points are those of the nearest
    pixel.
    """
    image, mask = pair.image.flatten(0, 1), pair.mask.flatten(0, 1)
    cos, sin = angle.cos(), angle.sin()
    grid = _grid(image, torch.ones_like(factor), right, down)
    x, y = grid.unbind(3)
    cos, sin, factor = (value[:, None, None] for value in (cos, sin, factor))
    grid = torch.stack([cos * x + sin * y, cos * y - sin * x], 3) / factor.unsqueeze(3)
    image = F.grid_sample(image, grid, align_corners=False)
    known = torch.cat([pair.points.flatten(0, 1).permute(0, 3, 1, 2), mask[:, None].float()], 1)
    known = F.grid_sample(known, grid, mode="nearest", align_corners=False)
    points, mask = known[:, :3].permute(0, 2, 3, 1), known[:, 3] > 0.5
    turned = _about_axis(angle).unflatten(0, (-1, 2))  # [B, 2, 3, 3]
    points = transform_points(points.unflatten(0, (-1, 2)), F.pad(turned[:, 0], (0, 1)))
    rotation = turned[:, 0] @ pair.motion[:, :, :3] @ turned[:, 1].mT
    motion = torch.cat([rotation, turned[:, 0] @ pair.motion[:, :, 3:]], 2)
    return Pair(image.unflatten(0, (-1, 2)), points, mask.unflatten(0, (-1, 2)), motion)


def _about_axis(angle: Tensor) -> Tensor:
    """Rotations [N, 3, 3] about z that take x towards y, which points down: clockwise."""
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], 1).view(-1, 3, 3)


def swap_colours(paint: Tensor, order: Tensor, orders: Tensor) -> Tensor:
    """The three colours [B, 3, H, W] in the order that `order` [B] in 0..1 picks of `orders`."""
    chosen = orders[(order * len(orders)).long()]  # [B, 3]
    return paint.gather(1, chosen[:, :, None, None].expand_as(paint))


def recolour(paint: Tensor, alpha: Tensor, brightness: Tensor, contrast: Tensor) -> Tensor:
    """Colours times alpha [B, 3, H, W], made brighter and harder by factors [B] each.

    Contrast is about the object's mean; alpha: [B, 1, H, W].
    """
    brightness, contrast = _each(brightness), _each(contrast)
    mean = paint.sum((1, 2, 3), keepdim=True) / (3 * alpha.sum((1, 2, 3), keepdim=True) + 1e-6)
    paint = paint * contrast + alpha * mean * (brightness - contrast)
    return paint.clamp(min=0).minimum(alpha)


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
