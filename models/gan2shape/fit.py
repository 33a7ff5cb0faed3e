# SPDX-License-Identifier: MIT
"""GAN2Shape: the shape of the objects in images, from a GAN of such images, in three steps.

    python -m models.gan2shape.fit --config models/configs/gan2shape-fit.toml \
        --set data.root=SET fit.gan=RUN --out OUT
    python -m models.gan2shape.fit --out OUT --resume

For all views of a split jointly (Pan et al. 2021, section 3; numbers of the steps are theirs):
0. the latent of each image, by descent, since these images are no samples of the GAN;
1. the depth of each image is an ellipsoid in its mask; the albedo network makes images of it;
2. pseudo samples, which are renderings from other views under other lights, are projected onto the
   GAN's images: an encoder gives what is added to the image's latent, held to what the mapping
   network's last layers can give, and small;
3. depth, albedo, view and light networks learn from the projected samples.
Steps 2 and 3 are repeated. Ours: the discriminator's features stand in for a perceptual network's
also in step 3; alpha is a channel; the depth network adds to the ellipsoid; pseudo samples fill the
image as all images of the set do. fit.start takes the closed surfaces of a run of models.train in
place of the ellipsoid; fit.project asks something else than the encoder.

OUT gets state.pt (to go on), depths.npz (the depth of each image after each round, 16 bits),
samples.npz (pseudo and projected samples of some images), fit.csv. models.gan2shape.score judges.
With fit.alone each image is fitted by networks of its own, in a folder of OUT.
"""

import math
import sys
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from models import checkpoint, files, log
from models import config as configs
from models.build import open_split
from models.config import Config, ConfigError
from models.data.dataset import ReconstructionDataset
from models.gan2shape import command
from models.gan2shape.replay import Replayed
from models.gan2shape.stylegan import LAYERS, Discriminator, Generator, feature_distance
from models.gan2shape.surfaces import Solids, Turned, make_surfaces
from models.gan2shape.train_gan import load_gan
from models.networks.base import choose
from models.networks.gan2shape import PRESETS, Encoder, lamp
from models.step import set_rate
from models.tasks.gan2shape import image_distance
from models.tasks.gan2shape_score import spread

STATE, DEPTHS, SAMPLES = "state.pt", "depths.npz", "samples.npz"
SHOWN, SHOWN_SAMPLES = 12, 6  # images and samples of each in samples.npz
CONE = 1.2  # x and y of a random light (x, y, -1), at most; 50 degrees
MEAN_W = 4096  # latents of which the mean is taken
FAR_LATENT = 1e-3  # weight of an image's squared distance to the mean latent, in deviations
DIRECTION = 3072  # samples by which the direction that turns is found
CHUNK = 192  # images that are inverted, or samples that are projected, at once
SAVED = {"config", "surfaces", "encoder"}
COLUMNS = ("off", "moved", "asked")  # to what was wanted; projected, pseudo samples to the image


class Images(NamedTuple):
    """The images that are fitted, on the device."""

    image: Tensor  # [N, 4, H, W] in 0..1
    first: Tensor  # [N, H, W] the first depth
    latent: Tensor  # [N, W, Z]


def distance(config: Config, critic: Discriminator, x: Tensor, y: Tensor) -> Tensor:
    """Of images [B, 4, H, W] in 0..1: [B]."""
    weight = config.fit.w_features
    total = image_distance(x, y)
    return total + weight * feature_distance(critic, 2 * x - 1, 2 * y - 1) if weight else total


def as_image(made: Tensor) -> Tensor:
    """What the generator gives, in 0..1."""
    return (made / 2 + 0.5).clamp(0, 1)


def unscaled(pose: Tensor) -> Tensor:
    """[B, 3, 3]: the rotations of poses [B, 3, 4]."""
    matrix = pose[:, :, :3]
    found: Tensor = matrix / matrix[:, :1].norm(dim=2, keepdim=True)
    return found


