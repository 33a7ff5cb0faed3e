# SPDX-License-Identifier: MIT
"""GAN2Shape's photo-geometric autoencoder: an image -> depth, albedo, view and light.

After a digest of Pan, Dai, Liu, Loy and Luo, "Do 2D GANs Know 3D Shape?" (ICLR 2021), whose
autoencoder is that of Wu, Rupprecht and Vedaldi, "Unsupervised Learning of Probably Symmetric
Deformable 3D Objects" (Unsup3D, CVPR 2020). What its text fixes: four networks give a depth map, an
albedo image, a viewpoint and the direction of a light; the albedo, shaded, on the surface of the
depth map, seen from the viewpoint, has to be the image. The first depth is an ellipsoid.

Ours: the sizes; alpha as a fourth channel of what is read and of what is reconstructed; that depth
is what is added to the first one; that a view is a yaw, a pitch, a scale (renderings are taken from
where the object fills the image) and a small move; that the yaw of a mirrored image is the other
way round; that ambient and diffuse light are given; that the surface is seen by marching along rays
(Unsup3D: a rasteriser), because side faces take few pixels of a map that was made from the front,
and a surface of points would show gaps there.

Frames are those of cameras: x right, y down, z forward. The unit is the camera's distance from the
object's centre, which lies at (0, 0, 1). The canonical camera looks at it from the front.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.base import choose, float32_apply
from pointloss import depth_to_normals, lambert_shading

REACH = 0.25  # depth is 1 +- this; objects of models.data's renderings keep within it
NEAR, FAR = 0.72, 1.30  # between which rays are marched
BACK = 1.15  # depth of what is beside the object
YAW, PITCH = math.radians(80), math.radians(35)  # the furthest that the view network can turn
SCALE, MOVE = 0.7, 0.03  # the largest logarithm of a scale, the furthest move across
AMBIENT = 0.35  # of the lamp; the rest is diffuse. That is how the renderings are lit
RADIUS = 0.075  # of the ellipsoid: 57 % of the image's half side at a field of view of 15
REFINE = 9  # halvings of the step in which a ray meets the surface
LEAST_SLOPE = 0.25  # of depth under the ray, in the gradient: a ray along the surface has none
GROUPS = 8  # of channels


class Preset(NamedTuple):
    """Sizes; widths are multiples of GROUPS."""

    width: int  # channels after the first convolution of the depth and albedo networks
    code: int  # of their narrowest layer
    half: int  # channels after the first convolution of the view and light networks
    steps: int  # samples of a ray


PRESETS = {"full": Preset(32, 128, 32, 32), "tiny": Preset(16, 64, 16, 24)}


class Parts(NamedTuple):
    """What the networks say of a batch of images; canonical maps as the canonical camera sees."""

    depth: Tensor  # [B, H, W] canonical
    albedo: Tensor  # [B, 3, H, W] canonical, 0..1
    alpha: Tensor  # [B, 1, H, W] canonical, 0..1
    view: Tensor  # [B, 5] yaw, pitch (radians), logarithm of the scale, move along x, y
    light: Tensor  # [B, 4] ambient, diffuse, x and y of the light (x, y, -1), image's camera


class Seen(NamedTuple):
    """A surface seen by a camera."""

    image: Tensor  # [B, 4, H, W]: colours on white, alpha
    depth: Tensor  # [B, H, W] along the optical axis; FAR where a ray meets nothing


class Guess(NamedTuple):
    """A forward pass."""

    image: Tensor  # [B, 4, H, W] the reconstruction
    depth: Tensor  # [B, H, W] of the object in the image's own view
    flipped: Tensor | None  # [B, 4, H, W] with the canonical maps mirrored
    parts: Parts


def _down(channels_in: int, channels_out: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels_in, channels_out, 4, 2, 1, bias=False),
        nn.GroupNorm(GROUPS, channels_out),
        nn.LeakyReLU(0.2),
    ]


def _up(channels_in: int, channels_out: int) -> list[nn.Module]:
    return [
        nn.Upsample(scale_factor=2, mode="nearest"),
        nn.Conv2d(channels_in, channels_out, 3, 1, 1, bias=False),
        nn.GroupNorm(GROUPS, channels_out),
        nn.LeakyReLU(0.2),
        nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False),
        nn.GroupNorm(GROUPS, channels_out),
        nn.LeakyReLU(0.2),
    ]


def _near_zero(layer: nn.Conv2d | nn.Linear) -> nn.Module:
    """The layer, whose outputs start near 0."""
    nn.init.normal_(layer.weight, std=1e-3)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _levels(image_size: int) -> int:
    """Halvings from the image's side to 4 pixels."""
    levels = round(math.log2(image_size / 4))
    if levels < 1 or 4 * 2**levels != image_size:
        raise ValueError(f"data.image_size: expected a power of 2 from 8 on, got {image_size}")
    return levels


