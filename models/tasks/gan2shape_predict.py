# SPDX-License-Identifier: MIT
"""Depth, normals and other views of the objects in somebody's pictures."""

from pathlib import Path

import numpy as np
import torch

from models import checkpoint, files
from models import config as configs
from models.config import Config
from models.cutout import Cutout
from models.data.dataset import on_white
from models.networks.gan2shape import PhotoGeometric
from models.tasks import gan2shape_pictures, gan2shape_score
from pointloss import depth_to_points
from pointloss.io import write_ply


def open_network(run: str, device: str) -> tuple[Config, PhotoGeometric] | None:
    """The network of a run of models.train, if it is one of this kind."""
    try:
        path = checkpoint.choose(run)
    except checkpoint.CheckpointError:
        return None  # weights of models/weights, or nothing at all
    state = checkpoint.load(path, device, checkpoint.SCORED)
    config = configs.update(Config(), state["config"])
    if config.network.name != "gan2shape":
        return None
    return config, gan2shape_score.make(config, state, device)


def predict(
    config: Config, network: PhotoGeometric, images: dict[Path, Cutout], out: Path
) -> list[str]:
    """Write what the network says of each image; the lines to print.

    NAME.png: depth, normals, albedo, other views and lights. NAME.gif: the object swings, then a
    light goes around it. NAME.npz: depth (1: the object's centre; NaN: outside), normal, albedo,
    image. NAME.ply: the points of the depth map, y up, towards the viewer z.
    """
    lines = []
    for path, cutout in images.items():
        pixels = on_white(cutout.image, config.data.image_size)
        image = torch.from_numpy(pixels).to(network.lens.device).float() / 255
        found = gan2shape_pictures.describe(network, image, path.stem)
        gan2shape_pictures.draw(out / f"{path.stem}.png", [found])
        gan2shape_pictures.animate(out / f"{path.stem}.gif", [found], scale=4)
        points = depth_to_points(found.depth, network.lens.cpu())[~found.depth.isnan()]
        points = (points - torch.tensor([0.0, 0, 1])) * torch.tensor([1.0, -1, -1])
        with files.replacing(out / f"{path.stem}.ply") as file:
            write_ply(file, points.numpy())
        arrays = {"depth": found.depth, "normal": found.normal, "albedo": found.albedo}
        with files.replacing(out / f"{path.stem}.npz") as file:
            np.savez(file, allow_pickle=False, image=pixels,
                     **{key: value.numpy() for key, value in arrays.items()})  # fmt: skip
        lines.append(f"{path}: {cutout.how}")
    return [*lines, f"written: {out}/NAME.png, .gif, .npz, .ply of each image"]
