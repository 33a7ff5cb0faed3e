# SPDX-License-Identifier: MIT
"""Score what models.gan2shape.fit found, after each round, beside all that needs no GAN.

    python -m models.gan2shape.score OUT [--fits OUT ...] [--beside RUN ...]

Each further OUT is another fit of the same images, scored after its last round. Each RUN is one of
models.train with network.name = "gan2shape"; the view network of the first one also says whether
samples turn. Writes results.md, results.csv,
results.json, views.json and pictures into OUT: reconstructions.png and .gif (depth, normals, other
views and lights) and projections.png (pseudo samples and what the GAN made of them).
"""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")  # no display needed

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from models import checkpoint, files
from models import config as configs
from models.build import open_split
from models.config import Config, ConfigError
from models.data.dataset import ReconstructionDataset
from models.data.renders import Renders, read_renders
from models.determinism import deterministic
from models.gan2shape.fit import DEPTHS, SAMPLES, SAVED, STATE
from models.gan2shape.surfaces import Reliefs, Solids, make_surfaces
from models.networks.gan2shape import PhotoGeometric, intrinsics
from models.report import table
from models.tables import TRUE_POSE, short
from models.tasks import gan2shape_pictures
from models.tasks.gan2shape_baselines import baselines, network_guesser
from models.tasks.gan2shape_pictures import Picture
from models.tasks.gan2shape_score import (
    Scored,
    describe_columns,
    judge,
    others,
    tabulate,
    training_views,
    write,
)

METHOD = "GAN2Shape"


class Fitted(NamedTuple):
    """What a run of models.gan2shape.fit has written."""

    folder: Path
    config: Config
    views: list[str]  # their names
    depths: list[Tensor]  # [N, H, W] before and after each round

    @property
    def method(self) -> str:
        """What it is called in the tables."""
        options, words = self.config.fit, [METHOD]
        words += ["on closed surfaces"] if options.start else []
        words += [] if options.prior == "ellipsoid" or options.start else ["from a plane"]
        words += {
            "encoder": [],
            "descent": ["projected by descent"],
            "direction": ["turned along one direction"],
            "none": ["without the GAN"],
            "views": [f"from other views{TRUE_POSE}"],
        }[options.project]
        words += [] if options.w_pose else ["turns as the network likes"]
        words += [] if options.offsets == "mapped" else ["free offsets"]
        words += [] if options.w_offset else ["offsets of any size"]
        words += ["each image alone"] if options.alone else []
        return ", ".join(words)


def read_fitted(folder: Path) -> Fitted:
    """The result of a run, without its networks."""
    config = configs.load(folder / "config.toml")
    with np.load(folder / DEPTHS, allow_pickle=False) as file:
        rounds = len(file.files) - 1
        depths = [torch.from_numpy(file[f"round_{n}"]).float() for n in range(rounds)]
        return Fitted(folder, config, file["views"].tolist(), depths)


@deterministic()
def score(fits: list[Fitted], config: Config) -> Scored:
    """Every round of the first run, the last one of the others, networks and baselines.

    On the views that all of them have fitted; `config` is the first run's.
    """
    data = open_split(config, config.evaluate.split)
    views = read_renders(data, depth=True, normal=True)
    places = {data.name(number): number for number in range(len(data))}
    names = [name for name in fits[0].views if all(name in fit.views for fit in fits[1:])]
    missing = [name for name in names if name not in places]
    if missing or not names:
        lacking = f"view {missing[0]}" if missing else "views that all runs have fitted"
        raise ConfigError(f"data.root: split {data.split!r} has no {lacking}")
    chosen = [places[name] for name in names]
    rows, lens = torch.tensor(chosen), intrinsics(config.data.image_size, config.gan2shape.fov)
    values: dict[str, Tensor] = {}

    def add(name: str, fit: Fitted, depths: Tensor) -> None:
        own = [fit.views.index(view) for view in names]
        values[name] = judge(depths[own], views, rows, lens)

    add(fits[0].method, fits[0], fits[0].depths[-1])
    for number, depths in enumerate(fits[0].depths[:-1]):
        add(f"{fits[0].method}, {f'round {number}' if number else 'start'}", fits[0], depths)
    for fit in fits[1:]:
        add(fit.method, fit, fit.depths[-1])
    networks = others(config, "cpu")
    methods = {name: network_guesser(network) for name, network in networks.items()}
    methods |= baselines(training_views(config), config.gan2shape.fov)
    for name, guesser in methods.items():
        parts = [
            judge(guesser(views.image[part].float() / 255), views, part, lens)
            for part in rows.split(config.evaluate.batch_size)
        ]
        values[name] = torch.cat(parts)
    yaw = torch.rad2deg(views.yaw)
    header = describe(config, data, chosen)
    results = tabulate(config, data, chosen, values, yaw[chosen].abs(), header)
    pictures = pictures_of(fits[0], data, views, chosen)
    told = [{"view": data.name(n), "yaw": short(yaw[n].item())} for n in chosen]
    return Scored(results, told, values, {}, pictures)


def describe(config: Config, data: ReconstructionDataset, chosen: list[int]) -> list[str]:
    """What was scored, and what the columns and methods are."""
    options = config.fit
    return [
        f"Split {config.evaluate.split!r}: {len({data.samples[n][0] for n in chosen})} objects, "
        f"{len(chosen)} views, which were all fitted jointly, without their depth. An item is an "
        "object, with the mean of its views.",
        f"{METHOD}: {options.rounds} rounds; {options.samples} samples of each view and round; "
        f"offsets: {options.offsets}, weight {options.w_offset:g}. The GAN has seen images of the "
        "training objects alone.",
        *describe_columns(config),
    ]


