# SPDX-License-Identifier: MIT
"""Single images of a category -> depth, albedo, view and light, without 3-D truth."""

import math
from functools import cached_property
from itertools import permutations
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import checkpoint, distributed
from models.augment import swap_colours
from models.batches import Numbered
from models.build import open_split
from models.config import ConfigError
from models.cost import macs_of
from models.data.dataset import ReconstructionDataset
from models.data.renders import Renders, field_of_view, read_renders
from models.networks.gan2shape import FAR, RADIUS, REACH, Guess, PhotoGeometric
from models.tasks import gan2shape_baselines, gan2shape_score
from models.tasks.base import Task
from pointloss import (
    depth_to_normals,
    mean_angle_deviation,
    scale_invariant_depth_error,
    smoothness,
)

SCALES = 3  # resolutions at which images are compared, each half of the one before
DRAWS = 2  # uniform numbers of each sample


class Varied(NamedTuple):
    """A batch as the network sees it."""

    image: Tensor  # [B, 4, H, W] in 0..1: colours on white, alpha
    depth: Tensor  # [B, H, W], 0: nothing is known; only a supervised network looks at it


def image_distance(image: Tensor, truth: Tensor) -> Tensor:
    """Mean absolute difference of [B, C, H, W], and of the images halved once and twice: [B]."""
    total = (image - truth).abs().mean(dim=(1, 2, 3))
    for _ in range(SCALES - 1):
        image, truth = F.avg_pool2d(image, 2), F.avg_pool2d(truth, 2)
        total = total + (image - truth).abs().mean(dim=(1, 2, 3))
    return total


def to_uniform(values: Tensor, low: float, high: float) -> Tensor:
    """Mean distance of a batch's values [B] to those of a uniform sample, paired by rank.

    The Wasserstein distance of the two in one dimension.
    """
    place = (torch.arange(len(values), device=values.device) + 0.5) / len(values)
    return (values.sort().values - (low + (high - low) * place)).abs().mean()


def depth_distance(depth: Tensor, truth: Tensor, lens: Tensor) -> Tensor:
    """What a supervised network is trained with: |log d - log d'| and 1 - cosine of the normals.

    depth: [B, H, W]. truth: likewise, 0: not known. Depths in units of REACH.
    """
    seen = truth > 0
    off = (depth.log() - torch.where(seen, truth, 1).log()).abs() / REACH
    normals = [depth_to_normals(d, lens, mask=seen) for d in (depth, truth)]
    turned = 1 - (normals[0] * normals[1]).sum(-1)
    total = torch.where(seen, off + turned, 0).sum()
    return total / seen.sum().clamp_min(1)


class Lens(nn.Module):
    """The intrinsics [3, 3] of the images' camera, in pixels, for the loss."""

    lens: Tensor

    def __init__(self, lens: Tensor):
        super().__init__()
        self.register_buffer("lens", lens, persistent=False)


