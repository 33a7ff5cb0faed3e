# SPDX-License-Identifier: MIT
"""What a config describes, made: the device, the data sets, the network and its first weights."""

from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from models import checkpoint, distributed
from models.config import Config, ConfigError
from models.config import Network as Options
from models.data.dataset import FURNITURE, IN_MEMORY, ReconstructionDataset, Sample
from models.networks import NETWORKS
from models.networks.base import Network


def pick_device(name: str) -> str:
    """The device for `--device`: auto is CUDA where there is one."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch sees no CUDA device; use --device cpu")
    return name


def open_split(
    config: Config, split: str, *, images: bool = True, points: int = 0
) -> ReconstructionDataset:
    """The data set of a split, with clouds of `points` points, or as many as the network gives.

    Without `images` none is decoded before it is asked for.
    """
    root, size = config.data.root or FURNITURE, config.data.image_size
    memory, points = IN_MEMORY if images else 0, points or config.network.points
    return ReconstructionDataset(root, split, size, points, fold=config.data.fold, in_memory=memory)


def cloud_sizes(data: ReconstructionDataset) -> list[int]:
    """The numbers of points that every object of the split has a cloud of, ascending."""
    names = [
        {path.stem for path in (data.root / "ShapeNet_pointclouds" / key).glob("pointcloud_*.npy")}
        for key in data.objects
    ]
    return sorted(int(name.removeprefix("pointcloud_")) for name in set.intersection(*names))


def open_training(config: Config) -> ReconstructionDataset:
    """The training split, with the clouds that a step draws its points from."""
    points, dense = config.network.points, config.data.dense
    if dense and dense < points:
        raise ConfigError(f"data.dense: expected network.points, {points}, or more, got {dense}")
    if dense > points and config.loss.emd_cache and config.loss.w_emd:
        raise ConfigError("data.dense: loss.emd_cache keeps prices of points; set it to false")
    data = open_split(config, config.data.train_split, points=dense or points)
    if not len(data):
        raise ConfigError(f"data.train_split: {data.split!r} of {data.root} holds no images")
    return data


def make_val_loader(config: Config) -> DataLoader[Sample]:
    """This process's share of the validation images."""
    val = open_split(config, config.data.val_split)
    tell_validation(config, len(val), "images")
    own = Subset(val, range(distributed.rank(), len(val), distributed.world()))
    workers = config.data.workers if val.images is None else 0
    return DataLoader(
        own, config.evaluate.batch_size, num_workers=workers, persistent_workers=workers > 0
    )


def tell_validation(config: Config, count: int, what: str) -> None:
    """Say before the training, if there is nothing to validate on, that no epoch is the best."""
    if not count and distributed.rank() == 0:
        print(f"data.val_split: {config.data.val_split!r} holds no {what}, so no epoch is the best")


def build_network(config: Config) -> Network:
    """The network with fresh weights, on the CPU."""
    options = config.network
    if options.name not in NETWORKS:
        raise ConfigError(
            f"network.name: expected one of {', '.join(NETWORKS)}, got {options.name!r}"
        )
    network = NETWORKS[options.name]
    return network(options.preset, options.points, config.data.image_size, options.out_act)


BACK = {"+x": 180.0, "+z": 270.0, "-x": 0.0, "-z": 90.0}  # azimuth of the view from behind


def check_orientation(config: Config, front: str | None) -> None:
    """Settings that depend on which way the objects face must agree with the set."""
    mirror, loss = config.augment.mirror, config.loss
    if front is None:
        if mirror != "none" and distributed.rank() == 0:
            print(f"augment.mirror: the set does not tell whether {mirror!r} is left to right")
        return
    sides = "x" if front[1] == "z" else "z"
    if mirror not in (sides, "none"):
        raise ConfigError(
            f"augment.mirror: objects of this set face {front}, so {mirror!r} would swap front and "
            f"back; set it to {sides!r} or 'none'"
        )
    if loss.w_view and loss.view_centre % 360 != BACK[front]:
        raise ConfigError(
            f"loss.view_centre: objects of this set face {front}, so the view from behind has "
            f"azimuth {BACK[front]:g}, not {loss.view_centre:g}"
        )


SOURCES = ("start_from_mean", "pretrained", "autoencoder")  # settings, see Network.sources


def check_sources(network: Network, options: Options) -> None:
    """Raise ConfigError for weights that the network has no use for, or lacks."""
    for key in SOURCES:
        if getattr(options, key) and key not in network.sources:
            raise ConfigError(f"network.{key}: {options.name} has no use for it")
        if key in network.required and not getattr(options, key):
            raise ConfigError(f"network.{key}: {network.required[key]}")


def initialise(network: Network, options: Options, mean: Tensor) -> None:
    """Take the weights that the config says come from elsewhere."""
    if options.start_from_mean:
        network.start_from(mean)
    for key, path in (("pretrained", options.pretrained), ("autoencoder", options.autoencoder)):
        if not path:
            continue
        try:
            if key == "pretrained":
                network.take_pretrained(checkpoint.read(Path(path)))
            else:
                state = checkpoint.load(checkpoint.choose(path), parts={"network"})
                network.take_autoencoder(state["network"])
        except (RuntimeError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(
                f"network.{key}: {path} does not fit this network: {reason}"
            ) from None
