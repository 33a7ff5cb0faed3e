# SPDX-License-Identifier: MIT
"""GAN2Shape: the shape of the objects in images, from a GAN of such images, in three steps.

    python -m models.gan2shape.fit --config models/configs/gan2shape-fit.toml \
        --set data.root=SET --set fit.gan=RUN --out OUT
    python -m models.gan2shape.fit --out OUT --resume

For all views of a split jointly (Pan et al. 2021, section 3; numbers of the steps are theirs):
0. the latent of each image, by descent, since these images are no samples of the GAN;
1. the depth of each image is an ellipsoid in its mask; the albedo network makes images of it;
2. pseudo samples, which are renderings from other views under other lights, are projected onto the
   GAN's images: an encoder gives what is added to the image's latent, held to what the mapping
   network's last layers can give, and small;
3. depth, albedo, view and light networks learn from the projected samples.
Steps 2 and 3 are repeated. Ours: the discriminator's features stand in for a perceptual network's
also in step 3; alpha is a channel; the depth network adds to the ellipsoid; a view is counted from
the image's own, which is known to be level but for the cameras' mean pitch.

OUT gets state.pt (to go on), depths.npz (the depth of each image after each round, 16 bits),
samples.npz (pseudo and projected samples of some images), fit.csv. models.gan2shape.score judges.
"""

import math
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from models import checkpoint, files, log
from models import config as configs
from models.build import open_split
from models.config import Config, ConfigError
from models.data.dataset import ReconstructionDataset
from models.gan2shape import command
from models.gan2shape.stylegan import LAYERS, Discriminator, feature_distance
from models.gan2shape.train_gan import load_gan
from models.networks.base import choose
from models.networks.gan2shape import (
    BACK,
    PRESETS,
    REACH,
    Encoder,
    Hourglass,
    Relief,
    Seen,
    added,
    intrinsics,
    lamp,
    look,
    turn,
)
from models.tasks.gan2shape import image_distance
from models.tasks.gan2shape_baselines import ellipsoid
from models.tasks.gan2shape_score import spread
from pointloss import smoothness

STATE, DEPTHS, SAMPLES = "state.pt", "depths.npz", "samples.npz"
SHOWN, SHOWN_SAMPLES = 12, 6  # images and samples of each in samples.npz
CONE = 1.2  # x and y of a random light (x, y, -1), at most; 50 degrees
MEAN_W = 4096  # latents of which the mean is taken


class Images(NamedTuple):
    """The images that are fitted, on the device."""

    image: Tensor  # [N, 4, H, W] in 0..1
    first: Tensor  # [N, H, W] the first depth
    latent: Tensor  # [N, W, Z]


class Fitted(nn.Module):
    """The networks of steps 1 to 3; depth maps and albedo are in each image's own view."""

    lens: Tensor

    def __init__(self, config: Config):
        super().__init__()
        options, side = config.gan2shape, config.data.image_size
        sizes = choose(PRESETS, config.network.preset)
        self.fov, self.steps = options.fov, sizes.steps
        self.pitch = math.radians((options.lowest + options.highest) / 2)
        self.depth = Hourglass(sizes.width, sizes.code, side, 1)
        self.albedo = Hourglass(sizes.width, sizes.code, side, 3)
        self.view = Encoder(sizes.half, side, 3)
        self.light = Encoder(sizes.half, side, 2)
        self.offset = Encoder(sizes.half, side, config.gan.width)
        self.register_buffer("lens", intrinsics(side, options.fov), persistent=False)

    def depth_of(self, image: Tensor, first: Tensor) -> Tensor:
        """[B, H, W]: the first depth and what the network adds to it, on the mask."""
        inside = image[:, 3] > 0.5
        return torch.where(inside, added(first, self.depth(image)[:, 0]), BACK)

    def pose(self, yaw: Tensor, pitch: Tensor, scale: Tensor) -> Tensor:
        """[B, 3, 4]: the object is turned by yaw about its own vertical, then by pitch.

        Its vertical leans towards the camera by the cameras' mean pitch.
        """
        lean = torch.full_like(pitch, self.pitch)
        zero = torch.zeros_like(pitch)
        matrix = turn(yaw, lean + pitch) @ turn(zero, -lean)
        matrix = matrix * torch.exp(scale)[:, None, None]
        return torch.cat([matrix, zero[:, None, None].expand(-1, 3, 1)], 2)

    def pose_between(self, sample: Tensor, image: Tensor) -> Tensor:
        """The pose that the view network sees in samples, counted from their images'."""
        raw = torch.tanh(self.view(sample) - self.view(image))
        return self.pose(1.4 * raw[:, 0], 0.6 * raw[:, 1], 0.5 * raw[:, 2])

    def light_of(self, image: Tensor) -> Tensor:
        return lamp(1.7 * torch.tanh(self.light(image)))

    def see(self, image: Tensor, depth: Tensor, pose: Tensor, light: Tensor) -> Seen:
        """The surfaces of images in these poses, under these lights."""
        relief = Relief(depth, torch.sigmoid(self.albedo(image)), image[:, 3:])
        return look(relief, pose, light, self.lens, self.fov, self.steps)


