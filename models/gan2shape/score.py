# SPDX-License-Identifier: MIT
"""Score what models.gan2shape.fit found, after each round, beside all that needs no GAN.

    python -m models.gan2shape.score OUT [--beside RUN ...]

Each RUN is one of models.train with network.name = "gan2shape". Writes results.md, results.csv,
results.json, views.json and pictures into OUT: reconstructions.png and .gif (depth, normals, other
views and lights) and projections.png (pseudo samples and what the GAN made of them).
"""

import argparse
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no display needed

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from models import checkpoint
from models import config as configs
from models.build import open_split
from models.config import Config, ConfigError
from models.data.dataset import ReconstructionDataset
from models.data.renders import Renders, read_renders
from models.determinism import deterministic
from models.gan2shape.fit import DEPTHS, SAMPLES, STATE, Fitted, first_depths
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


def read_depths(folder: Path, data: ReconstructionDataset) -> tuple[list[int], list[Tensor]]:
    """The views that were fitted, and their depths [N, H, W] before and after each round."""
    with np.load(folder / DEPTHS, allow_pickle=False) as file:
        places = {data.name(number): number for number in range(len(data))}
        missing = [name for name in file["views"].tolist() if name not in places]
        if missing:
            raise ConfigError(f"data.root: split {data.split!r} has no view {missing[0]}")
        rounds = len(file.files) - 1
        depths = [torch.from_numpy(file[f"round_{n}"]).float() for n in range(rounds)]
        return [places[name] for name in file["views"].tolist()], depths


@deterministic()
def score(folder: Path, config: Config) -> Scored:
    """Every round, the runs of gan2shape.beside, and the baselines, on the fitted views."""
    data = open_split(config, config.evaluate.split)
    views = read_renders(data, depth=True, normal=True)
    chosen, depths = read_depths(folder, data)
    rows = torch.tensor(chosen)
    fitted = Fitted(config).eval()
    lens = fitted.lens
    names = ["start", *(f"round {n}" for n in range(1, len(depths)))]
    values = {METHOD: judge(depths[-1], views, rows, lens)}
    rounds = zip(names[:-1], depths[:-1], strict=True)
    values |= {f"{METHOD}, {name}": judge(depth, views, rows, lens) for name, depth in rounds}
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
    options = config.fit
    header = [
        f"Split {config.evaluate.split!r}: {len({data.samples[n][0] for n in chosen})} objects, "
        f"{len(chosen)} views, which were all fitted jointly, without their depth. An item is an "
        "object, with the mean of its views.",
        f"{METHOD}: {options.rounds} rounds; first depth: {options.prior}; offsets: "
        f"{options.offsets}, weight {options.w_offset:g}. The GAN has seen images of the training "
        "objects alone.",
        *describe_columns(config),
    ]
    results = tabulate(config, data, chosen, values, yaw[chosen].abs(), header)
    pictures = pictures_of(folder, config, fitted, data, views, chosen)
    told = [{"view": data.name(n), "yaw": yaw[n].item()} for n in chosen]
    return Scored(results, told, values, {}, pictures)


@torch.no_grad()
def pictures_of(
    folder: Path,
    config: Config,
    fitted: Fitted,
    data: ReconstructionDataset,
    views: Renders,
    chosen: list[int],
) -> list[Picture]:
    """The fitted networks on six of the images; none where OUT has no state."""
    if not (folder / STATE).is_file():
        return []
    state = checkpoint.load(folder / STATE, "cpu", {"networks"})
    checkpoint.restore(fitted, state, "networks")
    found = []
    for place in np.linspace(0, len(chosen) - 1, min(6, len(chosen))).astype(int).tolist():
        number = chosen[place]
        image = views.image[number : number + 1].float() / 255
        depth = fitted.depth_of(image, first_depths(config, image))
        found.append(
            gan2shape_pictures.fitted(fitted, image, depth, views, number, data.name(number))
        )
    return found


def projections(folder: Path, views: Renders, chosen: list[int]) -> None:
    """projections.png: image, its inversion; pseudo above projected samples of the last round."""
    with np.load(folder / SAMPLES, allow_pickle=False) as file:
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
        image = views.image[chosen[row]].numpy()
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
    figure.savefig(folder / "projections.png", dpi=80)
    plt.close(figure)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("models.gan2shape.score", description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="what models.gan2shape.fit has written")
    parser.add_argument("--beside", nargs="*", default=[], metavar="RUN")
    parser.add_argument(
        "--set", action="extend", nargs="+", default=[], metavar="SECTION.KEY=VALUE"
    )
    args = parser.parse_args(argv)
    try:
        config = configs.override(configs.load(args.folder / "config.toml"), args.set)
        config = configs.update(config, {"gan2shape": {"beside": " ".join(args.beside)}})
        scored = score(args.folder, config)
        text = write(scored, args.folder)
        data = open_split(config, config.evaluate.split)
        views = read_renders(data, depth=False, normal=False)
        projections(args.folder, views, read_depths(args.folder, data)[0])
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