class Encoder(nn.Module):
    """Image [B, 4, S, S] -> numbers [B, outputs], which start near 0."""

    def __init__(self, width: int, image_size: int, outputs: int):
        super().__init__()
        levels = _levels(image_size)
        widths = [4, *(width * 2 ** min(i, 2) for i in range(levels))]
        layers = [m for a, b in zip(widths, widths[1:], strict=False) for m in _down(a, b)]
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.last = _near_zero(nn.Linear(16 * widths[-1], outputs))

    def forward(self, image: Tensor) -> Tensor:
        return float32_apply(self.last, self.features(2 * image - 1))


class Hourglass(nn.Module):
    """Image [B, 4, S, S] -> map [B, outputs, S, S], which starts near 0; no skips.

    Through a code of one pixel, so that the map need not stand where the image does.
    """

    def __init__(self, width: int, code: int, image_size: int, outputs: int):
        super().__init__()
        levels = _levels(image_size)
        widths = [4, *(width * 2 ** min(i, 2) for i in range(levels))]
        layers = [m for a, b in zip(widths, widths[1:], strict=False) for m in _down(a, b)]
        back = [*widths[:0:-1], width]
        self.features = nn.Sequential(
            *layers,
            nn.Conv2d(widths[-1], code, 4),
            nn.LeakyReLU(0.2),
            nn.ConvTranspose2d(code, widths[-1], 4),
            nn.LeakyReLU(0.2),
            *(m for a, b in zip(back, back[1:], strict=False) for m in _up(a, b)),
        )
        self.last = _near_zero(nn.Conv2d(width, outputs, 5, 1, 2))

    def forward(self, image: Tensor) -> Tensor:
        return float32_apply(self.last, self.features(2 * image - 1))


def intrinsics(side: int, fov: float) -> Tensor:
    """[3, 3] in pixels of a square image of `fov` degrees across."""
    focal = side / 2 / math.tan(math.radians(fov) / 2)
    return torch.tensor([[focal, 0, side / 2], [0, focal, side / 2], [0, 0, 1.0]])


def first_depth(side: int, fov: float, prior: str) -> Tensor:
    """[S, S]: an ellipsoid before a far plane, or ("flat") a plane through the object's centre."""
    if prior == "flat":
        return torch.ones(side, side)
    across = ((torch.arange(side) + 0.5) / side * 2 - 1) * math.tan(math.radians(fov) / 2)
    height = 1 - (across**2 + across[:, None] ** 2) / RADIUS**2
    return torch.where(height > 0, 1 - RADIUS * height.clamp(min=0).sqrt(), BACK)


def lamp(towards: Tensor) -> Tensor:
    """Lights [B, 4] with these x and y [B, 2]."""
    level = torch.full_like(towards[:, :1], AMBIENT)
    return torch.cat([level, 1 - level, towards], 1)


def added(first: Tensor, raw: Tensor) -> Tensor:
    """A first depth and what a network adds to it, within REACH of 1."""
    return 1 + REACH * torch.tanh(((first - 1) / REACH).clamp(-0.9, 0.9).atanh() + raw)


def turn(yaw: Tensor, pitch: Tensor) -> Tensor:
    """[B, 3, 3]: a turn about the vertical by yaw [B], then about the horizontal by pitch [B]."""
    (sin_y, cos_y), (sin_p, cos_p) = ((a.sin(), a.cos()) for a in (yaw, pitch))
    zero, one = torch.zeros_like(sin_y), torch.ones_like(sin_y)
    about_y = torch.stack([cos_y, zero, sin_y, zero, one, zero, -sin_y, zero, cos_y], 1)
    about_x = torch.stack([one, zero, zero, zero, cos_p, -sin_p, zero, sin_p, cos_p], 1)
    return about_x.view(-1, 3, 3) @ about_y.view(-1, 3, 3)


def pose_of(view: Tensor) -> Tensor:
    """[B, 3, 4] of views [B, 5]: X in the canonical frame is M (X - c) + c + move, c = (0, 0, 1).

    The first three columns are M, a rotation times a scale; the last is the move.
    """
    matrix = turn(view[:, 0], view[:, 1]) * torch.exp(view[:, 2, None, None])
    return torch.cat([matrix, F.pad(view[:, 3:], (0, 1)).unsqueeze(2)], 2)