def first_depths(config: Config, image: Tensor) -> Tensor:
    """The ellipsoid in each mask, or a plane; what is beside the object lies behind."""
    flat = config.fit.prior == "flat"
    depth = torch.ones_like(image[:, 0]) if flat else ellipsoid(image, config.gan2shape.fov)
    return torch.where(image[:, 3] > 0.5, depth, BACK)


def distance(config: Config, critic: Discriminator, x: Tensor, y: Tensor) -> Tensor:
    """Of images [B, 4, H, W] in 0..1: [B]."""
    weight = config.fit.w_features
    total = image_distance(x, y)
    return total + weight * feature_distance(critic, 2 * x - 1, 2 * y - 1) if weight else total


def as_image(made: Tensor) -> Tensor:
    """What the generator gives, in 0..1."""
    return (made / 2 + 0.5).clamp(0, 1)


def falling(optimiser: torch.optim.Optimizer, lr: float, part: float) -> None:
    """Half a cosine from lr down to a tenth of it."""
    for group in optimiser.param_groups:
        group["lr"] = lr * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * part)))


class Fit:
    """The images, the GAN and the networks; the steps are methods."""

    def __init__(self, config: Config, device: str):
        if not config.fit.gan:
            raise ConfigError("fit.gan: expected the run of models.gan2shape.train_gan")
        gan, self.generator, self.critic = load_gan(Path(config.fit.gan), device)
        if gan.data.image_size != config.data.image_size:
            raise ConfigError(
                f"data.image_size: the GAN's images have {gan.data.image_size} pixels a side"
            )
        self.config = configs.update(config, {"gan": {"width": gan.gan.width}})
        self.device, options = device, config.fit
        torch.manual_seed(config.optim.seed)
        self.data = open_split(config, config.evaluate.split)
        self.chosen = choose_views(self.data, options.objects, options.views)
        image = self.data.images[self.chosen].to(device).float() / 255  # type: ignore[index]
        self.networks = Fitted(self.config).to(device)
        self.images = Images(image, first_depths(config, image), torch.empty(0))
        self.round, self.rows = 0, list[log.Row]()
        self.depths: list[Tensor] = [self.images.first.half().cpu()]
        self.shown: dict[str, np.ndarray] = {}

    def state(self) -> dict[str, Any]:
        return {
            "config": configs.to_dict(self.config),
            "networks": self.networks.state_dict(),
            "latent": self.images.latent,
            "round": self.round,
            "rows": self.rows,
            "depths": self.depths,
            "shown": {key: torch.from_numpy(value) for key, value in self.shown.items()},
        }

    def restore(self, state: dict[str, Any]) -> None:
        checkpoint.restore(self.networks, state, "networks")
        self.images = self.images._replace(latent=state["latent"].to(self.device))
        self.round, self.rows, self.depths = state["round"], state["rows"], state["depths"]
        self.shown = {key: value.cpu().numpy() for key, value in state["shown"].items()}

    def pick(self) -> Tensor:
        """Numbers of a batch of images."""
        return torch.randint(len(self.chosen), (self.config.fit.batch_size,), device=self.device)

    def invert(self) -> None:
        """Step 0: a latent for each layer and image, from the mean one, by Adam."""
        options, images = self.config.fit, self.images.image
        with torch.no_grad():
            z = torch.randn(MEAN_W, self.generator.width, device=self.device)
            w = self.generator.mapping(z)
            mean, deviation = w.mean(0), w.std(0).clamp_min(1e-3)
        latent = mean.expand(len(images), self.generator.codes, -1).clone().requires_grad_(True)
        optimiser = torch.optim.Adam([latent], 0.05)
        sums = 0.0
        for step in range(options.invert_steps):
            falling(optimiser, 0.05, step / options.invert_steps)
            optimiser.zero_grad()
            last = step == options.invert_steps - 1
            for rows in torch.arange(len(images), device=self.device).split(256):
                made = as_image(self.generator.synthesis(latent[rows]))
                off = distance(self.config, self.critic, made, images[rows])
                far = ((latent[rows] - mean) / deviation).square().mean((1, 2))
                (off + 1e-3 * far).sum().backward()
                sums += off.detach().sum().item() if last else 0.0
            optimiser.step()
        self.images = self.images._replace(latent=latent.detach())
        self.tell("invert", sums / len(images))

    def learn_albedo(self) -> None:
        """Step 1: albedo and light make the image, on the first depth, in its own view."""
        net, options = self.networks, self.config.fit
        weights = [*net.albedo.parameters(), *net.light.parameters()]
        optimiser, sums = torch.optim.Adam(weights, options.lr, (0.9, 0.99)), 0.0
        for step in range(options.albedo_steps):
            falling(optimiser, options.lr, step / options.albedo_steps)
            rows = self.pick()
            image = self.images.image[rows]
            still = torch.zeros(len(rows), device=self.device)
            seen = net.see(
                image, self.images.first[rows], net.pose(still, still, still), net.light_of(image)
            )
            loss = distance(self.config, self.critic, seen.image, image).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            if step >= options.albedo_steps - 20:
                sums += loss.item() / min(20, options.albedo_steps)
        self.tell("albedo", sums)

    def random_pose(self, count: int) -> tuple[Tensor, Tensor]:
        """Poses of pseudo samples, and their yaw in radians."""
        options = self.config.fit
        draws = 2 * torch.rand(count, 2, device=self.device) - 1
        yaw, pitch = math.radians(options.yaw) * draws[:, 0], draws[:, 1]
        pitch = math.radians(options.pitch) * pitch
        return self.networks.pose(yaw, pitch, torch.zeros_like(yaw)), yaw

    def pseudo(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Images of these numbers from other views under other lights; and the yaws."""
        net = self.networks
        image = self.images.image[rows]
        pose, yaw = self.random_pose(len(rows))
        shine = CONE * (2 * torch.rand(len(rows), 2, device=self.device) - 1)
        depth = net.depth_of(image, self.images.first[rows])
        return net.see(image, depth, pose, lamp(shine)).image, yaw

    def offset_of(self, sample: Tensor, rows: Tensor) -> Tensor:
        """What is added to the latents of images to make them samples, [B, Z]."""
        net = self.networks
        raw: Tensor = net.offset(sample) - net.offset(self.images.image[rows])
        if self.config.fit.offsets == "free":
            return raw
        mapping, first = self.generator.mapping, LAYERS - self.config.fit.mapped_layers
        zero = torch.zeros(1, self.generator.width, device=self.device)
        middle = mapping.part(zero, 0, first)
        return mapping.part(middle + raw, first) - mapping.part(middle, first)

    def project(self, sample: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The GAN's images that are nearest to samples, as the encoder says; and the offsets."""
        offset = self.offset_of(sample, rows)
        latent = self.images.latent[rows] + offset.unsqueeze(1)
        return as_image(self.generator.synthesis(latent)), offset

    def learn_offsets(self) -> None:
        """Step 2: the encoder of offsets."""
        options, sums = self.config.fit, 0.0
        optimiser = torch.optim.Adam(self.networks.offset.parameters(), options.lr, (0.9, 0.99))
        for step in range(options.offset_steps):
            falling(optimiser, options.lr, step / options.offset_steps)
            rows = self.pick()
            with torch.no_grad():
                sample, _ = self.pseudo(rows)
            made, offset = self.project(sample, rows)
            off = distance(self.config, self.critic, made, sample).mean()
            loss = off + options.w_offset * offset.square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            if step >= options.offset_steps - 20:
                sums += off.item() / min(20, options.offset_steps)
        self.tell("offsets", sums)

    @torch.no_grad()
    def sample(self) -> tuple[Tensor, Tensor]:
        """Projected samples [N * K, 4, H, W] of all images, and their images' numbers [N * K]."""
        numbers = torch.arange(len(self.chosen), device=self.device)
        rows = numbers.repeat_interleave(self.config.fit.samples)
        made = []
        shown = torch.linspace(0, len(numbers) - 1, min(SHOWN, len(numbers))).long()
        shown = shown.to(self.device)
        for part in rows.split(256):
            image, _ = self.pseudo(part)
            made.append(self.project(image, part)[0])
        few = shown.repeat_interleave(SHOWN_SAMPLES)
        image, yaw = self.pseudo(few)
        projected, _ = self.project(image, few)
        for name, value in (("pseudo", image), ("projected", projected)):
            pixels = (255 * value).round().to(torch.uint8).unflatten(0, (-1, SHOWN_SAMPLES))
            self.shown[f"{name}_{self.round + 1}"] = pixels.cpu().numpy()
        self.shown[f"yaw_{self.round + 1}"] = yaw.view(-1, SHOWN_SAMPLES).cpu().numpy()
        self.shown["rows"] = shown.cpu().numpy()
        own = as_image(self.generator.synthesis(self.images.latent[shown]))
        self.shown["inverted"] = (255 * own).round().to(torch.uint8).cpu().numpy()
        return torch.cat(made), rows

    def learn_shape(self, samples: Tensor, owners: Tensor) -> None:
        """Step 3: depth, albedo, view and light from projected samples, and from the images."""
        net, options, sums = self.networks, self.config.fit, 0.0
        parts = (net.depth, net.albedo, net.view, net.light)
        weights = [weight for part in parts for weight in part.parameters()]
        optimiser = torch.optim.Adam(weights, options.lr, (0.9, 0.99))
        own = max(options.batch_size // 8, 1)  # of a batch are the images themselves
        for step in range(options.shape_steps):
            falling(optimiser, options.lr, step / options.shape_steps)
            places = torch.randint(len(samples), (options.batch_size,), device=self.device)
            rows = owners[places]
            image = self.images.image[rows]
            wanted = torch.cat([image[:own], samples[places[own:]]])
            depth = net.depth_of(image, self.images.first[rows])
            seen = net.see(image, depth, net.pose_between(wanted, image), net.light_of(wanted))
            off = distance(self.config, self.critic, seen.image, wanted).mean()
            inside = image[:, 3] > 0.5
            loss = off + options.w_smooth * smoothness(depth, mask=inside) / REACH
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            if step >= options.shape_steps - 20:
                sums += off.item() / min(20, options.shape_steps)
        self.tell("shape", sums)

    @torch.no_grad()
    def depth(self) -> Tensor:
        """The depth of every image, [N, H, W]."""
        parts = zip(self.images.image.split(256), self.images.first.split(256), strict=True)
        return torch.cat([self.networks.depth_of(image, first) for image, first in parts])

    def tell(self, step: str, value: float) -> None:
        if not math.isfinite(value):
            raise FloatingPointError(f"step {step!r} of round {self.round + 1} gave {value}")
        minutes = round((time.monotonic() - self.began) / 60, 3)
        row: log.Row = {"round": self.round + 1, "off": value, "minutes": minutes}
        self.rows.append({"step": len(self.rows) + 1, **row})
        print(step, row, flush=True)

    def run(self, out: Path) -> None:
        """Whatever of the rounds is left."""
        self.began = time.monotonic()
        if not self.images.latent.numel():
            self.invert()
            self.learn_albedo()
            self.save(out)
        while self.round < self.config.fit.rounds:
            self.learn_offsets()
            samples, owners = self.sample()
            self.learn_shape(samples, owners)
            self.depths.append(self.depth().half().cpu())
            self.round += 1
            self.save(out)

    def save(self, out: Path) -> None:
        checkpoint.save(out / STATE, self.state())
        log.write_csv(out / "fit.csv", self.rows)
        names = np.array([self.data.name(number) for number in self.chosen])
        depths = {f"round_{n}": depth.numpy() for n, depth in enumerate(self.depths)}
        with files.replacing(out / DEPTHS) as file:
            np.savez_compressed(file, allow_pickle=False, views=names, **depths)
        with files.replacing(out / SAMPLES) as file:
            np.savez_compressed(file, allow_pickle=False, **self.shown)
        files.write_text(out / "config.toml", configs.dumps(self.config))


def choose_views(data: ReconstructionDataset, objects: int, views: int) -> list[int]:
    """`views` views of each of `objects` objects, spread; 0: all."""
    chosen = spread(data, views)
    owners = sorted({data.samples[number][0] for number in chosen})
    if objects:
        step = max(len(owners) / objects, 1)
        owners = [owners[int(n * step)] for n in range(min(objects, len(owners)))]
    kept = set(owners)
    return [number for number in chosen if data.samples[number][0] in kept]


def work(config: Config, device: str, saved: dict[str, Any] | None, out: Path) -> None:
    """A new run, or the one that was saved."""
    fit = Fit(config, device)
    if saved:
        fit.restore(saved)
    fit.run(out)


def main(argv: list[str] | None = None) -> int:
    wrote = f"{STATE}, {DEPTHS}, {SAMPLES}, fit.csv"
    return command.run(argv, "fit", str(__doc__), STATE, {"config", "networks"}, work, wrote)


if __name__ == "__main__":
    sys.exit(main())
