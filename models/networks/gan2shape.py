# SPDX-License-Identifier: MIT
"""GAN2Shape's photo-geometric autoencoder: an image -> depth, albedo, view and light.

After a digest of Pan, Dai, Liu, Loy and Luo, "Do 2D GANs Know 3D Shape?" (ICLR 2021), whose
autoencoder is that of Wu, Rupprecht and Vedaldi, "Unsupervised Learning of Probably Symmetric
Deformable 3D Objects" (Unsup3D, CVPR 2020). What its text fixes: four networks give a depth map, an
albedo image, a viewpoint and the direction of a light; the albedo, shaded, on the surface of the
depth map, seen from the viewpoint, has to be the image. The first depth is an ellipsoid.

Ours: the canonical map has the distance from the object's centre in each direction in place of the
depth along one axis, since a depth map from the front has no room for side faces, which most of
these images show; so outlines follow from the shape, which starts as a ball. The albedo starts as
the image's mean colour. A view is a yaw, a pitch, a scale (renderings are taken from where the
object fills the image) and a small move; the yaw of a mirrored image is the other way round.
Outlines hardly tell a yaw from its opposite, so training looks at both.
Ambient and diffuse light are given. The surface is seen by marching along rays (Unsup3D: a
rasteriser). And the sizes.

Frames are those of cameras: x right, y down, z forward. The unit is the camera's distance from the
object's centre, which lies at (0, 0, 1). The canonical camera looks at it from the front.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.base import choose, float32_apply
from pointloss import depth_to_normals, lambert_shading

REACH = 0.25  # depth is 1 +- this; objects of models.data's renderings keep within it
NEAR, FAR = 0.74, 1.22  # between which rays are marched
BACK = 1.15  # depth of what is beside the object
YAW, PITCH = math.radians(80), math.radians(35)  # the furthest that the view network can turn
SCALE, MOVE = 0.7, 0.03  # the largest logarithm of a scale, the furthest move across
AMBIENT = 0.35  # of the lamp; the rest is diffuse. That is how the renderings are lit
RADIUS = 0.075  # of the ball: 57 % of the image's half side at a field of view of 15
PLATE = 0.02  # half thickness of a flat first shape
MEAN_SHADE = 0.75  # of what is seen, about
SOFT = 0.75  # pixels over which an outline is blurred
REFINE = 6  # halvings of the step in which a ray meets the surface, before one of Newton's
LEAST_SLOPE = 0.25  # of depth under the ray, in the gradient: a ray along the surface has none
GROUPS = 8  # of channels


class Preset(NamedTuple):
    """Sizes; widths are multiples of GROUPS."""

    width: int  # channels after the first convolution of the depth and albedo networks
    code: int  # of their narrowest layer
    half: int  # channels after the first convolution of the view and light networks
    steps: int  # samples of a ray


PRESETS = {"full": Preset(32, 128, 32, 18), "tiny": Preset(16, 64, 16, 18)}


class Parts(NamedTuple):
    """What the networks say of a batch of images; maps are over the directions of `towards`."""

    shape: Tensor  # [B, S, S] distance from the centre; with own_view depth in the image's view
    albedo: Tensor  # [B, 3, S, S] 0..1
    view: Tensor  # [B, 5] yaw, pitch (radians), logarithm of the scale, move along x, y
    light: Tensor  # [B, 4] ambient, diffuse, x and y of the light (x, y, -1), image's camera


class Relief(NamedTuple):
    """A depth map with its colours."""

    depth: Tensor  # [B, H, W]
    albedo: Tensor  # [B, 3, H, W] 0..1
    alpha: Tensor  # [B, 1, H, W] 0..1


class Seen(NamedTuple):
    """A surface seen by a camera."""

    image: Tensor  # [B, 4, H, W]: colours on white, alpha
    depth: Tensor  # [B, H, W] along the optical axis; FAR where a ray meets nothing


class Guess(NamedTuple):
    """A forward pass."""

    image: Tensor  # [B, 4, H, W] the reconstruction
    depth: Tensor  # [B, H, W] of the object in the image's own view
    other: Tensor | None  # [B, 4, H, W] with the opposite yaw; in training, as the next one
    flipped: Tensor | None  # [B, 4, H, W] with the maps mirrored
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
    """[S, S]: a ball before a far plane, or ("flat") a plane through the object's centre."""
    if prior == "flat":
        return torch.ones(side, side)
    across = ((torch.arange(side) + 0.5) / side * 2 - 1) * math.tan(math.radians(fov) / 2)
    height = 1 - (across**2 + across[:, None] ** 2) / RADIUS**2
    return torch.where(height > 0, 1 - RADIUS * height.clamp(min=0).sqrt(), BACK)