@torch.no_grad()
def pictures_of(
    fit: Fitted, data: ReconstructionDataset, views: Renders, chosen: list[int]
) -> list[Picture]:
    """The fitted networks on six of the images; none where the run has no state."""
    if fit.config.fit.alone or not (fit.folder / STATE).is_file():
        return []
    state = checkpoint.load(fit.folder / STATE, "cpu", SAVED)
    surfaces = make_surfaces(fit.config, "cpu").eval()
    checkpoint.restore(surfaces, state, "surfaces")
    found = []
    for place in np.linspace(0, len(chosen) - 1, min(6, len(chosen))).astype(int).tolist():
        number, name = chosen[place], data.name(chosen[place])
        if isinstance(surfaces, Solids):
            found.append(gan2shape_pictures.picture(surfaces.network, views, number, name))
            continue
        assert isinstance(surfaces, Reliefs)
        image = views.image[number : number + 1].float() / 255
        first = fit.depths[0][fit.views.index(name)][None]
        found.append(gan2shape_pictures.fitted(surfaces, image, first, views, number, name))
    return found


class Turn(NamedTuple):
    """How much of the turn that samples were asked for a view network sees in them."""

    slope: float  # least squares; 1: all of it
    correlation: float


@torch.no_grad()
def turn_of(folder: Path, network: PhotoGeometric) -> dict[str, Turn]:
    """Of pseudo and projected samples of every round."""
    with np.load(folder / SAMPLES, allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}

    def yaw_of(pixels: np.ndarray) -> Tensor:
        image = torch.from_numpy(pixels).flatten(0, -4).float() / 255
        return network.viewpoint(image)[:, 0].view(pixels.shape[:-3])

    own, found = yaw_of(arrays["inverted"])[:, None], {}
    for key in sorted(arrays):
        kind, _, number = key.partition("_")
        if kind in ("pseudo", "projected"):
            asked = torch.from_numpy(arrays[f"yaw_{number}"]).flatten()
            seen = (yaw_of(arrays[key]) - own).flatten()
            slope = ((asked * seen).sum() / asked.square().sum().clamp_min(1e-9)).item()
            both = torch.corrcoef(torch.stack([asked, seen]))[0, 1].item()
            found[f"{kind}, round {number}"] = Turn(slope, both)
    return found


def turns_text(found: dict[str, Turn]) -> str:
    """The part of results.md that says whether samples turn."""
    lines = [[name, f"{turn.slope:.2f}", f"{turn.correlation:.2f}"] for name, turn in found.items()]
    return "\n## Do the samples turn?\n\n" + "\n\n".join([
        "The yaw that the view network of the first run beside sees in samples, counted from the "
        "image's inversion, against the yaw that was asked for: slope of the line through 0, and "
        "correlation.",
        table(["samples", "slope", "correlation"], lines),
    ]) + "\n"  # fmt: skip


def projections(fit: Fitted, config: Config) -> None:
    """projections.png: image, its inversion; pseudo above projected samples of the last round."""
    data = open_split(config, config.evaluate.split)
    views = read_renders(data, depth=False, normal=False)
    places = {data.name(number): number for number in range(len(data))}
    with np.load(fit.folder / SAMPLES, allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    last = max(int(key.split("_")[1]) for key in arrays if key.startswith("pseudo_"))
    pseudo, projected = arrays[f"pseudo_{last}"], arrays[f"projected_{last}"]
    yaw = np.rad2deg(arrays[f"yaw_{last}"])
    few = len(pseudo[0])
    figure, axes = plt.subplots(
        2 * len(pseudo), few + 1, figsize=(1.1 * (few + 1), 2.3 * len(pseudo)),
        layout="constrained", squeeze=False,
    )  # fmt: skip
    for number, row in enumerate(arrays["rows"].tolist()):
        upper, lower = axes[2 * number], axes[2 * number + 1]
        image = views.image[places[fit.views[row]]].numpy()
        for ax, pixels in ((upper[0], image), (lower[0], arrays["inverted"][number])):
            ax.imshow(pixels[:3].transpose(1, 2, 0))
        for column in range(few):
            upper[column + 1].imshow(pseudo[number, column, :3].transpose(1, 2, 0))
            lower[column + 1].imshow(projected[number, column, :3].transpose(1, 2, 0))
            upper[column + 1].set_title(f"{yaw[number, column]:+.0f}°", fontsize=7)
        upper[0].set_ylabel("pseudo", fontsize=7)
        lower[0].set_ylabel("projected", fontsize=7)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
    figure.savefig(fit.folder / "projections.png", dpi=80)
    plt.close(figure)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("models.gan2shape.score", description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="what models.gan2shape.fit has written")
    parser.add_argument("--fits", nargs="*", type=Path, default=[], metavar="OUT")
    parser.add_argument("--beside", nargs="*", default=[], metavar="RUN")
    parser.add_argument(
        "--set", action="extend", nargs="+", default=[], metavar="SECTION.KEY=VALUE"
    )
    args = parser.parse_args(argv)
    try:
        fits = [read_fitted(folder) for folder in (args.folder, *args.fits)]
        config = configs.override(fits[0].config, args.set)
        config = configs.update(config, {"gan2shape": {"beside": " ".join(args.beside)}})
        scored = score(fits, config)
        text = write(scored, args.folder)
        files.write_text(args.folder / "config.toml", configs.dumps(config))
        networks = [one for one in others(config, "cpu").values() if not one.own_view]
        if (args.folder / SAMPLES).is_file():
            if networks:
                text += turns_text(turn_of(args.folder, networks[0]))
                files.write_text(args.folder / "results.md", text)
            projections(fits[0], config)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
