# SPDX-License-Identifier: MIT
"""Pictures of a run: the loss curves, and a grid of input | true cloud | reconstruction.

python -m models.plots runs/NAME        draws loss_curves.png again from metrics.csv
"""

import csv
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no display needed

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from models.losses import TERMS

# (title, axis across, its sign, axis that points at the viewer, its sign). y is up, front is +z.
Side = tuple[str, int, int, int, int]
SIDES: tuple[Side, ...] = (("front", 0, 1, 2, 1), ("side", 2, -1, 0, 1))


def loss_curves(metrics: Path, picture: Path) -> None:
    """Draw metrics.csv: the training losses by epoch, and the validation clouds' distances."""
    with open(metrics, newline="", encoding="utf-8") as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    epochs = [row["epoch"] for row in rows]
    keys = [key for key in TERMS if key in rows[0] or f"val_{key}" in rows[0]]
    figure, (axes,) = plt.subplots(
        1, len(keys), figsize=(4 * len(keys), 3.6), layout="constrained", squeeze=False
    )
    for ax, key in zip(axes, keys, strict=True):
        if key in rows[0]:
            label = "training: as in the loss, mean over the epoch"
            ax.plot(epochs, [row[key] for row in rows], "o-", ms=3, label=label)
        if f"val_{key}" in rows[0]:
            held_out = [row[f"val_{key}"] for row in rows]
            ax.plot(epochs, held_out, "s--", ms=3, label="validation, not squared")
        ax.set(title=f"{TERMS[key].title}, unweighted", xlabel="epoch", ylim=(0, None))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.grid(alpha=0.3)
    axes[0].legend(fontsize=7)
    figure.savefig(picture, dpi=110)
    plt.close(figure)


def choose_rows(categories: list[str], objects: list[int], rows: int = 6) -> list[int]:
    """Image numbers for the grid: objects taken from each category in turn, one image of each."""
    queues: dict[str, list[int]] = {}
    known = set()
    for number, (category, obj) in enumerate(zip(categories, objects, strict=True)):
        if obj not in known:
            known.add(obj)
            queues.setdefault(category, []).append(number)
    chosen: list[int] = []
    while len(chosen) < rows and any(queues.values()):
        for category in sorted(queues):
            if queues[category] and len(chosen) < rows:
                chosen.append(queues[category].pop(0))
    return chosen


def _draw_cloud(ax: Axes, cloud: Tensor, side: Side, reach: float) -> None:
    _, across, across_sign, depth, depth_sign = side
    near = depth_sign * cloud[:, depth]
    order = near.argsort()  # far points first, so that near ones cover them
    ax.scatter(
        across_sign * cloud[order, across],
        cloud[order, 1],
        c=near[order],
        s=2.5,
        cmap="viridis",
        vmin=-reach,
        vmax=reach,
        linewidths=0,
    )
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[], aspect="equal")


def reconstructions(
    picture: Path,
    images: list[Tensor],
    truths: list[Tensor],
    predictions: list[Tensor],
    labels: list[str],
) -> None:
    """Draw one row per object: image [3, H, W], true and predicted cloud [N, 3] from two sides."""
    reach = 0.55  # clouds have a longest side of 1, centre 0
    rows = len(labels)
    figure, axes = plt.subplots(
        rows, 5, figsize=(10, 2.05 * rows + 0.4), layout="constrained", squeeze=False
    )
    titles = ["input", *(f"true, {side[0]}" for side in SIDES)]
    titles += [f"reconstruction, {side[0]}" for side in SIDES]
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title, fontsize=11)
    for line, image, truth, prediction, label in zip(
        axes, images, truths, predictions, labels, strict=True
    ):
        line[0].imshow(image.permute(1, 2, 0).clamp(0, 1).numpy())
        line[0].set(xticks=[], yticks=[])
        line[0].set_ylabel(label, fontsize=11)
        for ax, cloud, side in zip(
            line[1:], (truth, truth, prediction, prediction), SIDES * 2, strict=True
        ):
            _draw_cloud(ax, cloud, side, reach)
    figure.savefig(picture, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    if len(sys.argv) != 2 or not (Path(sys.argv[1]) / "metrics.csv").is_file():
        sys.exit("usage: python -m models.plots RUN   (a run folder with metrics.csv)")
    run = Path(sys.argv[1])
    loss_curves(run / "metrics.csv", run / "loss_curves.png")
    print(f"written: {run / 'loss_curves.png'}")
