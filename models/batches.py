# SPDX-License-Identifier: MIT
"""The training batches of this process: from the device's memory, or from a DataLoader.

A batch is a tuple of tensors that a step can hold in place, so that the step may be a CUDA graph;
`fetch` makes of them what the network and the losses need, on the device.
"""

from collections.abc import Callable, Iterator, Sized
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, Sampler

from models import distributed
from models.config import Config, ConfigError
from models.data.dataset import ReconstructionDataset, Sample


class Batch(NamedTuple):
    """What a step trains on, before it is varied."""

    image: Tensor  # [B, 4, H, W] in 0..1: colours on white, and alpha
    points: Tensor  # [B, M, 3]
    sample: Tensor  # [B] int64
    azimuth: Tensor  # [B] degrees, NaN: not known


class Order(Sampler[list[int]]):
    """The samples of each batch: of this process, for one epoch.

    An epoch is one pass over the samples, or optim.epoch_steps batches out of as many passes as
    they need. The order depends on (seed, epoch) alone.
    """

    def __init__(self, config: Config, data: Sized):
        whole, world = config.optim.batch_size, distributed.world()
        self.size, left = divmod(whole, world)
        if left:
            raise ConfigError(f"optim.batch_size: {whole} does not divide among {world} processes")
        if world > 1 and len(data) < whole:
            raise ConfigError(f"optim.batch_size: more than the {len(data)} training samples")
        # Seeds of neighbouring runs must not meet in later epochs: the sampler adds the pass.
        self.sampler: DistributedSampler[int] = DistributedSampler(
            range(len(data)),  # type: ignore[arg-type]
            world,
            distributed.rank(),
            seed=config.optim.seed * 1_000_003,
            drop_last=True,
        )
        # Batch norm wants more than a left-over.
        self.a_pass = max(len(self.sampler) // self.size, 1)
        self.steps = config.optim.epoch_steps or self.a_pass
        self.epoch = 0

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        passes = -(-self.steps // self.a_pass)
        for step in range(self.steps):
            number, place = divmod(step, self.a_pass)
            if place == 0:
                self.sampler.set_epoch(self.epoch * passes + number)
                samples = list(self.sampler)
            yield samples[place * self.size : (place + 1) * self.size]


def numbers(order: Order, device: str) -> Iterator[tuple[Tensor, tuple[Tensor, ...]]]:
    """Batches of nothing but samples' numbers [B], on the CPU and on the device."""
    samples = torch.tensor(list(order))  # [steps, B]
    for here, there in zip(samples, samples.to(device), strict=True):
        yield here, (there,)


class _Named(Sized, Protocol):
    """Samples that have names."""

    def name(self, sample: int) -> str:
        """What an error calls the sample."""


class Numbered:
    """Batches of samples that are all on the device already: only their numbers are given."""

    def __init__(self, config: Config, data: _Named, device: str):
        self.data, self.device, self.order = data, device, Order(config, data)

    def __len__(self) -> int:
        return len(self.order)

    def begin(self, epoch: int) -> None:
        self.order.epoch = epoch

    def __iter__(self) -> Iterator[tuple[Tensor, tuple[Tensor, ...]]]:
        yield from numbers(self.order, self.device)

    def name(self, sample: int) -> str:
        return self.data.name(sample)


class Batches:
    """Iterating gives, for the epoch that `begin` has named, (samples on the CPU, tensors) a step.

    A split that is in memory is copied to the device at once (uint8, 64 KB a view at 128 x 128);
    then a step's only tensor is the numbers of its samples. Of a larger one a DataLoader's
    processes read the images.
    """

    def __init__(self, config: Config, data: ReconstructionDataset, device: str):
        self.data, self.device, self.order = data, device, Order(config, data)
        self.fetch: Callable[..., Batch] = Batch
        self.loader: DataLoader[Sample] | None = None
        if data.images is not None:
            self.fetch = _Resident(data, device)
            return
        workers = config.data.workers
        self.loader = DataLoader(
            data,
            batch_sampler=self.order,
            num_workers=workers,
            pin_memory=device.startswith("cuda"),
            persistent_workers=workers > 0,
            prefetch_factor=4 if workers else None,
            generator=torch.Generator(),  # so that it never draws from the epoch's random numbers
        )

    def __len__(self) -> int:
        """Steps of an epoch."""
        return len(self.order)

    def begin(self, epoch: int) -> None:
        """Name the epoch that the next iteration gives."""
        self.order.epoch = epoch

    def name(self, sample: int) -> str:
        """The image of a sample: synset/model/view."""
        return self.data.name(sample)

    def __iter__(self) -> Iterator[tuple[Tensor, tuple[Tensor, ...]]]:
        if self.loader is None:
            yield from numbers(self.order, self.device)
            return
        for batch in self.loader:
            image = torch.cat([batch.image, batch.alpha], dim=1)
            parts = Batch(image, batch.points, batch.sample, batch.camera.azimuth)
            yield batch.sample, tuple(t.to(self.device, non_blocking=True) for t in parts)


class _Resident:
    """A split on the device; called with samples' numbers it gives their batch."""

    def __init__(self, data: ReconstructionDataset, device: str):
        assert data.images is not None
        owners = [owner for owner, _ in data.samples]
        self.images = data.images.to(device)  # [S, 4, H, W] uint8
        self.points = data.points.to(device)  # [O, M, 3]
        self.owners = torch.tensor(owners, device=device)  # [S]
        self.azimuth = data.azimuth.to(device)  # [S]

    def __call__(self, samples: Tensor) -> Batch:
        image = self.images.index_select(0, samples).float() / 255
        points = self.points.index_select(0, self.owners.index_select(0, samples))
        return Batch(image, points, samples, self.azimuth.index_select(0, samples))
