# SPDX-License-Identifier: MIT
"""Train a GAN on the images of one category. It never sees depth.

    python -m models.gan2shape.train_gan --config models/configs/gan2shape-gan.toml \
        --set data.root=SET --out RUN
    python -m models.gan2shape.train_gan --out RUN --resume

RUN gets gan.pt (to go on), generator.pt and discriminator.pt (16 bits, what models.gan2shape.fit
reads), gan.csv, samples.png, and at the end nearest.png: samples, each above the training view that
is nearest to it, mirrored ones included, which shows whether the GAN has learnt images by heart.
"""

import math
import sys
import time
from copy import deepcopy
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from models import checkpoint, log
from models import config as configs
from models.augment import swap_colours
from models.baselines import thumbnails
from models.build import open_split
from models.config import Config, ConfigError
from models.determinism import deterministic
from models.gan2shape import command
from models.gan2shape.replay import Replayed
from models.gan2shape.stylegan import Discriminator, Generator, equalised
from models.step import restore_optimiser

STATE, GENERATOR, CRITIC = "gan.pt", "generator.pt", "discriminator.pt"
SHARED = {"config", "network", "steps"}  # parts of the files of one network
PENALTY_EVERY = 16  # steps between two R1 penalties
SHOWN = 32  # samples in the pictures


class Gan:
    """Both networks, the running mean of the generator, their optimisers, the training images.

    `images` are [S, 4, H, W] uint8, on the device.
    """

    def __init__(self, config: Config, device: str, images: Tensor):
        options, side = config.gan, config.data.image_size
        torch.manual_seed(config.optim.seed)
        self.config, self.device, self.images = config, device, images
        self.orders = torch.tensor(list(permutations(range(3))), device=device)
        self.generator = Generator(side, options.width).to(device)
        self.critic = Discriminator(side, options.width).to(device)
        for network in (self.generator, self.critic):
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.mean = deepcopy(self.generator).requires_grad_(False)
        ratio = PENALTY_EVERY / (PENALTY_EVERY + 1)
        self.optimisers = [
            self._adam(self.generator, options.lr, 0.99),
            self._adam(self.critic, options.lr * ratio, 0.99**ratio),
        ]
        self.steps, self.seconds = 0, 0.0
        # Without and with the penalty.
        self.kinds = [
            Replayed(partial(self.compute, penalised), self.optimisers, device, config.optim.graph)
            for penalised in (False, True)
        ]

    def _adam(self, network: nn.Module, lr: float, keep: float) -> torch.optim.Adam:
        cuda = self.device.startswith("cuda")
        return torch.optim.Adam(
            equalised(network, lr), lr, (0.0, keep), fused=cuda, capturable=cuda
        )

    def state(self) -> dict[str, Any]:
        return {
            "config": configs.to_dict(self.config),
            "generator": self.generator.state_dict(),
            "critic": self.critic.state_dict(),
            "mean": self.mean.state_dict(),
            "optimisers": [one.state_dict() for one in self.optimisers],
            "steps": self.steps,
            "seconds": self.seconds,
        }

    def restore(self, state: dict[str, Any]) -> None:
        for name in ("generator", "critic", "mean"):
            checkpoint.restore(getattr(self, name), state, name)
        for one, saved in zip(self.optimisers, state["optimisers"], strict=True):
            restore_optimiser(one, saved)
        self.steps, self.seconds = state["steps"], state["seconds"]

    def start(self, run: Path) -> None:
        """Go on from the networks of another run, whose optimisers are not known.

        Adam's means of squares are new again after a hundred steps, and it keeps no mean slope.
        """
        states = [checkpoint.load(run / name, self.device, SHARED) for name in (GENERATOR, CRITIC)]
        for network, state in zip(
            (self.generator, self.mean, self.critic), (states[0], *states), strict=True
        ):
            checkpoint.restore(network, state, "network")
        self.steps = states[0]["steps"]

    def fakes(self, count: int) -> Tensor:
        z = torch.randn(count, self.generator.width, device=self.device)
        image: Tensor = self.generator(z)
        return image

    def step(self) -> Tensor:
        """A step of the discriminator, then one of the generator; [4] losses and mean scores."""
        numbers = self.kinds[self.steps % PENALTY_EVERY == 0]()
        self._average()
        self.steps += 1
        return numbers

    def compute(self, penalised: bool) -> Tensor:
        """A step but for the mean generator."""
        shape = (self.config.optim.batch_size,)
        samples = torch.randint(len(self.images), shape, device=self.device)
        real = vary(self.images, samples, self.orders)
        self.critic.requires_grad_(True)
        # No cache: it would outlive a capture.
        autocast = torch.autocast(
            torch.device(self.device).type,
            torch.bfloat16,
            enabled=self.config.optim.precision == "bf16",
            cache_enabled=False,
        )
        with autocast:
            with torch.no_grad():
                fake = self.fakes(len(real))
            on_fake, on_real = self.critic(torch.cat([fake, real])).chunk(2)
            loss = F.softplus(on_fake).mean() + F.softplus(-on_real).mean()
            if penalised:  # R1
                real.requires_grad_(True)
                (slope,) = torch.autograd.grad(self.critic(real).sum(), real, create_graph=True)
                penalty: Tensor = slope.square().sum((1, 2, 3)).mean()
                loss = loss + penalty * (self.config.gan.r1 / 2 * PENALTY_EVERY)
        self.optimisers[1].zero_grad()
        loss.backward()
        self.optimisers[1].step()
        self.critic.requires_grad_(False)
        with autocast:
            wanted = F.softplus(-self.critic(self.fakes(len(real)))).mean()
        self.optimisers[0].zero_grad()
        wanted.backward()
        self.optimisers[0].step()
        return torch.stack([loss, wanted, on_real.mean(), on_fake.mean()]).detach()

    @torch.no_grad()
    def _average(self) -> None:
        """A mean over the last gan.average images, fewer at the start."""
        images = (self.steps + 1) * self.config.optim.batch_size
        half_life = min(self.config.gan.average, 0.05 * images)
        keep = 0.5 ** (self.config.optim.batch_size / max(half_life, 1e-8))
        means = [value.detach() for value in self.mean.parameters()]
        values = [value.detach() for value in self.generator.parameters()]
        torch._foreach_lerp_(means, values, 1 - keep)


