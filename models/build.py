# SPDX-License-Identifier: MIT
"""What a config describes, made: the device, the data sets, the network and its first weights."""

from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, Subset

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


def open_split(config: Config, split: str, *, images: bool = True) -> ReconstructionDataset:
    """The data set of a split, with clouds of as many points as the network gives.

    Without `images` none is decoded before it is asked for.
    """
    root, size = config.data.root or FURNITURE, config.data.image_size
    memory = IN_MEMORY if images else 0
    return ReconstructionDataset(root, split, size, config.network.points, in_memory=memory)


def cloud_sizes(data: ReconstructionDataset) -> list[int]:
    """The numbers of points that every object of the split has a cloud of, ascending."""
    names = [
        {path.stem for path in (data.root / "ShapeNet_pointclouds" / key).glob("pointcloud_*.npy")}
        for key in data.objects
    ]
    return sorted(int(name.removeprefix("pointcloud_")) for name in set.intersection(*names))


def make_loaders(
    config: Config, data: ReconstructionDataset, device: str
) -> tuple[DataLoader[Sample], DataLoader[Sample]]:
    """Batches of this process: shuffled training samples, and the validation images."""
    size, left = divmod(config.optim.batch_size, distributed.world())
    if left:
        raise ConfigError(
            f"optim.batch_size: {config.optim.batch_size} does not divide among "
            f"{distributed.world()} processes"
        )
    if distributed.world() > 1 and len(data) < config.optim.batch_size:
        raise ConfigError(f"optim.batch_size: more than the {len(data)} training samples")
    # Seeds of neighbouring runs must not meet in later epochs: the sampler adds the epoch.
    sampler: DistributedSampler[Sample] = DistributedSampler(
        data,
        distributed.world(),
        distributed.rank(),
        seed=config.optim.seed * 1_000_003,
        drop_last=True,
    )
    workers = config.data.workers
    loader = DataLoader(
        data,
        size,
        sampler=sampler,
        drop_last=len(data) > config.optim.batch_size,  # batch norm wants more than a left-over
        num_workers=workers,
        pin_memory=device.startswith("cuda"),
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
        generator=torch.Generator(),  # so that it never draws from the epoch's random numbers
    )
    val = open_split(config, config.data.val_split)
    if not len(val) and distributed.rank() == 0:
        print(f"data.val_split: {config.data.val_split!r} holds no images, so no epoch is the best")
    own = Subset(val, range(distributed.rank(), len(val), distributed.world()))
    return loader, DataLoader(
        own, config.evaluate.batch_size, num_workers=workers, persistent_workers=workers > 0
    )


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
