# SPDX-License-Identifier: MIT
"""What a config describes, made: the device, the data sets, the network."""

import torch
from torch import nn

from models.config import Config, ConfigError
from models.data.dataset import FURNITURE, ReconstructionDataset
from models.networks import NETWORKS


def pick_device(name: str) -> str:
    """The device for `--device`: auto is CUDA where there is one."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch sees no CUDA device; use --device cpu")
    return name


def open_split(
    config: Config, split: str, points: int | None = None, *, images: bool = True
) -> ReconstructionDataset:
    """The data set of a split; `points` a cloud, by default as many as the network gives.

    Without `images` none is decoded before it is asked for.
    """
    root, size = config.data.root or FURNITURE, config.data.image_size
    memory = {} if images else {"in_memory": 0}
    return ReconstructionDataset(root, split, size, points or config.network.points, **memory)


def cloud_sizes(data: ReconstructionDataset) -> list[int]:
    """The numbers of points that the set has clouds of, ascending."""
    files = (data.root / "ShapeNet_pointclouds" / data.objects[0]).glob("pointcloud_*.npy")
    return sorted(int(path.stem.removeprefix("pointcloud_")) for path in files)


def build_network(config: Config) -> nn.Module:
    """The network with fresh weights, on the CPU."""
    options = config.network
    if options.name not in NETWORKS:
        raise ConfigError(
            f"network.name: expected one of {', '.join(NETWORKS)}, got {options.name!r}"
        )
    network = NETWORKS[options.name]
    return network(options.preset, options.points, config.data.image_size, options.out_act)
