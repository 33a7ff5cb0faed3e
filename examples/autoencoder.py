# SPDX-License-Identifier: MIT
"""An autoencoder of clouds that trains on EMD, with a price cache.

    python examples/autoencoder.py [--out FOLDER] [--rtol 0.01] [--no-cache]

A PointNet encoder and an MLP decoder on the 168 objects of the repository, a few points each, so
that it takes seconds on a CPU. The price cache starts every sample's matching from its prices of
the last epoch; prices are only a start, so the loss is certified to `rtol` either way. Every eighth
object is held out; their EMD, certified to 0.1 % whatever the training used, is what runs are
compared by. Writes autoencoder.png.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")  # no display needed

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor, nn

from pointloss import EMDLoss, emd

OBJECTS = Path(__file__).parent.parent / "models/data/furniture/ShapeNet_pointclouds"
BATCH = 16


class Autoencoder(nn.Module):
    """Clouds [B, N, 3] to a code [B, 128] and back to clouds [B, points, 3]."""

    def __init__(self, points: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 256)
        )
        self.decoder = nn.Sequential(
            nn.Linear(256, 128),
            nn.ReLU(),
            nn.Linear(128, 512),
            nn.ReLU(),
            nn.Linear(512, 3 * points),
        )

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction; the maximum over the points makes their order irrelevant."""
        return self.decoder(self.encoder(x).amax(dim=1)).unflatten(1, (-1, 3))


class Result(NamedTuple):
    """What a run is worth."""

    held_out: float  # mean EMD of the held-out objects, certified to 0.1 %
    loss_seconds: float  # CPU time of the training's forward losses


def load(points: int, objects: int | None) -> Tensor:
    """The objects' clouds [S, points, 3], a seeded choice of points of each."""
    files = sorted(OBJECTS.glob("*/*/pointcloud_1024.npy"))[:objects]
    clouds = torch.from_numpy(np.stack([np.load(path) for path in files]).astype(np.float32))
    order = torch.rand(clouds.shape[:2], generator=torch.Generator().manual_seed(0)).argsort(1)
    return clouds.gather(1, order[:, :points, None].expand(-1, -1, 3))


def train(
    clouds: Tensor, epochs: int, rtol: float, cache: bool, seed: int
) -> tuple[Autoencoder, list[float], float]:
    """The trained network, its mean loss per epoch, and the CPU seconds that the losses took."""
    torch.manual_seed(seed)
    samples, points = clouds.shape[:2]
    network = Autoencoder(points)
    loss = EMDLoss(rtol=rtol, price_cache=(samples, points) if cache else None)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, 3e-3, total_steps=epochs * -(-samples // BATCH)
    )
    curve, seconds = [], 0.0
    for _ in range(epochs):
        total = 0.0
        for ids in torch.randperm(samples).split(BATCH):
            optimiser.zero_grad()
            made = network(clouds[ids])
            began = time.process_time()
            value = loss(made, clouds[ids], ids) if cache else loss(made, clouds[ids])
            seconds += time.process_time() - began
            value.backward()
            optimiser.step()
            schedule.step()
            total += value.item() * len(ids)
        curve.append(total / samples)
    return network, curve, seconds


def draw(path: Path, curve: list[float], truth: Tensor, made: Tensor) -> None:
    """The loss, and some held-out objects above their reconstructions, from the front."""
    figure = plt.figure(figsize=(12, 4.5), layout="constrained")
    grid = figure.add_gridspec(2, len(truth) + 2)
    panel = figure.add_subplot(grid[:, :2])
    panel.plot(range(1, len(curve) + 1), curve)
    panel.set(xlabel="epoch", title="EMD of the training objects", yscale="log")
    for column in range(len(truth)):
        for row, (name, cloud) in enumerate((("held out", truth), ("made", made))):
            panel = figure.add_subplot(grid[row, column + 2])
            x, y, depth = cloud[column].T
            panel.scatter(x, y, c=depth, s=4, cmap="viridis")
            panel.set(aspect="equal", xticks=[], yticks=[], xlim=(-0.55, 0.55), ylim=(-0.55, 0.55))
            panel.set_title(name, fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> Result:
    """Train, judge, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the picture")
    parser.add_argument("--points", type=int, default=128, help="of each object (at most 1024)")
    parser.add_argument("--objects", type=int, help="the first so many (default: all)")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--rtol", type=float, default=1e-2, help="certified gap of the loss")
    parser.add_argument("--no-cache", action="store_true", help="start every matching anew")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)

    clouds = load(args.points, args.objects)
    held_out = torch.arange(len(clouds)) % 8 == 0
    seen, unseen = clouds[~held_out], clouds[held_out]
    network, curve, seconds = train(seen, args.epochs, args.rtol, not args.no_cache, args.seed)
    with torch.no_grad():
        made = network(unseen)
        value = emd(made, unseen, rtol=1e-3).item()
    draw(args.out / "autoencoder.png", curve, unseen[:6], made[:6])
    print(
        f"rtol {args.rtol:g}: training EMD {curve[-1]:.4f}, held-out EMD {value:.4f}, "
        f"{seconds:.1f} CPU s in the loss"
    )
    print(f"wrote {args.out / 'autoencoder.png'}")
    return Result(value, seconds)


if __name__ == "__main__":
    main()