def first_radius(side: int, prior: str) -> Tensor:
    """[S, S] over the directions of `towards`: a ball, or ("flat") a plate cut out of it."""
    if prior == "flat":
        return (PLATE / towards(side)[..., 2].abs().clamp_min(1e-6)).clamp_max(RADIUS)
    return torch.full((side, side), RADIUS)


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
    """[B, 3, 4] of views [B, 5]: the camera sees canonical X at M (X - c) + c + move.

    c is (0, 0, 1). The first three columns are M, a rotation times a scale; the last is the move.
    """
    matrix = turn(view[:, 0], view[:, 1]) * torch.exp(view[:, 2, None, None])
    return torch.cat([matrix, F.pad(view[:, 3:], (0, 1)).unsqueeze(2)], 2)


def _sample(maps: Tensor, points: Tensor, fov: float, beyond: str = "zeros") -> Tensor:
    """Maps [B, C, H, W] at points [B, N, H, W, 3]: [B, C, N, H, W]; outside 0, or the "border"."""
    grid = points[..., :2] / points[..., 2:] / math.tan(math.radians(fov) / 2)
    return _at(maps, grid, beyond)


def _at(maps: Tensor, grid: Tensor, beyond: str) -> Tensor:
    """Maps [B, C, H, W] at places [B, N, H, W, 2] in -1..1 across them: [B, C, N, H, W]."""
    batch, count, height, width, _ = grid.shape
    found = F.grid_sample(maps, grid.flatten(1, 2), padding_mode=beyond, align_corners=False)
    return found.view(batch, -1, count, height, width)


def towards(side: int) -> Tensor:
    """[S, S, 3]: the directions from the centre that the pixels of a map stand for.

    Lambert's azimuthal equal-area projection of the sphere, around the direction to the canonical
    camera (0, 0, -1); the rim is the opposite one, and what lies beyond stands for the rim.
    """
    number = (torch.arange(side) + 0.5) / side * 2 - 1
    u, v = torch.meshgrid(number, number, indexing="xy")
    square = u.square() + v.square()
    out = square.sqrt().clamp_min(1)
    u, v, square = u / out, v / out, square.clamp_max(1)
    level = 2 * (1 - square).clamp_min(0).sqrt()
    return torch.stack([u * level, v * level, 2 * square - 1], 2)


