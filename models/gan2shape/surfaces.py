# SPDX-License-Identifier: MIT
"""The surfaces that models.gan2shape.fit fits: depth maps of the images, or closed surfaces.

Both say of images how they look from elsewhere and under another light, with networks that step 3
trains. A pose takes the canonical frame to a camera, see models.networks.gan2shape.
"""

import math
from abc import ABC, abstractmethod
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import checkpoint
from models import config as configs
from models.config import Config, ConfigError
from models.networks.base import choose
from models.networks.gan2shape import (
    BACK,
    FAR,
    PRESETS,
    RADIUS,
    Encoder,
    Guess,
    Hourglass,
    Parts,
    PhotoGeometric,
    Relief,
    Seen,
    added,
    intrinsics,
    lamp,
    look,
    pose_of,
    turn,
)
from models.tasks.gan2shape_baselines import ellipsoid, filled
from models.tasks.gan2shape_score import make
from pointloss import depth_to_points, smoothness

MOVED = 0.1  # how far samples are moved across, at most
RING = 2  # pixels around an object that are as far away as its outline


class Turned(NamedTuple):
    """Poses of pseudo samples."""

    pose: Tensor  # [B, 3, 4]
    yaw: Tensor  # [B] radians, counted from the images' own


class Surfaces(nn.Module, ABC):
    """Of images [B, 4, H, W] and their first depth [B, H, W]; numbers are for each image.

    Args:
        config: [gan2shape] has the cameras' distribution, [fit] how far samples are turned.
    """

    lens: Tensor
    centre: Tensor

    def __init__(self, config: Config):
        super().__init__()
        self.options, self.cameras = config.fit, config.gan2shape
        self.fov = config.gan2shape.fov
        self.register_buffer("lens", intrinsics(config.data.image_size, self.fov), persistent=False)
        self.register_buffer("centre", torch.tensor([0.0, 0.0, 1.0]), persistent=False)

    @abstractmethod
    def first(self, image: Tensor) -> Tensor:
        """[B, H, W]: the depth before anything is fitted."""

    @abstractmethod
    def maps(self, image: Tensor, first: Tensor) -> Any:
        """What of images is the same in all views: what `see` takes."""

    @abstractmethod
    def see(self, maps: Any, pose: Tensor, light: Tensor) -> Seen:
        """The surfaces from elsewhere, under another light."""

    @abstractmethod
    def pose(self, sample: Tensor, image: Tensor) -> Tensor:
        """[B, 3, 4]: from where the view network says that samples of images are seen."""

    @abstractmethod
    def turned(self, image: Tensor, maps: Any, draws: Tensor) -> Turned:
        """Where samples are seen from, by uniform numbers [B, 2] in -1..1."""

    @abstractmethod
    def beside(self, image: Tensor, maps: Any, turn: Tensor) -> Tensor:
        """[B, 3, 4]: poses of cameras that see the images' own turned by `turn` [B, 3, 3]."""

    @abstractmethod
    def standing(self, image: Tensor, maps: Any, pose: Tensor) -> Tensor:
        """The pose, scaled and moved so that the object stands in the view as in its image."""

    @abstractmethod
    def light(self, sample: Tensor) -> Tensor:
        """[B, 4]: the light that the light network sees."""

    @abstractmethod
    def depth(self, image: Tensor, first: Tensor) -> Tensor:
        """[B, H, W]: the depth in the image's own view."""

    @abstractmethod
    def rough(self, maps: Any, seen: Seen) -> Tensor:
        """Mean second derivative of the surface, times RADIUS."""

    @abstractmethod
    def coloured(self) -> list[nn.Parameter]:
        """The weights that step 1 trains: albedo and light."""

    def _bumps(self, depth: Tensor, inside: Tensor) -> Tensor:
        return smoothness(depth, mask=inside) * self.lens[0, 0].square() * RADIUS

    def _standing(self, points: Tensor, known: Tensor, pose: Tensor, image: Tensor) -> Tensor:
        """Poses scaled and moved so that points [B, N, 3] stand in a view as in the image's mask.

        As large, and about the same place: so do the GAN's images, from wherever they are taken.
        `known` [B, N]: points that count.
        """
        focal, mask = self.lens[0, 0], image[:, 3] > 0.5
        number = torch.arange(mask.shape[-1], device=mask.device) + 0.5 - self.lens[0, 2]
        own = torch.stack([torch.where(mask.any(axis), number, torch.nan) for axis in (1, 2)], 1)
        low, high = own.nan_to_num(torch.inf).amin(2), own.nan_to_num(-torch.inf).amax(2)
        away = torch.einsum("bij,bnj->bni", pose[:, :, :3], points - self.centre) + self.centre
        place = away[..., :2] / away[..., 2:] * focal  # pixels
        left = torch.where(known[..., None], place, torch.inf).amin(1)
        right = torch.where(known[..., None], place, -torch.inf).amax(1)
        larger = (high - low).amax(1) / (right - left).amax(1).clamp_min(1)
        larger = torch.where(larger.isfinite(), larger, 1).clamp(0.5, 2)
        move = ((low + high) - larger[:, None] * (left + right)) / 2 / focal
        move = torch.where(move.isfinite(), move, 0).clamp(-MOVED, MOVED)
        scaled = pose[:, :, :3] * larger[:, None, None]
        return torch.cat([scaled, F.pad(move, (0, 1)).unsqueeze(2)], 2)