class PhotoGeometricTask(Task):
    """GAN2Shape's autoencoder on single images; section [gan2shape] of the config."""

    section: ClassVar[str] = "gan2shape"
    chooses: ClassVar[tuple[str, ...]] = ("val_chosen",)

    @property
    def supervised(self) -> bool:
        return self.config.gan2shape.w_depth > 0

    @property
    def terms(self) -> tuple[str, ...]:
        if self.supervised:
            return ("depth",)
        return tuple(term for term in super().terms if term != "depth")

    @cached_property
    def data(self) -> ReconstructionDataset:
        """The training split."""
        return open_split(self.config, self.config.data.train_split)

    @cached_property
    def train(self) -> Renders:
        views = read_renders(self.data, depth=self.supervised, normal=False)
        return views.to(self.device)

    @cached_property
    def validation(self) -> Renders:
        data = open_split(self.config, self.config.data.val_split)
        return read_renders(data, depth=True, normal=True).to(self.device)

    @cached_property
    def orders(self) -> Tensor:
        return torch.tensor(list(permutations(range(3))), device=self.device)

    def check(self) -> str:
        options = self.config.gan2shape
        data = open_split(self.config, self.config.evaluate.split, images=False)
        if not data.samples:
            raise ConfigError(
                f"evaluate.split: {self.config.evaluate.split!r} of the set holds no images"
            )
        fov = field_of_view(data)
        if not abs(fov - options.fov) < 0.1:
            raise ConfigError(
                f"gan2shape.fov: the set's images are {fov:.4g} degrees across, not "
                f"{options.fov:g}; make it with models.data.prepare --fov {options.fov:g}"
            )
        side = self.config.data.image_size
        macs = macs_of(self.build(), torch.zeros(1, 4, side, side))
        return f"{macs / 1e9:.3f} GMAC an image"

    def build(self) -> PhotoGeometric:
        options = self.config.gan2shape
        return PhotoGeometric(
            self.config.network.preset,
            self.config.data.image_size,
            options.fov,
            prior=options.prior,
            own_view=self.supervised,
            flip=options.w_flipped > 0,
        )

    def batches(self) -> Numbered:
        if not self.data.samples:
            split = self.config.data.train_split
            raise ConfigError(f"data.train_split: {split!r} of the set holds no images")
        self.train, self.validation  # noqa: B018 - opened now, so that a fault shows early
        return Numbered(self.config, self.data, self.device)

    def objective(self, network: nn.Module) -> nn.Module:
        return Lens(cast(PhotoGeometric, network).lens)

    def draw(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> Varied:
        (samples,) = inputs
        image = self.train.image.index_select(0, samples).float() / 255
        depth = self.train.depth.index_select(0, samples)
        # Drawn for the whole batch, so that any number of processes sees the same numbers.
        rows = len(samples) * distributed.world()
        draws = distributed.own_rows(torch.rand(rows, DRAWS, device=self.device))
        if self.config.augment.mirror != "none":
            flipped = draws[:, 0] < 0.5
            image = torch.where(flipped[:, None, None, None], image.flip(3), image)
            depth = torch.where(flipped[:, None, None], depth.flip(2), depth)
        if self.config.augment.colours:
            white = 1 - image[:, 3:]
            paint = swap_colours(image[:, :3] - white, draws[:, 1], self.orders) + white
            image = torch.cat([paint, image[:, 3:]], 1)
        return Varied(image, depth)

    def forward(self, model: nn.Module, batch: Varied) -> Guess:
        out: Guess = model(batch.image)
        return out

    def loss(self, objective: nn.Module, out: Guess, batch: Varied) -> dict[str, Tensor]:
        options = self.config.gan2shape
        if self.supervised:
            depth = depth_distance(out.depth, batch.depth, cast(Lens, objective).lens)
            return {"loss": options.w_depth * depth, "depth": depth}
        view = out.parts.view
        low, high = math.radians(options.lowest), math.radians(options.highest)
        side = math.radians(options.azimuth)
        off = image_distance(out.image, batch.image)
        other = image_distance(cast(Tensor, out.other), batch.image)
        # The surface learns from the better one of a yaw and its opposite, the yaw which one it is.
        found = {
            "image": torch.minimum(off, other).mean(),
            "side": torch.where(other < off, view[:, 0].abs(), 0).mean(),
        }
        if options.w_flipped and out.flipped is not None:
            found["flipped"] = image_distance(out.flipped, batch.image).mean()
        found["view"] = (
            to_uniform(view[:, 0], -side, side)
            + to_uniform(view[:, 1], low, high)
            + view[:, 3:].abs().sum(1).mean()
        )
        # Lights are spread over a cap of the sphere around the camera, where heights are uniform.
        shine = F.normalize(F.pad(out.parts.light[:, 2:], (0, 1), value=1.0), dim=1)
        lowest = math.cos(math.radians(options.light))
        found["light"] = to_uniform(shine[:, 2], lowest, 1) + shine[:, :2].mean(0).abs().sum()
        seen = (out.image[:, 3] > 0.5) & (out.depth < FAR)
        # Second derivatives of the surface: differences over the square of a pixel.
        focal = cast(Lens, objective).lens[0, 0]
        found["smooth"] = smoothness(out.depth, mask=seen) * focal.square() * RADIUS
        terms = {name: found[name] for name in self.terms}
        total = sum(getattr(options, f"w_{name}") * value for name, value in terms.items())
        return {"loss": cast(Tensor, total), **terms}

    @torch.no_grad()
    def validate(self, network: nn.Module) -> dict[str, float]:
        """Over this process's validation views: distance of the images, SIDE x100 and MAD.

        What chooses the best epoch is the images' distance; of a supervised network it is SIDE.
        """
        views = self.validation
        own = torch.arange(distributed.rank(), len(views.image), distributed.world())
        sums = torch.zeros(4, dtype=torch.float64, device=self.device)
        for rows in own.to(self.device).split(self.config.evaluate.batch_size):
            image = views.image[rows].float() / 255
            out: Guess = network(image)
            off = image_distance(out.image, image)
            depth = gan2shape_baselines.filled(out, image[:, 3] > 0.5)
            side = 100 * scale_invariant_depth_error(depth, views.depth[rows], erode=1)
            lens = cast(PhotoGeometric, network).lens
            normals = depth_to_normals(depth, lens, mask=views.depth[rows] > 0)
            angle = mean_angle_deviation(normals, views.normal[rows], erode=1)
            sums += torch.stack([*(v.sum() for v in (off, side, angle)), off.new_tensor(len(rows))])
        off_, side_, angle_, count = distributed.total(sums).tolist()
        if not count:
            return {}
        chosen = side_ if self.supervised else off_
        found = {"val_SIDE": side_, "val_MAD": angle_, "val_image": off_, "val_chosen": chosen}
        return {name: value / count for name, value in found.items()}

    def evaluate(
        self, state: dict[str, Any] | None, out: Path, commit: str | None = None, **options: Any
    ) -> str:
        """See models.tasks.gan2shape_score."""
        network = self.build().to(self.device)
        checkpoint.restore(network, cast("dict[str, Any]", state), "network")
        scored = gan2shape_score.score(
            self.config, network.eval(), cast("dict[str, Any]", state), self.device, commit
        )
        return gan2shape_score.write(scored, out)
