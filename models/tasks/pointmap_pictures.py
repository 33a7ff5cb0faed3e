# SPDX-License-Identifier: MIT
"""Pictures of pointmaps: the clouds of several views in one frame, in the colours of the images."""

from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")  # no display needed

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from torch import Tensor

from pointloss import procrustes

ASIDE = 50.0  # degrees about the vertical, from where a cloud is seen a second time


class PairPicture(NamedTuple):
    """A pair of views, on the CPU."""

    label: str
    images: Tensor  # [2, H, W, 3] in 0..1
    mask: Tensor  # [2, H, W]
    truth: Tensor  # [2, H, W, 3]
    points: Tensor  # [2, H, W, 3]
    confidence: Tensor  # [2, H, W]


class Merged(NamedTuple):
    """All views of an object in the frame of the first camera."""

    label: str
    images: Tensor  # [V, H, W, 3] in 0..1
    mask: Tensor  # [V, H, W]
    truth: Tensor  # [V, H, W, 3]
    clouds: dict[str, Tensor]  # [V, H, W, 3] by method


def _settle(points: Tensor, truth: Tensor) -> Tensor:
    """Points [N, 3] moved and scaled onto the truth, so that both are drawn alike."""
    return procrustes(points, truth).apply(points)


def _draw(ax: Axes, points: Tensor, colours: Tensor, truth: Tensor, degrees: float) -> None:
    """A cloud [N, 3] in a camera's frame, y down, from a camera turned about the truth's middle."""
    middle = (truth.amin(0) + truth.amax(0)) / 2
    angle = torch.deg2rad(torch.tensor(degrees))
    x, y, z = (points - middle).unbind(1)
    across, far = x * angle.cos() + z * angle.sin(), z * angle.cos() - x * angle.sin()
    order = far.argsort(descending=True)  # near points last, so that they cover the others
    reach = 0.75 * (truth.amax(0) - truth.amin(0)).max().item()
    ax.scatter(across[order], -y[order], c=colours[order].numpy(), s=1.5, linewidths=0)
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[], aspect="equal")
    ax.set_facecolor("0.93")


def _show(ax: Axes, image: Tensor, **options: object) -> None:
    ax.imshow(image.numpy(), **options)  # type: ignore[arg-type]
    ax.set(xticks=[], yticks=[])


def draw_pairs(path: Path, pictures: list[PairPicture]) -> None:
    """A line for each pair: images, confidence, and the merged clouds, true and predicted."""
    titles = ["view 1", "view 2", "confidence 1", "confidence 2"]
    titles += [
        f"{what}, {side}" for what in ("true", "predicted") for side in ("camera 1", "aside")
    ]
    rows = len(pictures)
    figure, axes = plt.subplots(
        rows, 8, figsize=(15, 1.95 * rows + 0.4), layout="constrained", squeeze=False
    )
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title, fontsize=10)
    for line, picture in zip(axes, pictures, strict=True):
        line[0].set_ylabel(picture.label, fontsize=10)
        sure = torch.where(picture.mask, 1 + picture.confidence.exp(), torch.nan).log()
        least, most = sure[picture.mask].min().item(), sure[picture.mask].max().item()
        for view in range(2):
            _show(line[view], picture.images[view])
            _show(line[2 + view], sure[view], vmin=least, vmax=most)
        truth, points = picture.truth[picture.mask], picture.points[picture.mask]
        colours = picture.images[picture.mask]
        for place, cloud in ((4, truth), (6, _settle(points, truth))):
            for column, degrees in ((place, 0.0), (place + 1, ASIDE)):
                _draw(line[column], cloud, colours, truth, degrees)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def draw_alignments(path: Path, pictures: list[Merged]) -> None:
    """A line for each object: three of its views, and the clouds of all of them in one frame."""
    names = list(pictures[0].clouds)
    titles = ["three of the views", "", ""]
    titles += [f"{what}, {side}" for what in (*names, "true") for side in ("camera 1", "aside")]
    rows = len(pictures)
    figure, axes = plt.subplots(
        rows, len(titles), figsize=(1.9 * len(titles), 1.95 * rows + 0.4), layout="constrained",
        squeeze=False,
    )  # fmt: skip
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title, fontsize=8)
    for line, picture in zip(axes, pictures, strict=True):
        mask, views = picture.mask.cpu(), len(picture.images)
        images, truth = picture.images.cpu(), picture.truth.cpu()[mask]
        line[0].set_ylabel(f"{picture.label.split('/')[1]}\n{views} views", fontsize=8)
        for column in range(3):
            _show(line[column], images[column * views // 3])
        clouds = [_settle(picture.clouds[name].cpu()[mask], truth) for name in names]
        for place, cloud in enumerate([*clouds, truth]):
            for side, degrees in enumerate((0.0, ASIDE)):
                _draw(line[3 + 2 * place + side], cloud, images[mask], truth, degrees)
    figure.savefig(path, dpi=100)
    plt.close(figure)