class Reliefs(Surfaces):
    """Depth maps in each image's own view, that add to a first one, as the document has them.

    A view is counted from the image's own, which is known to be level but for the cameras' mean
    pitch.
    """

    def __init__(self, config: Config):
        super().__init__(config)
        side, sizes = config.data.image_size, choose(PRESETS, config.network.preset)
        self.steps = sizes.steps
        self.lean = math.radians((self.cameras.lowest + self.cameras.highest) / 2)
        self.shape = Hourglass(sizes.width, sizes.code, side, 1)
        self.albedo = Hourglass(sizes.width, sizes.code, side, 3)
        self.view = Encoder(sizes.half, side, 5)
        self.lights = Encoder(sizes.half, side, 2)

    def first(self, image: Tensor) -> Tensor:
        """The ellipsoid in each mask, or a plane; what is beside the object lies behind."""
        flat = self.options.prior == "flat"
        depth = torch.ones_like(image[:, 0]) if flat else ellipsoid(image, self.fov)
        return torch.where(image[:, 3] > 0.5, depth, BACK)

    def maps(self, image: Tensor, first: Tensor) -> Relief:
        return Relief(self.depth(image, first), torch.sigmoid(self.albedo(image)), image[:, 3:])

    def see(self, maps: Relief, pose: Tensor, light: Tensor) -> Seen:
        return look(maps, pose, light, self.lens, self.fov, self.steps)

    def at(self, yaw: Tensor, pitch: Tensor, scale: Tensor) -> Tensor:
        """[B, 3, 4]: the object is turned by yaw about its own vertical, then by pitch.

        Its vertical leans towards the camera by the cameras' mean pitch.
        """
        lean, zero = torch.full_like(pitch, self.lean), torch.zeros_like(pitch)
        matrix = turn(yaw, lean + pitch) @ turn(zero, -lean)
        matrix = matrix * torch.exp(scale)[:, None, None]
        return torch.cat([matrix, zero[:, None, None].expand(-1, 3, 1)], 2)

    def pose(self, sample: Tensor, image: Tensor) -> Tensor:
        raw = torch.tanh(self.view(sample) - self.view(image))
        pose = self.at(1.4 * raw[:, 0], 0.6 * raw[:, 1], 0.5 * raw[:, 2])
        move = F.pad(MOVED * raw[:, 3:], (0, 1)).unsqueeze(2)
        return torch.cat([pose[:, :, :3], move], 2)

    def turned(self, image: Tensor, maps: Relief, draws: Tensor) -> Turned:
        yaw = math.radians(self.options.yaw) * draws[:, 0]
        pitch = math.radians(self.options.pitch) * draws[:, 1]
        return Turned(self.standing(image, maps, self.at(yaw, pitch, torch.zeros_like(yaw))), yaw)

    def beside(self, image: Tensor, maps: Relief, turn: Tensor) -> Tensor:
        return self.standing(image, maps, F.pad(turn, (0, 1)))

    def standing(self, image: Tensor, maps: Relief, pose: Tensor) -> Tensor:
        points = depth_to_points(maps.depth, self.lens).flatten(1, 2)
        return self._standing(points, (image[:, 3] > 0.5).flatten(1), pose, image)

    def light(self, sample: Tensor) -> Tensor:
        return lamp(1.7 * torch.tanh(self.lights(sample)))

    def depth(self, image: Tensor, first: Tensor) -> Tensor:
        """The first depth and what the network adds to it, on the mask; it goes on for RING pixels.

        So the wall to what lies behind has no colour: seen from the side it would be a streak.
        """
        known = image[:, 3] > 0.5
        raw = torch.where(known, self.shape(image)[:, 0], 0)
        # On the whole the object stays where it is: it turns about its first centre.
        mean = raw.sum((1, 2), keepdim=True) / known.sum((1, 2), keepdim=True).clamp_min(1)
        depth = torch.where(known, added(first, raw - mean), 0)
        for _ in range(RING):
            count = F.avg_pool2d(known.to(depth.dtype), 3, 1, 1)
            around = F.avg_pool2d(depth, 3, 1, 1) / count.clamp_min(0.1)
            depth, known = torch.where(known, depth, around), count > 0
        return torch.where(known, depth, BACK)

    def rough(self, maps: Relief, seen: Seen) -> Tensor:
        return self._bumps(maps.depth, maps.alpha[:, 0] > 0.5)

    def coloured(self) -> list[nn.Parameter]:
        return [*self.albedo.parameters(), *self.lights.parameters()]