class Samples(NamedTuple):
    """Projected samples."""

    image: Tensor  # [M, 4, H, W] in 0..1
    owner: Tensor  # [M] numbers of their images
    pose: Tensor  # [M, 3, 4] of the pseudo samples


class Offsets:
    """Latents near that of an image that the GAN's mapping network can give.

    Numbers [B, Z], 0 for no change, go through its last fit.mapped_layers layers from the middle of
    what comes before them; or they are free. Either way they count deviations of the GAN's latents.
    """

    def __init__(self, config: Config, generator: Generator, device: str):
        self.mapping = generator.mapping
        self.first = LAYERS - config.fit.mapped_layers if config.fit.offsets == "mapped" else LAYERS
        with torch.no_grad():
            z = torch.randn(MEAN_W, generator.width, device=device)
            z = z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)
            hidden = self.mapping.part(z, 0, self.first)
            self.middle = hidden.mean(0, keepdim=True)
            self.unit = hidden.std(0).clamp_min(1e-3)
            w = self.mapping.part(hidden, self.first)
            self.mean, self.deviation = w.mean(0), w.std(0).clamp_min(1e-3)

    def __call__(self, raw: Tensor) -> Tensor:
        there = self.mapping.part(self.middle + self.unit * raw, self.first)
        return there - self.mapping.part(self.middle, self.first)

    def size(self, offset: Tensor) -> Tensor:
        """Mean squared offset, in deviations."""
        return (offset / self.deviation).square().mean()