def _around(maps: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Maps over directions [B, C, S, S] at points [B, N, H, W, 3]: [B, C, N, H, W].

    And the points' distances to the centre, [B, N, H, W].
    """
    x, y, z = points.unbind(-1)
    z = z - 1
    distance = (x.square() + y.square() + z.square() + 1e-12).sqrt()
    # 2 distance (distance - z): at the rim it is 0.
    scale = (2 * distance * (distance - z)).clamp_min(1e-9).rsqrt()
    return _at(maps, torch.stack([x * scale, y * scale], -1), "border"), distance


class Met(NamedTuple):
    """What rays [B, H, W] meet."""

    points: Tensor  # [B, H, W, 3] canonical frame; of a ray that meets nothing, its innermost point
    depth: Tensor  # [B, H, W] of them along the camera's axis; FAR where nothing is met
    hit: Tensor  # bool [B, H, W]
    inside: Tensor  # [B, H, W] how far within the surface the innermost sample is; below 0: outside


# Of points [B, N, H, W, 3] in the canonical frame: how far inside a surface they are, [B, N, H, W].
Inside = Callable[[Tensor], Tensor]


def in_solid(radius: Tensor) -> Inside:
    """How far inside points are of the surface at `radius` [B, S, S] in the map's directions."""

    def inside(points: Tensor) -> Tensor:
        reach, distance = _around(radius.unsqueeze(1), points)
        return reach[:, 0] - distance

    return inside


def under_relief(depth: Tensor, fov: float) -> Inside:
    """How far behind a depth map [B, H, W] points are.

    The surface is the bilinear one through the map's pixels, walls included, and goes on outside
    as it is at the map's edge.
    """

    def inside(points: Tensor) -> Tensor:
        return points[..., 2] - _sample(depth.unsqueeze(1), points, fov, "border")[:, 0]

    return inside


def march(inside: Inside, pose: Tensor, side: int, fov: float, steps: int) -> Met:
    """Where the rays of the camera with `pose` [B, 3, 4] first enter a surface.

    Points and depths are differentiable in whatever `inside` depends on and in the pose (one step
    of Newton's method, from the point that is found by halving).
    """
    focal = 1 / math.tan(math.radians(fov) / 2)
    number = torch.arange(side, device=pose.device, dtype=pose.dtype)
    pixel = ((number + 0.5) / side * 2 - 1) / focal
    x, y = torch.meshgrid(pixel, pixel, indexing="xy")
    ray = torch.stack([x, y, torch.ones_like(x)], 2)
    # The inverse of a rotation times s is its transpose over s^2.
    matrix = pose[:, :, :3]
    back = matrix / matrix[:, :1].square().sum(2, keepdim=True)
    centre = F.pad(torch.ones_like(pose[:, :1, 3]), (2, 0))
    way = torch.einsum("bji,hwj->bhwi", back, ray).unsqueeze(1)
    start = centre - torch.einsum("bji,bj->bi", back, centre + pose[:, :, 3])
    start = start[:, None, None, None]

    def at(s: Tensor) -> Tensor:
        """How far inside rays are at depths s [B, N, H, W]."""
        return inside(s.unsqueeze(-1) * way + start)

    with torch.no_grad():
        places = torch.linspace(NEAR, FAR, steps, device=pose.device, dtype=pose.dtype)
        found = at(places[:, None, None].expand(len(pose), -1, side, side))
        enters = (found[:, 1:] >= 0) & (found[:, :-1] < 0)
        hit, first = enters.any(1), enters.float().argmax(1)
        low = places[first]
        high = low + (FAR - NEAR) / (steps - 1)
        for _ in range(REFINE):
            middle = (low + high) / 2
            within = at(middle.unsqueeze(1))[:, 0] >= 0
            low, high = torch.where(within, low, middle), torch.where(within, middle, high)
        s, small = (low + high) / 2, 0.5 / side / focal
        before, after = at(torch.stack([s - small, s + small], 1)).unbind(1)
        slope = ((after - before) / (2 * small)).clamp(min=LEAST_SLOPE)
        nearest = places[found.argmax(1)]
    left, most = at(torch.stack([s, nearest], 1)).unbind(1)
    off, most_off = left / slope, (high - low) / 2
    # The gradient is that of the whole step, also where its value would leave the interval.
    off = off + (off.clamp(-most_off, most_off) - off).detach()
    s = torch.where(hit, s - off, nearest)
    points = (s.unsqueeze(1).unsqueeze(-1) * way + start)[:, 0]
    return Met(points, torch.where(hit, s, FAR), hit, most)


class PhotoGeometric(nn.Module):
    """See the head of this file.

    Args:
        preset: a key of PRESETS.
        image_size: pixels of an image's side, a power of 2.
        fov: degrees across the images.
        prior: "ellipsoid" (a ball) or "flat", the first shape.
        own_view: the depth map is that of the image's own view: no view is looked for, nothing is
            reconstructed. It is what a supervised depth network is.
        flip: the maps are also seen mirrored, in training.
    """

    start: Tensor
    lens: Tensor
    directions: Tensor
    opposite: Tensor

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
        self.albedo = Hourglass(sizes.width, sizes.code, image_size, 3)
        self.view = Encoder(sizes.half, image_size, 5)
        self.light = Encoder(sizes.half, image_size, 2)
        start = first_depth(image_size, fov, prior) if own_view else first_radius(image_size, prior)
        self.register_buffer("start", start, persistent=False)
        self.register_buffer("lens", intrinsics(image_size, fov), persistent=False)
        opposite = torch.tensor([-1.0, 1, 1, -1, 1])  # of a mirrored view
        self.register_buffer("opposite", opposite, persistent=False)
        self.register_buffer("directions", towards(image_size), persistent=False)

    def parts(self, image: Tensor) -> Parts:
        """What the four networks say of images [B, 4, S, S]: colours on white, alpha."""
        raw = self.depth(image)[:, 0]
        shape = added(self.start, raw) if self.own_view else self.start * torch.exp(torch.tanh(raw))
        # Before anything is learnt the albedo is the mean colour of the object.
        alpha, white = image[:, 3:], 1 - image[:, 3:]
        mean = (image[:, :3] - white).sum((2, 3)) / alpha.sum((2, 3)).clamp_min(1)
        mean = (mean / MEAN_SHADE).clamp(0.02, 0.98).logit()[..., None, None]
        albedo = torch.sigmoid(mean + self.albedo(image))
        light = lamp(1.7 * torch.tanh(self.light(image)))
        return Parts(shape, albedo, self.viewpoint(image), light)

    def viewpoint(self, image: Tensor) -> Tensor:
        """The view [B, 5] of images; of mirrored ones yaw and move across change their sign."""
        raw, mirrored = self.view(torch.cat([image, image.flip(3)])).chunk(2)
        odd, even = torch.tanh(raw - mirrored), torch.tanh(raw + mirrored)
        parts = (YAW * odd[:, 0], PITCH * even[:, 1], SCALE * even[:, 2])
        return torch.stack([*parts, MOVE * odd[:, 3], MOVE * even[:, 4]], 1)

    def see(self, parts: Parts, pose: Tensor, light: Tensor) -> Seen:
        """The surface with another `pose` [B, 3, 4], under another `light` [B, 4]."""
        points = parts.shape.unsqueeze(3) * self.directions
        shade = _shade(_normals(points), pose, light)
        side = parts.shape.shape[-1]
        met = march(in_solid(parts.shape), pose, side, self.fov, self.steps)
        found, _ = _around(parts.albedo * shade.unsqueeze(1), met.points.unsqueeze(1))
        scale = pose[:, 0, :3].norm(dim=1)[:, None, None]
        # The outline is as soft as a pixel, so that there is a gradient.
        pixel = 2 * math.tan(math.radians(self.fov) / 2) / side
        alpha = torch.sigmoid(met.inside * scale / (SOFT * pixel)).unsqueeze(1)
        image = torch.cat([alpha * found[:, :, 0] + (1 - alpha), alpha], 1)
        return Seen(image, met.depth)

    def forward(self, image: Tensor) -> Guess:
        """Take images [B, 4, S, S] apart (colours on white, alpha) and put them together."""
        parts = self.parts(image)
        if self.own_view:
            return Guess(image, parts.shape, None, None, parts)
        with torch.autocast(image.device.type, enabled=False):
            parts = Parts(*(value.float() for value in parts))
            pose = pose_of(parts.view)
            seen = self.see(parts, pose, parts.light)
            if not self.training:
                return Guess(seen.image, seen.depth, None, None, parts)
            other = self.see(parts, pose_of(parts.view * self.opposite), parts.light).image
            flipped = self.see(mirror(parts), pose, parts.light).image if self.flip else None
        return Guess(seen.image, seen.depth, other, flipped, parts)


def mirror(parts: Parts) -> Parts:
    """The maps left for right; view and light stay."""
    return Parts(parts.shape.flip(2), parts.albedo.flip(3), parts.view, parts.light)


def _normals(points: Tensor) -> Tensor:
    """Outward unit normals [B, S, S, 3] of the surface through the points of a map."""
    wide = F.pad(points.permute(0, 3, 1, 2), (1, 1, 1, 1), mode="replicate").permute(0, 2, 3, 1)
    across, along = wide[:, 1:-1, 2:] - wide[:, 1:-1, :-2], wide[:, 2:, 1:-1] - wide[:, :-2, 1:-1]
    return F.normalize(torch.linalg.cross(along, across), dim=-1, eps=1e-9)


def _shade(normals: Tensor, pose: Tensor, light: Tensor) -> Tensor:
    """Brightness [B, H, W] of normals in the frame of the map, under a light of the camera."""
    lit = torch.cat([light[:, 2:], -torch.ones_like(light[:, :1])], 1)
    lit = torch.einsum("bji,bj->bi", pose[:, :, :3], lit)
    return lambert_shading(normals, lit, ambient=light[:, 0], diffuse=light[:, 1])


def look(relief: Relief, pose: Tensor, light: Tensor, lens: Tensor, fov: float, steps: int) -> Seen:
    """A depth map with its albedo, in a pose [B, 3, 4], under a light [B, 4] of the camera."""
    shade = _shade(depth_to_normals(relief.depth, lens), pose, light)
    maps = torch.cat([relief.albedo * shade.unsqueeze(1), relief.alpha], 1)
    met = march(under_relief(relief.depth, fov), pose, relief.depth.shape[-1], fov, steps)
    found = _sample(maps, met.points.unsqueeze(1), fov)[:, :, 0]
    alpha = torch.where(met.hit.unsqueeze(1), found[:, 3:], 0)
    return Seen(torch.cat([alpha * found[:, :3] + (1 - alpha), alpha], 1), met.depth)