def vary(images: Tensor, samples: Tensor, orders: Tensor) -> Tensor:
    """Images [S, 4, H, W] uint8 of these numbers, mirrored and with swapped colours, in -1..1."""
    image = images.index_select(0, samples).float() / 255
    draws = torch.rand(len(samples), 2, device=image.device)
    image = torch.where(draws[:, 0, None, None, None] < 0.5, image.flip(3), image)
    white = 1 - image[:, 3:]
    paint = swap_colours(image[:, :3] - white, draws[:, 1], orders) + white
    return 2 * torch.cat([paint, image[:, 3:]], 1) - 1


def sheet(images: Tensor, columns: int = 8) -> Image.Image:
    """Images [N, 4, H, W] in -1..1 side by side, without their alpha."""
    pixels = ((images[:, :3].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()
    side = pixels.shape[-1]
    pixels = pixels[: len(pixels) // columns * columns]
    rows = pixels.unflatten(0, (-1, columns)).permute(0, 3, 1, 4, 2)
    return Image.fromarray(rows.reshape(-1, columns * side, 3).numpy())


@torch.no_grad()
def nearest(samples: Tensor, images: Tensor, orders: Tensor) -> tuple[Tensor, Tensor]:
    """The training views that look most like samples [N, 4, H, W]; and their distance, [N].

    By thumbnails, over all orders of the colours and both ways round.
    """
    keys = thumbnails((samples[:, :3].clamp(-1, 1) + 1) / 2)
    best = torch.full((len(samples),), torch.inf, device=samples.device)
    found = torch.zeros_like(samples)
    for part in images.split(2048):
        plain = part.float() / 255
        for order in orders:
            for flipped in (False, True):
                varied = torch.cat([plain[:, order], plain[:, 3:]], 1)
                varied = varied.flip(3) if flipped else varied
                distance, place = torch.cdist(keys, thumbnails(varied[:, :3])).min(1)
                closer = distance < best
                best = torch.where(closer, distance, best)
                found[closer] = 2 * varied[place[closer]] - 1
    return found, best


def save(gan: Gan, out: Path, rows: list[log.Row], latents: Tensor) -> None:
    """Everything; the two networks for others in 16 bits."""
    checkpoint.save(out / STATE, gan.state() | {"rows": rows})
    config = {"config": configs.to_dict(gan.config), "steps": gan.steps}
    for name, module in ((GENERATOR, gan.mean), (CRITIC, gan.critic)):
        half = {key: value.half() for key, value in module.state_dict().items()}
        checkpoint.save(out / name, config | {"network": half})
    if rows:
        log.write_csv(out / "gan.csv", rows)
    with torch.no_grad():
        sheet(gan.mean(latents)).save(out / "samples.png")


def train(gan: Gan, out: Path, rows: list[log.Row]) -> None:
    """Until optim.max_minutes or gan.steps."""
    config = gan.config
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(SHOWN, config.gan.width, generator=generator).to(gan.device)
    began, limit = time.monotonic() - gan.seconds, 60 * config.optim.max_minutes
    torch.manual_seed(config.optim.seed * 1_000_003 + gan.steps)
    sums, count = torch.zeros(4, device=gan.device), 0
    while gan.steps < config.gan.steps and not (limit and gan.seconds > limit):
        sums += gan.step()
        count += 1
        over = gan.steps == config.gan.steps
        if gan.steps % config.log.every == 0 or over:
            sums.tolist()  # waits: the time is that of the device
            gan.seconds = time.monotonic() - began
        if gan.steps % config.gan.every == 0 or over or (limit and gan.seconds > limit):
            values = (sums / count).tolist()
            if not all(map(math.isfinite, values)):
                raise FloatingPointError(f"the GAN has diverged in step {gan.steps}: {values}")
            names = ("critic", "generator", "on real", "on fake")
            row = {"step": gan.steps, "minutes": round(gan.seconds / 60, 3)}
            rows.append(row | dict(zip(names, values, strict=True)))
            print(rows[-1], flush=True)
            save(gan, out, rows, latents)
            sums, count = torch.zeros(4, device=gan.device), 0
    save(gan, out, rows, latents)
    with torch.no_grad():
        samples_ = gan.mean(latents)
    found, distance = nearest(samples_, gan.images, gan.orders)
    both = torch.stack([samples_.unflatten(0, (-1, 8)), found.unflatten(0, (-1, 8))], 1)
    sheet(both.flatten(0, 2)).save(out / "nearest.png")
    print(f"nearest training view of samples: distance of thumbnails {distance.mean():.3f}")


def load_gan(run: Path, device: str) -> tuple[Config, Generator, Discriminator]:
    """The networks of a run, fixed, in evaluation mode."""
    states = [checkpoint.load(run / name, device, SHARED) for name in (GENERATOR, CRITIC)]
    own = {section: states[0]["config"][section] for section in ("data", "gan")}
    config = configs.update(Config(), own)
    side, width = config.data.image_size, config.gan.width
    generator, critic = Generator(side, width).to(device), Discriminator(side, width).to(device)
    for network, state in ((generator, states[0]), (critic, states[1])):
        checkpoint.restore(network, state, "network")
        network.eval().requires_grad_(False)
    return config, generator, critic


def work(config: Config, device: str, saved: dict[str, Any] | None, out: Path) -> None:
    """A new run, or the one that was saved."""
    data = open_split(config, config.data.train_split)
    if data.images is None or not len(data):
        raise ConfigError(f"data.root: {data.split!r} of {data.root} is empty or too large")
    gan = Gan(config, device, data.images.to(device))
    if saved:
        gan.restore(saved)
    elif config.gan.start:
        gan.start(Path(config.gan.start))
    with deterministic(config.optim.deterministic):
        train(gan, out, saved["rows"] if saved else [])


def main(argv: list[str] | None = None) -> int:
    wrote = f"{STATE}, {GENERATOR}, {CRITIC}, gan.csv, samples.png, nearest.png"
    return command.run(argv, "train_gan", str(__doc__), STATE, {"config", "rows"}, work, wrote)


if __name__ == "__main__":
    sys.exit(main())