class Solids(Surfaces):
    """Closed surfaces around the objects' centres, by the networks of a run of models.train.

    Step 3 goes on with them where photo-geometric autoencoding has left them.
    """

    def __init__(self, config: Config, device: str):
        super().__init__(config)
        state = checkpoint.load(checkpoint.choose(config.fit.start), device, checkpoint.SCORED)
        own = configs.update(Config(), state["config"])
        if own.gan2shape.w_depth or own.data.image_size != config.data.image_size:
            raise ConfigError(
                f"fit.start: expected a run without depth on images of {config.data.image_size} "
                f"pixels, got {config.fit.start}"
            )
        self.network: PhotoGeometric = make(own, state, device)

    def first(self, image: Tensor) -> Tensor:
        return self.depth(image, image[:, 0])

    def maps(self, image: Tensor, first: Tensor) -> Parts:
        return self.network.parts(image)

    def see(self, maps: Parts, pose: Tensor, light: Tensor) -> Seen:
        return self.network.see(maps, pose, light)

    def pose(self, sample: Tensor, image: Tensor) -> Tensor:
        return pose_of(self.network.viewpoint(sample))

    def turned(self, image: Tensor, maps: Parts, draws: Tensor) -> Turned:
        cameras, own = self.cameras, maps.view
        most = math.radians(cameras.azimuth)
        yaw = own[:, 0] + math.radians(self.options.yaw) * draws[:, 0]
        pitch = own[:, 1] + math.radians(self.options.pitch) * draws[:, 1]
        yaw = yaw.clamp(-most, most)
        pitch = pitch.clamp(math.radians(cameras.lowest), math.radians(cameras.highest))
        view = torch.stack([yaw, pitch, *own[:, 2:].unbind(1)], 1)
        return Turned(self.standing(image, maps, pose_of(view)), yaw - own[:, 0])

    def beside(self, image: Tensor, maps: Parts, turn: Tensor) -> Tensor:
        own = pose_of(maps.view)
        return self.standing(image, maps, torch.cat([turn @ own[:, :, :3], own[:, :, 3:]], 2))

    def standing(self, image: Tensor, maps: Parts, pose: Tensor) -> Tensor:
        points = (maps.shape.unsqueeze(3) * self.network.directions).flatten(1, 2) + self.centre
        known = torch.ones_like(points[..., 0], dtype=torch.bool)
        return self._standing(points, known, pose, image)

    def light(self, sample: Tensor) -> Tensor:
        return lamp(1.7 * torch.tanh(self.network.light(sample)))

    def depth(self, image: Tensor, first: Tensor) -> Tensor:
        return filled(cast(Guess, self.network(image)), image[:, 3] > 0.5)

    def rough(self, maps: Parts, seen: Seen) -> Tensor:
        return self._bumps(seen.depth, (seen.image[:, 3] > 0.5) & (seen.depth < FAR))

    def coloured(self) -> list[nn.Parameter]:
        return [*self.network.albedo.parameters(), *self.network.light.parameters()]


def make_surfaces(config: Config, device: str) -> Surfaces:
    """Depth maps, or with fit.start the closed surfaces of that run."""
    made = Solids(config, device) if config.fit.start else Reliefs(config)
    return made.to(device)