def _sample(maps: Tensor, points: Tensor, focal: float, beyond: str = "zeros") -> Tensor:
    """Maps [B, C, H, W] at points [B, N, H, W, 3]: [B, C, N, H, W]; outside 0, or the "border"."""
    grid = focal * points[..., :2] / points[..., 2:]  # in -1..1 across the map
    batch, count, height, width, _ = grid.shape
    found = F.grid_sample(maps, grid.flatten(1, 2), padding_mode=beyond, align_corners=False)
    return found.view(batch, -1, count, height, width)


def march(depth: Tensor, pose: Tensor, fov: float, steps: int) -> tuple[Tensor, Tensor]:
    """Where the rays of the camera with `pose` [B, 3, 4] meet the surface of `depth` [B, H, W].

    The surface is the bilinear one through the map's pixels, walls included, and goes on outside as
    it is at the map's edge. Returns points
    [B, H, W, 3] in the canonical frame and depths [B, H, W] in the camera's, differentiable in
    depth and pose (one step of Newton's method, from the point that is found by halving), and FAR
    with a point behind everything where a ray meets nothing.
    """
    side, focal = depth.shape[-1], 1 / math.tan(math.radians(fov) / 2)
    number = torch.arange(side, device=depth.device, dtype=depth.dtype)
    pixel = ((number + 0.5) / side * 2 - 1) / focal
    x, y = torch.meshgrid(pixel, pixel, indexing="xy")
    ray = torch.stack([x, y, torch.ones_like(x)], 2)
    # The inverse of a rotation times s is its transpose over s^2.
    matrix = pose[:, :, :3]
    back = matrix / matrix[:, :1].square().sum(2, keepdim=True)
    centre = F.pad(torch.ones_like(pose[:, :1, 3]), (2, 0))
    way = torch.einsum("bji,hwj->bhwi", back, ray)
    start = centre - torch.einsum("bji,bj->bi", back, centre + pose[:, :, 3])
    maps = depth.unsqueeze(1)

    def off(s: Tensor, way: Tensor, start: Tensor, maps: Tensor) -> Tensor:
        """How far behind the surface rays are at depths s [B, N, H, W]; below 0: before it."""
        points = s.unsqueeze(-1) * way.unsqueeze(1) + start[:, None, None, None]
        return points[..., 2] - _sample(maps, points, focal, "border")[:, 0]

    with torch.no_grad():
        places = torch.linspace(NEAR, FAR, steps, device=depth.device, dtype=depth.dtype)
        s = places[:, None, None].expand(len(depth), -1, side, side)
        behind = off(s, way, start, maps) >= 0
        enters = behind[:, 1:] & ~behind[:, :-1]
        hit, first = enters.any(1), enters.float().argmax(1)
        low = places[first]
        high = low + (FAR - NEAR) / (steps - 1)
        for _ in range(REFINE):
            middle = (low + high) / 2
            inside = off(middle.unsqueeze(1), way, start, maps)[:, 0] >= 0
            low, high = torch.where(inside, low, middle), torch.where(inside, middle, high)
        s, small = (low + high) / 2, 0.5 / side / focal
        ends = torch.stack([s - small, s + small], 1)
        before, after = off(ends, way, start, maps).unbind(1)
        slope = ((after - before) / (2 * small)).clamp(min=LEAST_SLOPE)
    left = off(s.unsqueeze(1), way, start, maps)[:, 0]
    # The value of s as it is found, the gradient of Newton's step.
    s = s - (left - left.detach()) / slope
    s = torch.where(hit, s, FAR)
    points = s.unsqueeze(-1) * way + start[:, None, None]
    outside = _behind(points)
    return torch.where(hit.unsqueeze(-1), points, outside), s


def _behind(points: Tensor) -> Tensor:
    """Points that project outside of every map."""
    return torch.cat([torch.full_like(points[..., :2], 9.0), torch.ones_like(points[..., 2:])], -1)


