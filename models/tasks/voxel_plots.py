# SPDX-License-Identifier: MIT
"""Pictures of voxel grids: beside truth and retrieval, between two codes, swapped."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no display needed

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from torch import Tensor

from models import plots
from models.baselines import FLOOR
from models.config import Config
from models.data.camera import Camera
from models.networks.voxel import VoxelNetwork
from models.tasks.voxel_answers import Method, Seen, Split
from models.tasks.voxel_latent import between, choose_pairs

VIEW = Camera(55, 25, 2)  # azimuth, elevation: the side from which grids are drawn
SHADES = torch.tensor([0.65, 0.95, 0.5])  # of faces across x, y and z
PAINT = torch.tensor([0.55, 0.68, 0.85])
SIZE = 96  # pixels of a drawn grid
FINE = 4  # samples of a ray a voxel
REACH = 0.8  # of what is drawn, from the centre: half the cube's diagonal, nearly
ROWS = 5  # of the pictures of codes


def shaded(grid: Tensor, camera: Camera = VIEW) -> Tensor:
    """A picture [SIZE, SIZE, 3] of a grid from far away in the camera's direction, on white."""
    full, resolution = F.pad(grid.cpu(), 6 * [1]), len(grid)
    right, above, back = torch.from_numpy(camera.axes()).float()
    across = torch.linspace(-REACH, REACH, SIZE)
    start = across.flip(0)[:, None, None] * above + across[:, None] * right + REACH * back
    start = ((start.flatten(0, 1) + 0.5) * resolution + 1).T  # [3, pixels], in voxels of `full`
    shade = torch.zeros(SIZE**2)
    for number in range(round(2 * REACH * resolution * FINE)):
        place = start - (number / FINE) * back[:, None]
        cell = place.floor()
        x, y, z = cell.long().clamp(0, resolution + 1)
        # How far back along the ray it has crossed a plane of each axis: the last is its face.
        into = torch.where(back[:, None] < 0, place - cell, cell + 1 - place)
        face = SHADES[(into / back[:, None].abs()).argmin(0)]
        shade = torch.where((shade == 0) & full[x, y, z], face, shade)
    colours = torch.where(shade[:, None] > 0, shade[:, None] * PAINT, 1.0)
    return colours.view(SIZE, SIZE, 3)


def draw_grid(ax: Axes, grid: Tensor, camera: Camera = VIEW) -> None:
    ax.imshow(shaded(grid, camera).numpy())
    ax.set(xticks=[], yticks=[])


def draw_image(ax: Axes, image: Tensor) -> None:
    ax.imshow(image.permute(1, 2, 0).clamp(0, 1).numpy())
    ax.set(xticks=[], yticks=[])


def answers(path: Path, methods: dict[str, Method], test: Split) -> None:
    """A row for the first image of every category: the image, and every method's grid."""
    rows = plots.choose_rows([test.data.category(i) for i in test.keep])
    figure, axes = plt.subplots(
        len(rows),
        1 + len(methods),
        figsize=(1.6 * (1 + len(methods)), 1.65 * len(rows)),
        layout="constrained",
        squeeze=False,
    )
    titles = ["input", *("true voxels" if m == FLOOR else m for m in methods)]
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title, fontsize=9)
    for line, row in zip(axes, rows, strict=True):
        draw_image(line[0], test.data[test.keep[row]].image)
        line[0].set_ylabel(test.data.category(test.keep[row]), fontsize=9)
        for ax, method in zip(line[1:], methods.values(), strict=True):
            draw_grid(ax, method.grids[method.chosen[row]])
    figure.savefig(path, dpi=100)
    plt.close(figure)


def interpolations(
    path: Path,
    network: VoxelNetwork,
    seen: Seen,
    test: Split,
    device: str,
    threshold: float,
    seed: int,
) -> None:
    """ROWS pairs of images, and the shapes on the line between their codes."""
    pairs, steps = choose_pairs(test.objects, ROWS, seed).tolist(), 6
    figure, axes = plt.subplots(
        len(pairs),
        steps + 3,
        figsize=(1.5 * (steps + 3), 1.6 * len(pairs)),
        layout="constrained",
        squeeze=False,
    )
    for line, (one, other) in zip(axes, pairs, strict=True):
        way = between(network, seen.code[one].to(device), seen.code[other].to(device), steps)
        draw_image(line[0], test.data[test.keep[one]].image)
        draw_image(line[-1], test.data[test.keep[other]].image)
        for ax, probability in zip(line[1:-1], way, strict=True):
            draw_grid(ax, (probability > threshold).cpu())
    figure.suptitle("between the codes of two images, in even steps", fontsize=10)
    figure.savefig(path, dpi=100)
    plt.close(figure)


@torch.no_grad()
def swaps(
    path: Path,
    network: VoxelNetwork,
    seen: Seen,
    test: Split,
    device: str,
    threshold: float,
    seed: int,
) -> None:
    """Shapes (rows) in the poses (columns) of other images; drawn as a camera at azimuth 0 sees."""
    if seen.pose is None:
        return
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(test.keep), generator=generator)[:ROWS]
    size = len(chosen)
    figure, axes = plt.subplots(
        size + 1, size + 2, figsize=(1.5 * (size + 2), 1.55 * (size + 1)), layout="constrained"
    )
    images = [test.data[test.keep[row]].image for row in chosen.tolist()]
    axes[0, 0].axis("off")
    axes[0, 1].axis("off")
    axes[0, 1].text(0.5, 0.5, "own frame", ha="center", va="center", fontsize=9)
    for number, image in enumerate(images):
        draw_image(axes[0, number + 2], image)
        draw_image(axes[number + 1, 0], image)
    code, pose = seen.code[chosen].to(device), seen.pose[chosen].to(device)
    for number in range(size):
        shape = code[number].expand(size, -1)
        own = network.decode(code[number : number + 1]).float().sigmoid() > threshold
        draw_grid(axes[number + 1, 1], own[0].cpu())
        turned = network.decode(shape, pose).float().sigmoid() > threshold
        for ax, grid in zip(axes[number + 1, 2:], turned, strict=True):
            draw_grid(ax, grid.cpu(), Camera(0, 25, 2))
    figure.suptitle(
        "the shape of the image on the left in the pose of the image above", fontsize=10
    )
    figure.savefig(path, dpi=100)
    plt.close(figure)


def draw(
    out: Path,
    network: VoxelNetwork,
    seen: Seen,
    methods: dict[str, Method],
    test: Split,
    config: Config,
    device: str,
    threshold: float,
) -> None:
    """voxels.png, interpolation.png and, with a pose code, swapped.png."""
    answers(out / "voxels.png", methods, test)
    given = (network, seen, test, device, threshold, config.evaluate.seed)
    interpolations(out / "interpolation.png", *given)
    swaps(out / "swapped.png", *given)
