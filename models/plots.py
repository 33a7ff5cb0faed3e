# SPDX-License-Identifier: MIT
"""Pictures of a run: the loss curves, and a grid of input | true clouds | reconstructions.

python -m models.plots runs/NAME        draws loss_curves.png again from metrics.csv
"""

import csv
import sys
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")  # no display needed

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from models import log
from models.data.dataset import View
from models.losses import TERMS

# (title, axis across, its sign, axis that points at the viewer, its sign). y is up, front is +z.
Side = tuple[str, int, int, int, int]
SIDES: tuple[Side, ...] = (("front", 0, 1, 2, 1), ("side", 2, -1, 0, 1))
REACH = 0.55  # of what is drawn from the centre on: clouds have a longest side of 1, centre 0


class Picture(NamedTuple):
    """One reconstruction to look at."""

    image: Tensor  # [3, H, W] in 0..1
    truth: Tensor  # [N, 3]
    prediction: Tensor  # [N, 3]
    camera: View  # of the image; NaN if nobody tells
    label: str


class Pictures(NamedTuple):
    """The rows of the grid; `note` says what the numbers in their labels are."""

    rows: list[Picture]
    note: str


def loss_curves(metrics: Path, picture: Path) -> None:
    """Draw metrics.csv: the training losses by epoch, and the validation clouds' distances."""
    with open(metrics, newline="", encoding="utf-8") as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    epochs = [row["epoch"] for row in rows]
    others = {"epoch", "lr", "loss", *log.TIMES}
    found = dict.fromkeys(key.removeprefix("val_") for key in rows[0] if key not in others)
    keys = [*(key for key in TERMS if key in found), *(key for key in found if key not in TERMS)]
    figure, (axes,) = plt.subplots(
        1, len(keys), figsize=(4 * len(keys), 3.6), layout="constrained", squeeze=False
    )
    for ax, key in zip(axes, keys, strict=True):
        if key in rows[0]:
            label = "training: as in the loss, mean over the epoch"
            ax.plot(epochs, [row[key] for row in rows], "o-", ms=3, label=label)
        if f"val_{key}" in rows[0]:
            held_out = [row[f"val_{key}"] for row in rows]
            label = "validation, not squared" if key in TERMS else "validation"
            ax.plot(epochs, held_out, "s--", ms=3, label=label)
        title = f"{TERMS[key].title}, unweighted" if key in TERMS else key.replace("_", " ")
        ax.set(title=title, xlabel="epoch", ylim=(0, None))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.grid(alpha=0.3)
    axes[0].legend(fontsize=7)
    figure.savefig(picture, dpi=110)
    plt.close(figure)


def choose_rows(categories: list[str]) -> list[int]:
    """Image numbers for the grid: the first image of every category."""
    first: dict[str, int] = {}
    for number, category in enumerate(categories):
        first.setdefault(category, number)
    return [first[category] for category in sorted(first)]


def project(cloud: Tensor, camera: View) -> tuple[Tensor, Tensor]:
    """Where points [N, 3] appear in the image, [N, 2] pixels, and how near they are, [N].

    Nearness counts towards the camera from the depth of the object frame's origin, in its unit.
    """
    rotation, translation = camera.extrinsics[:, :3], camera.extrinsics[:, 3]
    seen = cloud @ rotation.T + translation
    pixels = seen @ camera.intrinsics.T
    return pixels[:, :2] / pixels[:, 2:], translation[2] - seen[:, 2]


def _scatter(ax: Axes, across: Tensor, up: Tensor, near: Tensor) -> PathCollection:
    order = near.argsort()  # far points first, so that near ones cover them
    ax.set(xticks=[], yticks=[], aspect="equal")
    drawn = (across[order], up[order])
    return ax.scatter(*drawn, c=near[order], s=2.5, vmin=-REACH, vmax=REACH, linewidths=0)


def _draw_cloud(ax: Axes, cloud: Tensor, side: Side) -> PathCollection:
    _, across, across_sign, depth, depth_sign = side
    ax.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH))
    return _scatter(ax, across_sign * cloud[:, across], cloud[:, 1], depth_sign * cloud[:, depth])


def _draw_view(ax: Axes, cloud: Tensor, picture: Picture) -> None:
    """The cloud as the input's camera sees it."""
    if not picture.camera.extrinsics.isfinite().all():
        ax.text(0.5, 0.5, "camera not known", ha="center", transform=ax.transAxes, fontsize=8)
        ax.set(xticks=[], yticks=[])
        return
    pixels, near = project(cloud, picture.camera)
    ax.set(xlim=(0, picture.image.shape[2]), ylim=(picture.image.shape[1], 0))
    _scatter(ax, pixels[:, 0], pixels[:, 1], near)


def reconstructions(path: Path, pictures: Pictures) -> None:
    """Draw a line for each picture: the image, both clouds from its camera and two sides."""
    rows, views = len(pictures.rows), ["its camera", *(side[0] for side in SIDES)]
    figure, axes = plt.subplots(
        rows, 7, figsize=(14, 2.05 * rows + 0.9), layout="constrained", squeeze=False
    )
    titles = ["input", *(f"{what}, {v}" for what in ("true", "reconstruction") for v in views)]
    for ax, text in zip(axes[0], titles, strict=True):
        ax.set_title(text, fontsize=11)
    for line, picture in zip(axes, pictures.rows, strict=True):
        line[0].imshow(picture.image.permute(1, 2, 0).clamp(0, 1).numpy())
        line[0].set(xticks=[], yticks=[])
        line[0].set_ylabel(picture.label, fontsize=11)
        for cloud, three in ((picture.truth, line[1:4]), (picture.prediction, line[4:])):
            _draw_view(three[0], cloud, picture)
            for ax, side in zip(three[1:], SIDES, strict=True):
                shown = _draw_cloud(ax, cloud, side)
    bar = figure.colorbar(shown, ax=axes, location="bottom", shrink=0.3, aspect=40, pad=0.01)
    bar.set_ticks([-REACH, REACH], labels=["far from the viewer", "near"])
    bar.set_label(f"colour: depth.   {pictures.note}", fontsize=11)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    if len(sys.argv) != 2 or not (Path(sys.argv[1]) / "metrics.csv").is_file():
        sys.exit("usage: python -m models.plots RUN   (a run folder with metrics.csv)")
    run = Path(sys.argv[1])
    loss_curves(run / "metrics.csv", run / "loss_curves.png")
    print(f"written: {run / 'loss_curves.png'}")