class PhotoGeometric(nn.Module):
    """See the head of this file.

    Args:
        preset: a key of PRESETS.
        image_size: pixels of an image's side, a power of 2.
        fov: degrees across the images.
        prior: "ellipsoid" or "flat", the first depth.
        own_view: the depth map is that of the image's own view: no view is looked for, nothing is
            reconstructed. It is what a supervised depth network is.
        flip: the canonical maps are also seen mirrored, in training.
    """

    start: Tensor
    lens: Tensor
    edge: Tensor

    def __init__(
        self,
        preset: str,
        image_size: int,
        fov: float,
        *,
        prior: str = "ellipsoid",
        own_view: bool = False,
        flip: bool = True,
    ):
        super().__init__()
        sizes = choose(PRESETS, preset)
        if sizes.half % GROUPS or sizes.width % GROUPS:
            raise ValueError(f"widths must be multiples of {GROUPS}")
        self.fov, self.steps, self.own_view, self.flip = fov, sizes.steps, own_view, flip
        self.depth = Hourglass(sizes.width, sizes.code, image_size, 1)
        self.albedo = Hourglass(sizes.width, sizes.code, image_size, 4)
        self.view = Encoder(sizes.half, image_size, 5)
        self.light = Encoder(sizes.half, image_size, 2)
        self.register_buffer("start", first_depth(image_size, fov, prior), persistent=False)
        self.register_buffer("lens", intrinsics(image_size, fov), persistent=False)
        edge = F.pad(torch.zeros(image_size - 2, image_size - 2), (1, 1, 1, 1), value=1.0)
        self.register_buffer("edge", edge.bool(), persistent=False)

    def parts(self, image: Tensor) -> Parts:
        """What the four networks say of images [B, 4, S, S]: colours on white, alpha."""
        depth = added(self.start, self.depth(image)[:, 0])
        paint = self.albedo(image)
        # alpha starts as the ellipsoid's outline, loosely. Nothing at the map's edge, so that
        # objects are made to fit into it.
        outline = torch.where(self.start < 1, 1.0, -1.0)
        alpha = torch.where(self.edge, 0, torch.sigmoid(paint[:, 3:] + outline))
        if not self.own_view:
            # What is no object lies behind: it must not hide parts of one.
            share = (2 * alpha.detach()[:, 0] - 0.5).clamp(0, 1)
            depth = BACK + share * (depth - BACK)
        light = lamp(1.7 * torch.tanh(self.light(image)))
        return Parts(depth, torch.sigmoid(paint[:, :3]), alpha, self.viewpoint(image), light)

    def viewpoint(self, image: Tensor) -> Tensor:
        """The view [B, 5] of images; of mirrored ones yaw and move across change their sign."""
        raw, mirrored = self.view(torch.cat([image, image.flip(3)])).chunk(2)
        odd, even = torch.tanh(raw - mirrored), torch.tanh(raw + mirrored)
        parts = (YAW * odd[:, 0], PITCH * even[:, 1], SCALE * even[:, 2])
        return torch.stack([*parts, MOVE * odd[:, 3], MOVE * even[:, 4]], 1)

    def see(self, parts: Parts, pose: Tensor, light: Tensor) -> Seen:
        """The canonical surface with another `pose` [B, 3, 4], under another `light` [B, 4]."""
        return look(parts, pose, light, self.lens, self.fov, self.steps)

    def forward(self, image: Tensor) -> Guess:
        """Take images [B, 4, S, S] apart (colours on white, alpha) and put them together."""
        parts = self.parts(image)
        if self.own_view:
            return Guess(image, parts.depth, None, parts)
        with torch.autocast(image.device.type, enabled=False):
            parts = Parts(*(value.float() for value in parts))
            pose = pose_of(parts.view)
            seen = self.see(parts, pose, parts.light)
            if not (self.flip and self.training):
                return Guess(seen.image, seen.depth, None, parts)
            mirrored = mirror(parts)
            again = self.see(mirrored, pose, parts.light)
        return Guess(seen.image, seen.depth, again.image, parts)


def mirror(parts: Parts) -> Parts:
    """The canonical maps left for right; view and light stay."""
    maps = (parts.depth.flip(2), parts.albedo.flip(3), parts.alpha.flip(3))
    return Parts(*maps, parts.view, parts.light)


def look(parts: Parts, pose: Tensor, light: Tensor, lens: Tensor, fov: float, steps: int) -> Seen:
    """A surface with its albedo, in a pose [B, 3, 4], under a light [B, 4] of the camera."""
    towards = torch.cat([light[:, 2:], -torch.ones_like(light[:, :1])], 1)
    towards = torch.einsum("bji,bj->bi", pose[:, :, :3], towards)  # the frame of the map
    normals = depth_to_normals(parts.depth, lens)
    shade = lambert_shading(normals, towards, ambient=light[:, 0], diffuse=light[:, 1])
    maps = torch.cat([parts.albedo * shade.unsqueeze(1), parts.alpha], 1)
    points, depth = march(parts.depth, pose, fov, steps)
    found = _sample(maps, points.unsqueeze(1), 1 / math.tan(math.radians(fov) / 2))[:, :, 0]
    alpha = found[:, 3:]
    return Seen(torch.cat([alpha * found[:, :3] + (1 - alpha), alpha], 1), depth)
