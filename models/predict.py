# SPDX-License-Identifier: MIT
"""Reconstruct the objects in your own pictures.

    python -m models.predict chair.png                          RGBA, or a plain background
    python -m models.predict photo.jpg --mask mask.png          white where the object is
    python -m models.predict *.png --weights runs/NAME --samples 32 --out clouds

For every IMAGE, --out gets NAME.ply and NAME.npz (the cloud, and how far each point moves from draw
to draw of the latent), NAME.gif (a turntable), and for all of them predictions.html, a page with
clouds to turn that needs no network. Of a run of gan2shape.toml: NAME.png (depth, normals, albedo,
other views and lights), NAME.gif, NAME.npz and NAME.ply of what the image shows.

Object frame of clouds: y up, centre of the box 0, longest side 1. The
same image and weights give the same files.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from models import files
from models.build import pick_device
from models.cutout import cut_out
from models.data.dataset import on_white
from models.determinism import deterministic
from models.networks.base import Reconstruction
from models.page import Cloud, Shown, page
from models.tasks import gan2shape_predict
from models.turntable import turntable
from models.weights import DEFAULT, Weights, names, open_weights
from pointloss.io import write_ply

OUT = Path("predictions")
PAGE = "predictions.html"
SAMPLES, SEED = 8, 0  # draws of the latent


class Prediction(NamedTuple):
    """What one image gave, on the CPU."""

    points: Tensor  # [N, 3] float32, from the mean of the latent
    spread: Tensor | None  # [N] root of the mean squared distance of a point's draws to their mean
    samples: Tensor | None  # [K, N, 3], a draw of the latent each


@torch.no_grad()
@deterministic()
def predict(
    weights: Weights, image: Tensor, samples: int, truth: Tensor | None = None
) -> Prediction:
    """Reconstruct image [3, S, S], values 0..1, with S the image size of the weights.

    `samples` draws of the latent, 0 for none; a network without a latent has none to draw. Every
    image gets the same draws. A point is told apart by its index, which these networks' last layers
    give a meaning. `truth` [N, 3] is for a network that reads the true cloud, and for no other.
    """
    network = weights.network
    device = next(network.parameters()).device
    image = image.to(device)[None]
    cloud = truth.to(device)[None] if truth is not None and network.reads_points else None
    out: Reconstruction = network(image, cloud)
    points = out.points[0].float().cpu()
    if not (samples and network.latent):
        return Prediction(points, None, None)
    noise = torch.randn(samples, network.latent, generator=torch.Generator().manual_seed(SEED))
    if cloud is not None:
        cloud = cloud.expand(samples, -1, -1)
    drawn = network(image.expand(samples, -1, -1, -1), cloud, noise.to(device)).points
    drawn = drawn.float().cpu()
    spread = (drawn - drawn.mean(dim=0)).square().sum(dim=-1).mean(dim=0).sqrt()
    return Prediction(points, spread, drawn)


def write_npz(path: Path, prediction: Prediction, image: np.ndarray) -> None:
    """Write `points`, the `image` that the network saw, and `spread`, `samples` if there are."""
    arrays = {
        key: value.numpy() for key, value in prediction._asdict().items() if value is not None
    }
    with files.replacing(path) as file:
        np.savez(file, image=image, **arrays)


def run(args: argparse.Namespace) -> list[str]:
    """Do what the command asks; the lines to print."""
    masks: list[Path | None] = list(args.mask) or [None] * len(args.images)
    if len(masks) != len(args.images):
        raise ValueError(f"--mask: expected one for each of {len(args.images)} images")
    stems = [path.stem for path in args.images]
    if twice := [stem for stem, count in Counter(stems).items() if count > 1]:
        raise ValueError(f"two images are called {twice[0]}: their files would be one; rename one")
    device = pick_device(args.device)
    relief = gan2shape_predict.open_network(args.weights, device)
    if relief is not None:
        if args.samples:
            raise ValueError(f"--samples: {args.weights} has no latent to draw; leave it out")
        args.out.mkdir(parents=True, exist_ok=True)
        pictures = dict(zip(args.images, map(cut_out, args.images, masks), strict=True))
        return gan2shape_predict.predict(*relief, pictures, args.out)
    weights = open_weights(args.weights, device)
    if weights.network.reads_points:
        raise ValueError(f"--weights: {weights.name} reads the true cloud; no image gives it one")
    if args.samples and not weights.network.latent:
        raise ValueError(f"--samples: {weights.name} has no latent to draw; leave the option out")
    samples = SAMPLES if args.samples is None else args.samples
    cutouts = [cut_out(path, mask) for path, mask in zip(args.images, masks, strict=True)]
    args.out.mkdir(parents=True, exist_ok=True)
    lines, shown = [], []
    for path, cutout in zip(args.images, cutouts, strict=True):
        pixels = on_white(cutout.image, weights.config.data.image_size)[:3]
        image = torch.from_numpy(pixels).float() / 255
        found = predict(weights, image, samples)
        spread = {} if found.spread is None else {"spread": found.spread.numpy()}
        with files.replacing(args.out / f"{path.stem}.ply") as file:
            write_ply(file, found.points.numpy(), **spread)
        write_npz(args.out / f"{path.stem}.npz", found, pixels)
        turntable(args.out / f"{path.stem}.gif", image, found.points)
        cloud = Cloud(found.points, spread=found.spread)
        shown.append(Shown(path.name, "", image, None, {weights.name: cloud}))
        told = (
            ""
            if found.spread is None
            else f"; spread {found.spread.mean():.3f} of the longest side"
        )
        lines.append(f"{path}: {cutout.how}{told}")
    title = f"Predictions of {weights.name}"
    files.write_text(args.out / PAGE, page(title, [CAPTION], [weights.name], shown))
    return [*lines, f"written: {args.out}/{PAGE} and NAME.ply, NAME.npz, NAME.gif of each image"]


CAPTION = (
    "The image as the network saw it, and the cloud that it gave. Spread: how far a point moves "
    "from draw to draw of the latent, in longest sides of the object."
)


def at_least_0(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number, 0 or more, got {text!r}")
    return int(text)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m models.predict", description=__doc__.split("\n")[0]
    )
    known = ", ".join(names()) or "none"
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    parser.add_argument(
        "--mask", action="append", default=[], type=Path, metavar="FILE",
        help="white where the object is; once for each IMAGE, in their order",
    )  # fmt: skip
    parser.add_argument(
        "--weights", default=DEFAULT, metavar="NAME|RUN",
        help=f"a run, or one of models/weights ({known}); default: {DEFAULT}",
    )  # fmt: skip
    parser.add_argument(
        "--samples", type=at_least_0, metavar="K",
        help=f"draws of the latent; 0: none; default: {SAMPLES} if it has one",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=OUT, help=f"default: {OUT}")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    try:
        lines = run(parser.parse_args(argv))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
