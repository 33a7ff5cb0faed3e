# SPDX-License-Identifier: MIT
"""Lifted keypoints to look at: the input, and truth and prediction from three sides."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")  # no display needed

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from torch import Tensor

from models.data.rigs import Rig, Views
from pointloss import procrustes

EACH = 3  # rows of a group
# Title, axis across, its sign, axis up, its sign; in a view's frame, see models.data.rigs.
SIDES = (("its camera", 0, 1, 1, 1), ("side", 2, -1, 1, 1), ("above", 0, 1, 2, -1))


class Picture(NamedTuple):
    """One view; joints that are not visible are left out."""

    keypoints: Tensor  # [J, 2]
    truth: Tensor  # [J, 3]
    shape: Tensor  # [J, 3], fitted to the truth
    edges: Tensor  # [J, J] bool
    label: str


def choose(
    group: str, rigs: Sequence[Rig], rig: Tensor, views: Views, shapes: Tensor, scores: list[float]
) -> list[Picture]:
    """Of up to EACH rigs, spread over the group, the view with the median score of the rig."""
    found = []
    for number in range(0, len(rigs), -(-len(rigs) // EACH)):
        rows = (rig == number).nonzero()[:, 0].tolist()
        if not rows:
            continue
        row = sorted(rows, key=scores.__getitem__)[len(rows) // 2]
        mask = views.mask[row]
        truth, shape = views.truth[row], shapes[row]
        fitted = procrustes(shape, truth, mask=mask).apply(shape[None])[0]
        edges = views.edges[row][mask][:, mask]
        parts = (views.keypoints[row][mask], truth[mask], fitted[mask], edges)
        keypoints, truth, fitted, edges = (part.cpu() for part in parts)
        label = f"{group}\n{rigs[number].name}\nPA-MPJPE {scores[row]:.1f} %"
        found.append(Picture(keypoints, truth, fitted, edges, label))
    return found


def draw(path: Path, pictures: Sequence[Picture]) -> None:
    """A line for each picture."""
    figure, axes = plt.subplots(
        len(pictures), 4, figsize=(9, 2.1 * len(pictures)), layout="constrained", squeeze=False
    )
    for line, picture in zip(axes, pictures, strict=True):
        _joints(line[0], picture.keypoints, picture.edges, "C2")
        line[0].set_ylabel(picture.label, fontsize=8)
        for ax, (_, across, sign, up, up_sign) in zip(line[1:], SIDES, strict=True):
            for shape, colour in ((picture.truth, "C3"), (picture.shape, "C0")):
                flat = shape[:, [across, up]] * shape.new_tensor([sign, up_sign])
                _joints(ax, flat, picture.edges, colour)
    titles = ["keypoints", *(f"from {side[0]}" for side in SIDES)]
    for ax, text in zip(axes[0], titles, strict=True):
        ax.set_title(text, fontsize=9)
    figure.supxlabel("red: truth, blue: lifted, after the similarity that fits best", fontsize=9)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _joints(ax: Axes, points: Tensor, edges: Tensor, colour: str) -> None:
    pairs = edges.triu().nonzero().tolist()
    ends = [points[pair].tolist() for pair in pairs]
    ax.add_collection(LineCollection(ends, colors=colour, linewidths=1))
    ax.scatter(points[:, 0], points[:, 1], s=8, c=colour)
    ax.set(xticks=[], yticks=[], aspect="equal")