class Fit:
    """The images, the GAN and the networks; the steps are methods."""

    def __init__(self, config: Config, device: str, only: Sequence[int] = ()):
        if not config.fit.gan:
            raise ConfigError("fit.gan: expected the run of models.gan2shape.train_gan")
        gan, self.generator, self.critic = load_gan(Path(config.fit.gan), device)
        if gan.data.image_size != config.data.image_size:
            raise ConfigError(
                f"data.image_size: the GAN's images have {gan.data.image_size} pixels a side"
            )
        if config.fit.project == "direction" and not config.fit.start:
            raise ConfigError('fit.project: "direction" needs the view network of fit.start')
        self.config = configs.update(config, {"gan": {"width": gan.gan.width}})
        self.device, options = device, config.fit
        torch.manual_seed(config.optim.seed)
        self.data = open_split(config, config.evaluate.split)
        self.chosen = list(only) or choose_views(self.data, options.objects, options.views)
        image = self.data.images[self.chosen].to(device).float() / 255  # type: ignore[index]
        self.surfaces = make_surfaces(self.config, device)
        sizes = choose(PRESETS, config.network.preset)
        side = config.data.image_size
        self.encoder = Encoder(sizes.half, side, gan.gan.width).to(device)
        self.offsets = Offsets(config, self.generator, device)
        self.siblings = siblings(self.data, self.chosen, options.yaw).to(device)
        self.cameras = torch.stack([self.data.camera(n).extrinsics for n in self.chosen])
        self.cameras = self.cameras[:, :, :3].float().to(device)
        with torch.no_grad():
            self.images = Images(image, self.surfaces.first(image), torch.empty(0))
        self.round, self.rows = 0, list[dict[str, Any]]()
        self.depths: list[Tensor] = [self.images.first.half().cpu()]
        self.shown: dict[str, np.ndarray] = {}

    def state(self) -> dict[str, Any]:
        return {
            "config": configs.to_dict(self.config),
            "surfaces": self.surfaces.state_dict(),
            "encoder": self.encoder.state_dict(),
            "latent": self.images.latent,
            "round": self.round,
            "rows": self.rows,
            "depths": self.depths,
            "shown": {key: torch.from_numpy(value) for key, value in self.shown.items()},
        }

    def restore(self, state: dict[str, Any]) -> None:
        checkpoint.restore(self.surfaces, state, "surfaces")
        checkpoint.restore(self.encoder, state, "encoder")
        self.images = self.images._replace(latent=state["latent"].to(self.device))
        self.round, self.rows, self.depths = state["round"], state["rows"], state["depths"]
        self.shown = {key: value.cpu().numpy() for key, value in state["shown"].items()}

    def pick(self) -> Tensor:
        """Numbers of a batch of images."""
        return torch.randint(len(self.chosen), (self.config.fit.batch_size,), device=self.device)

    def descend(
        self,
        name: str,
        weights: Sequence[Tensor],
        lr: float,
        steps: int,
        compute: Callable[[], tuple[Tensor, Tensor]],
    ) -> float:
        """`steps` of Adam by the first number that `compute` gives; the mean of the last second.

        The rate falls by half a cosine from lr to a tenth of it.
        """
        cuda = self.device.startswith("cuda")
        rate = torch.tensor(lr, device=self.device) if cuda else lr
        optimiser = torch.optim.Adam(weights, rate, (0.9, 0.99), fused=cuda, capturable=cuda)

        def step() -> Tensor:
            loss, told = compute()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            return told.detach()

        replayed = Replayed(step, [optimiser], self.device, self.config.optim.graph)
        last = []
        for number in range(steps):
            part = 0.5 * (1 + math.cos(math.pi * number / steps))
            set_rate(optimiser, lr * (0.1 + 0.9 * part))
            told = replayed()
            last += [told] if number >= steps - 20 else []
        value = torch.stack(last).mean().item() if last else 0.0
        if not math.isfinite(value):
            raise FloatingPointError(f"{name} of round {self.round + 1} gave {value}")
        return value

    def invert(self) -> None:
        """Step 0: a latent for each layer and image, from the mean one."""
        mean, deviation = self.offsets.mean, self.offsets.deviation
        found, off = [], 0.0
        for image in self.images.image.split(CHUNK):
            latent = mean.expand(len(image), self.generator.codes, -1).clone().requires_grad_(True)

            def compute(image: Tensor = image, latent: Tensor = latent) -> tuple[Tensor, Tensor]:
                made = as_image(self.generator.synthesis(latent))
                off = distance(self.config, self.critic, made, image)
                far = ((latent - mean) / deviation).square().mean((1, 2))
                return (off + FAR_LATENT * far).sum(), off.mean()

            steps = self.config.fit.invert_steps
            off += self.descend("invert", [latent], 0.05, steps, compute) * len(image)
            found.append(latent.detach())
        self.images = self.images._replace(latent=torch.cat(found))
        self.tell("invert", off=off / len(self.chosen))

    def learn_albedo(self) -> None:
        """Step 1: albedo and light make the image, on the first depth, in its own view."""
        net, options = self.surfaces, self.config.fit

        def compute() -> tuple[Tensor, Tensor]:
            rows = self.pick()
            image = self.images.image[rows]
            maps = net.maps(image, self.images.first[rows])
            seen = net.see(maps, net.pose(image, image), net.light(image))
            off = distance(self.config, self.critic, seen.image, image).mean()
            return off, off

        off = self.descend("albedo", net.coloured(), options.lr, options.albedo_steps, compute)
        self.tell("albedo", off=off)

    @torch.no_grad()
    def pseudo(self, rows: Tensor) -> tuple[Tensor, Turned]:
        """Images of these numbers from other views under other lights; and which views."""
        net, image = self.surfaces, self.images.image[rows]
        maps = net.maps(image, self.images.first[rows])
        draws = 2 * torch.rand(len(rows), 4, device=self.device) - 1
        turned = net.turned(image, maps, draws[:, :2])
        return net.see(maps, turned.pose, lamp(CONE * draws[:, 2:])).image, turned

    def asked(self, sample: Tensor, rows: Tensor) -> Tensor:
        """What the encoder makes of samples of images, [B, Z]; of an image itself it is 0."""
        raw: Tensor = self.encoder(sample) - self.encoder(self.images.image[rows])
        return raw

    def made(self, raw: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The GAN's images with these offsets from the latents of images; and the offsets."""
        offset = self.offsets(raw)
        latent = self.images.latent[rows] + offset.unsqueeze(1)
        return as_image(self.generator.synthesis(latent)), offset

    def learn_offsets(self) -> None:
        """Step 2: the encoder of offsets."""
        options = self.config.fit

        def compute() -> tuple[Tensor, Tensor]:
            rows = self.pick()
            sample, _ = self.pseudo(rows)
            made, offset = self.made(self.asked(sample, rows), rows)
            off = distance(self.config, self.critic, made, sample).mean()
            size = self.offsets.size(offset)
            return off + options.w_offset * size, torch.stack([off, size]).detach()

        weights = list(self.encoder.parameters())
        self.descend("offsets", weights, options.lr, options.offset_steps, compute)

    def project(self, sample: Tensor, rows: Tensor) -> Tensor:
        """The GAN's images that are nearest to samples, as fit.project has them found."""
        options = self.config.fit
        with torch.no_grad():
            raw = self.asked(sample, rows)
        if options.project == "descent":
            raw.requires_grad_(True)

            def compute() -> tuple[Tensor, Tensor]:
                made, offset = self.made(raw, rows)
                off = distance(self.config, self.critic, made, sample).mean()
                loss = off + options.w_offset * self.offsets.size(offset)
                return len(rows) * loss, off

            self.descend("descent", [raw], 0.05, options.descent_steps, compute)
        with torch.no_grad():
            return self.made(raw.detach(), rows)[0]

    def sample(self) -> Samples:
        """fit.samples projected samples of each image; some are kept for pictures."""
        numbers = torch.arange(len(self.chosen), device=self.device)
        found = []
        for rows in numbers.repeat_interleave(self.config.fit.samples).split(CHUNK):
            found.append(self._sample(rows)[0])
        shown = torch.linspace(0, len(numbers) - 1, min(SHOWN, len(numbers))).long()
        few = shown.to(self.device).repeat_interleave(SHOWN_SAMPLES)
        samples, image, yaw = self._sample(few)
        for name, value in (("pseudo", image), ("projected", samples.image)):
            self.shown[f"{name}_{self.round + 1}"] = pixels(value.unflatten(0, (-1, SHOWN_SAMPLES)))
        self.shown[f"yaw_{self.round + 1}"] = yaw.view(-1, SHOWN_SAMPLES).cpu().numpy()
        self.shown["rows"] = shown.numpy()
        with torch.no_grad():
            own = as_image(self.generator.synthesis(self.images.latent[shown.to(self.device)]))
        self.shown["inverted"] = pixels(own)
        self._measure(samples, image)
        return Samples(*(torch.cat(parts) for parts in zip(*found, strict=True)))

    def _sample(self, rows: Tensor) -> tuple[Samples, Tensor, Tensor]:
        """Samples of images with these numbers, the pseudo samples, and their yaw."""
        image, turned = self.pseudo(rows)
        if self.config.fit.project == "none":
            made = image
        elif self.config.fit.project == "views":
            made, turned = self._beside(rows)
            image = made
        elif self.config.fit.project == "direction":
            latent = self.images.latent[rows] + (turned.yaw[:, None] * self.direction)[:, None]
            with torch.no_grad():
                made = as_image(self.generator.synthesis(latent))
        else:
            made = self.project(image, rows)
        return Samples(made, rows, turned.pose), image, turned.yaw

    @cached_property
    def direction(self) -> Tensor:
        """[Z]: what turns the GAN's images by a radian, by the view network of fit.start.

        Least squares with a ridge from latents to the yaw that is seen, then the shortest way.
        """
        offsets, width = self.offsets, self.generator.width
        latents, yaws = [], []
        with torch.no_grad():
            for _ in range(DIRECTION // CHUNK):
                w = self.generator.mapping(torch.randn(CHUNK, width, device=self.device))
                made = as_image(self.generator.synthesis(self.generator.spread(w)))
                latents.append((w - offsets.mean) / offsets.deviation)
                yaws.append(cast(Solids, self.surfaces).network.viewpoint(made)[:, 0])
            x, yaw = torch.cat(latents), torch.cat(yaws)
            ridge = 0.1 * len(x) * torch.eye(width, device=self.device)
            slope = torch.linalg.solve(x.mT @ x + ridge, x.mT @ (yaw - yaw.mean()))
            found: Tensor = offsets.deviation * slope / slope.square().sum().clamp_min(1e-9)
        return found

    @torch.no_grad()
    def _beside(self, rows: Tensor) -> tuple[Tensor, Turned]:
        """True other views of images with these numbers, and their poses by the true cameras."""
        net, image = self.surfaces, self.images.image[rows]
        draw = torch.randint(self.siblings.shape[1], (len(rows),), device=self.device)
        others = self.siblings[rows, draw]
        turn = self.cameras[others] @ self.cameras[rows].mT
        pose = net.beside(image, net.maps(image, self.images.first[rows]), turn)
        return self.images.image[others], Turned(pose, torch.atan2(turn[:, 0, 2], turn[:, 0, 0]))

    @torch.no_grad()
    def _measure(self, samples: Samples, pseudo: Tensor) -> None:
        """A row: how far projected samples are from pseudo ones, and both from the image."""
        own = as_image(self.generator.synthesis(self.images.latent[samples.owner]))
        off = image_distance(samples.image, pseudo).mean().item()
        moved = image_distance(samples.image, own).mean().item()
        asked = image_distance(pseudo, own).mean().item()
        self.tell("project", off=off, moved=moved, asked=asked)

    def learn_shape(self, samples: Samples) -> None:
        """Step 3: depth, albedo, view and light from projected samples, and from the images."""
        net, options = self.surfaces, self.config.fit
        own = max(options.batch_size // 8, 1)  # of a batch are the images themselves

        def compute() -> tuple[Tensor, Tensor]:
            shape = (options.batch_size,)
            places = torch.randint(len(samples.image), shape, device=self.device)
            rows = samples.owner[places]
            image = self.images.image[rows]
            wanted = torch.cat([image[:own], samples.image[places[own:]]])
            maps = net.maps(image, self.images.first[rows])
            pose = net.pose(wanted, image)
            turned = [unscaled(each) for each in (pose[own:], samples.pose[places[own:]])]
            seen = net.see(maps, pose, net.light(wanted))
            off = distance(self.config, self.critic, seen.image, wanted).mean()
            loss = off + options.w_smooth * net.rough(maps, seen)
            return loss + options.w_pose * (turned[0] - turned[1]).abs().mean(), off

        weights = list(net.parameters())
        off = self.descend("shape", weights, options.lr, options.shape_steps, compute)
        self.tell("shape", off=off)

    @torch.no_grad()
    def depth(self) -> Tensor:
        """The depth of every image, [N, H, W]."""
        parts = zip(self.images.image.split(CHUNK), self.images.first.split(CHUNK), strict=True)
        return torch.cat([self.surfaces.depth(image, first) for image, first in parts])

    def tell(self, step: str, **values: float) -> None:
        """A row of fit.csv; `values` are distances of images, by COLUMNS."""
        minutes = round((time.monotonic() - self.began) / 60, 3)
        row = {"round": self.round + 1, "step": step, "minutes": minutes}
        self.rows.append(row | {name: values.get(name) for name in COLUMNS})
        print(row | values, flush=True)

    def run(self, out: Path) -> None:
        """Whatever of the rounds is left."""
        self.began = time.monotonic()
        if not self.images.latent.numel():
            self.invert()
            self.learn_albedo()
            self.save(out)
        while self.round < self.config.fit.rounds:
            if self.config.fit.project in ("encoder", "descent"):
                self.learn_offsets()
            self.learn_shape(self.sample())
            self.depths.append(self.depth().half().cpu())
            self.round += 1
            self.save(out)

    def save(self, out: Path) -> None:
        checkpoint.save(out / STATE, self.state())
        log.write_csv(out / "fit.csv", self.rows)
        names = [self.data.name(number) for number in self.chosen]
        write_depths(out, names, [depth.numpy() for depth in self.depths])
        with files.replacing(out / SAMPLES) as file:
            np.savez_compressed(file, allow_pickle=False, **self.shown)
        files.write_text(out / "config.toml", configs.dumps(self.config))


def write_depths(out: Path, names: list[str], depths: Sequence[np.ndarray]) -> None:
    """The depths [N, H, W] of views with these names, before and after each round."""
    rounds = {f"round_{n}": depth for n, depth in enumerate(depths)}
    with files.replacing(out / DEPTHS) as file:
        np.savez_compressed(file, allow_pickle=False, views=np.array(names), **rounds)


def pixels(image: Tensor) -> np.ndarray:
    """Images in 0..1 as bytes."""
    found: np.ndarray = (255 * image.clamp(0, 1)).round().to(torch.uint8).cpu().numpy()
    return found


def siblings(data: ReconstructionDataset, chosen: list[int], most: float) -> Tensor:
    """[N, K]: numbers of views of the same object as each, at most `most` degrees of yaw from it.

    Where there is none it is the view itself. Each row repeats its own until it is full.
    """
    owners = torch.tensor([data.samples[number][0] for number in chosen])
    yaw = data.azimuth[chosen]
    apart = ((yaw - yaw[:, None] + 180) % 360 - 180).abs()
    near = (owners == owners[:, None]) & (apart <= most) & ~torch.eye(len(owners), dtype=torch.bool)
    rows = [own.nonzero().flatten().tolist() or [row] for row, own in enumerate(near)]
    longest = max(map(len, rows))
    return torch.tensor([[own[n % len(own)] for n in range(longest)] for own in rows])


def choose_views(data: ReconstructionDataset, objects: int, views: int) -> list[int]:
    """`views` views of each of `objects` objects, spread; 0: all."""
    chosen = spread(data, views)
    owners = sorted({data.samples[number][0] for number in chosen})
    if objects:
        step = max(len(owners) / objects, 1)
        owners = [owners[int(n * step)] for n in range(min(objects, len(owners)))]
    kept = set(owners)
    return [number for number in chosen if data.samples[number][0] in kept]


def fit_alone(config: Config, device: str, out: Path) -> None:
    """Each view by networks of its own, in OUT/0, OUT/1 ...; finished ones stay."""
    data = open_split(config, config.evaluate.split)
    chosen = choose_views(data, config.fit.objects, config.fit.views)
    for place, number in enumerate(chosen):
        folder = out / str(place)
        folder.mkdir(exist_ok=True)
        fit = Fit(config, device, [number])
        if (folder / STATE).is_file():
            fit.restore(checkpoint.load(folder / STATE, device, SAVED))
        fit.run(folder)
    parts = []
    for place in range(len(chosen)):
        with np.load(out / str(place) / DEPTHS, allow_pickle=False) as file:
            parts.append([file[f"round_{n}"] for n in range(config.fit.rounds + 1)])
    depths = [np.concatenate(each) for each in zip(*parts, strict=True)]
    write_depths(out, [data.name(number) for number in chosen], depths)
    files.write_text(out / "config.toml", configs.dumps(fit.config))


def work(config: Config, device: str, saved: dict[str, Any] | None, out: Path) -> None:
    """A new run, or the one that was saved."""
    if config.fit.alone:
        state = dict.fromkeys(SAVED) | {"config": configs.to_dict(config)}
        checkpoint.save(out / STATE, state)  # for --resume; the networks lie in the folders
        fit_alone(config, device, out)
        return
    fit = Fit(config, device)
    if saved:
        fit.restore(saved)
    fit.run(out)


def main(argv: list[str] | None = None) -> int:
    wrote = f"{STATE}, {DEPTHS}, {SAMPLES}, fit.csv"
    return command.run(argv, "fit", str(__doc__), STATE, SAVED, work, wrote)


if __name__ == "__main__":
    sys.exit(main())
