# SPDX-License-Identifier: MIT
"""One image -> a voxel grid of the object."""

import math
import operator
from collections.abc import Callable
from functools import cached_property, reduce
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from models import distributed
from models.augment import DRAWS, Augmentation
from models.batches import Batches
from models.build import check_orientation, cloud_sizes, make_val_loader, open_training
from models.config import Config, ConfigError, Voxel
from models.cost import count_macs
from models.data.dataset import ReconstructionDataset, Sample
from models.data.occupancy import occupancies
from models.networks.voxel import RESOLUTION, Volumes, VoxelNetwork
from models.score import open_asked
from models.tasks.base import Task
from pointloss import kl_standard_normal, voxel_iou

THRESHOLDS = torch.arange(1, 20) / 20  # of the probability, searched on the validation split


class Truth(NamedTuple):
    """What a batch of volumes is compared with."""

    volume: Tensor  # [B, R, R, R] float, 0 or 1, object frame
    azimuth: Tensor  # [B] radians, of the cameras; NaN: not known
    turned: (
        Tensor | None
    )  # [B, R, R, R] float in 0..1, each volume as the camera of `partner` has it


class Varied(NamedTuple):
    """A batch as the network sees it, and what it is compared with."""

    image: Tensor  # [B, 3, H, W] in 0..1
    noise: Tensor | None  # [B, L]
    partner: Tensor | None  # [B] int64
    keep: Tensor | None  # [B, D], see VoxelNetwork.forward
    truth: Truth


def turn(volumes: Tensor, azimuth: Tensor) -> Tensor:
    """Volumes [B, R, R, R] turned about y so that the camera at `azimuth` [B] (radians) is at 0.

    The result shows the cube of sqrt 2 times the side, which no turned volume leaves.
    """
    cos, sin = math.sqrt(2) * azimuth.cos(), math.sqrt(2) * azimuth.sin()
    zero, one = torch.zeros_like(cos), torch.full_like(cos, math.sqrt(2))
    # Where (z, y, x) of the result, as grid_sample has them, is found in the volume: a camera at
    # azimuth a looks from (cos a, 0, sin a), which the result has on its x axis.
    rows = [[cos, zero, sin, zero], [zero, one, zero, zero], [-sin, zero, cos, zero]]
    theta = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)  # [B, 3, 4]
    grid = F.affine_grid(theta, [len(volumes), 1, *volumes.shape[1:]], align_corners=False)
    return F.grid_sample(volumes[:, None], grid, align_corners=False)[:, 0]


def cross_entropy(logits: Tensor, truth: Tensor, missed: float) -> Tensor:
    """Mean over voxels of -(missed t log p + (1 - t) log(1 - p)), of logits and t [B, R, R, R].

    Occupied voxels are few; `missed` above 1 makes their logarithms count for more.
    """
    weight = 1 + (missed - 1) * truth
    return F.binary_cross_entropy_with_logits(logits.float(), truth, weight)


def given(value: Tensor | None) -> Tensor:
    """A field that Objective.check has asked for."""
    if value is None:
        raise ValueError("a loss term needs a field that the network or the batch does not have")
    return value


def _azimuth(options: Voxel, out: Volumes, truth: Truth) -> Tensor:
    """Mean squared distance of (cos, sin) to those of the camera's azimuth."""
    wanted = torch.stack([truth.azimuth.cos(), truth.azimuth.sin()], dim=1)
    return (given(out.azimuth) - wanted).square().sum(dim=1).mean()


class Term(NamedTuple):
    """A training loss, weighted by w_<name> of config.Voxel."""

    value: Callable[[Voxel, Volumes, Truth], Tensor]
    needs: frozenset[str]  # fields of Volumes, see VoxelNetwork.gives
    camera: bool = False  # it needs the cameras' azimuths


TERMS = {
    "occupancy": Term(
        lambda o, out, truth: cross_entropy(out.logits, truth.volume, o.missed),
        frozenset({"logits"}),
    ),
    "again": Term(
        lambda o, out, truth: cross_entropy(given(out.again), truth.volume, o.missed),
        frozenset({"again"}),
    ),
    "code": Term(
        lambda o, out, truth: (out.code - given(out.target)).square().mean(),
        frozenset({"target"}),
    ),
    "kl": Term(
        lambda o, out, truth: kl_standard_normal(given(out.mu), given(out.logvar)),
        frozenset({"mu", "logvar"}),
    ),
    "azimuth": Term(_azimuth, frozenset({"azimuth"}), camera=True),
    "swapped": Term(
        lambda o, out, truth: cross_entropy(given(out.swapped), given(truth.turned), o.missed),
        frozenset({"swapped"}),
        camera=True,
    ),
}


class Objective(nn.Module):
    """The weighted sum of the terms whose weight is not 0; it keeps nothing from step to step."""

    def __init__(self, options: Voxel):
        super().__init__()
        self.options = options
        self.weights = {name: float(getattr(options, f"w_{name}")) for name in TERMS}

    def check(self, network: VoxelNetwork, has_azimuth: bool) -> None:
        """Say before the first step which weight asks for what is not there."""
        if not any(self.weights.values()):
            raise ConfigError("voxel: every weight is 0")
        for name, term in TERMS.items():
            missing = sorted(term.needs - network.gives())
            if self.weights[name] and missing:
                raise ConfigError(f"voxel.w_{name}: this preset gives no {missing[0]}; set it to 0")
            if self.weights[name] and term.camera and not has_azimuth:
                raise ConfigError(
                    f"voxel.w_{name}: this set does not tell the cameras of its images; set it to 0"
                )

    def forward(self, out: Volumes, truth: Truth) -> dict[str, Tensor]:
        """The terms by name, unweighted, and "loss", their weighted sum."""
        terms = {
            name: term.value(self.options, out, truth)
            for name, term in TERMS.items()
            if self.weights[name]
        }
        loss = reduce(operator.add, (self.weights[name] * terms[name] for name in terms))
        return {"loss": loss, **terms}


def open_volumes(config: Config, data: ReconstructionDataset, device: str) -> Tensor:
    """The true occupancies of a split's objects, bool [O, R, R, R] on the CPU.

    From the largest clouds of the set: sparse ones leave gaps that look like holes.
    """
    source = config.voxel.source
    own = ReconstructionDataset(
        data.root,
        data.split,
        points=max(cloud_sizes(data)) if data.objects else data.points.shape[1],
        fold=config.data.fold,
        in_memory=0,
    )
    try:
        return occupancies(own, source, RESOLUTION, device)
    except FileNotFoundError as error:
        if source == "depth" and "depth" in str(error):
            raise ConfigError(
                f"voxel.source: {error}; make the set without --no-geometry, or set it to "
                "'silhouette'"
            ) from None
        raise


def ious(network: nn.Module, loader: "DataLoader[Sample]", volumes: Tensor, device: str) -> Tensor:
    """Sums [T] of the images' IoU at each of THRESHOLDS, float64 on the device."""
    sums = torch.zeros(len(THRESHOLDS), dtype=torch.float64, device=device)
    for batch in loader:
        probability = network(batch.image.to(device)).logits.float().sigmoid()
        truth = volumes[batch.object.to(volumes.device)].to(device)
        sums += voxel_iou(probability, truth, THRESHOLDS).sum(0).double()
    return sums


class Voxels(Task):
    """The presets of models.networks.voxel, by the terms of TERMS."""

    section = "voxel"
    chooses = ("val_error",)
    options = frozenset({"save_clouds"})
    follows = frozenset(
        {"split", "checkpoint", "views", "batch_size", "protocol", "sampling", "seed"}
    )

    @cached_property
    def data(self) -> ReconstructionDataset:
        """The training split."""
        return open_training(self.config)

    @cached_property
    def volumes(self) -> Tensor:
        """[O, R, R, R] bool of the training objects, on the device."""
        return open_volumes(self.config, self.data, self.device).to(self.device)

    @cached_property
    def validation(self) -> tuple[DataLoader[Sample], Tensor]:
        """This process's share of the validation images, and the split's volumes on the device."""
        loader = make_val_loader(self.config)
        data = cast("Any", loader.dataset).dataset
        return loader, open_volumes(self.config, data, self.device).to(self.device)

    @cached_property
    def resident(self) -> Batches:
        return Batches(self.config, self.data, self.device)

    @cached_property
    def owners(self) -> Tensor:
        """[S] int64, the object of each training sample."""
        return torch.tensor([owner for owner, _ in self.data.samples], device=self.device)

    @cached_property
    def runs(self) -> tuple[Tensor, Tensor]:
        """[O] int64 each: the first sample of every object, and how many it has."""
        count = torch.bincount(self.owners, minlength=len(self.data.objects))
        return count.cumsum(0) - count, count

    @cached_property
    def augmentation(self) -> Augmentation:
        return Augmentation(self.config.augment).to(self.device)

    def check(self) -> str:
        open_asked(self.config, images=False)
        network = self.build()
        if network.pairs and self.config.optim.batch_size % (2 * distributed.world()):
            raise ConfigError(
                "optim.batch_size: this preset trains on pairs; make it even in each process"
            )
        if (share := self.config.voxel.dropout) >= 1:
            raise ConfigError(f"voxel.dropout: expected a share below 1, got {share}")
        return f"{count_macs(cast('Any', network), self.config) / 1e9:.3f} GMAC an image"

    def build(self) -> VoxelNetwork:
        options = self.config.network
        return VoxelNetwork(options.preset, self.config.data.image_size)

    def batches(self) -> Batches:
        _ = self.volumes, self.runs  # now, and not in a step that becomes a CUDA graph
        return self.resident

    def objective(self, network: nn.Module) -> Objective:
        own = cast("VoxelNetwork", network)
        objective = Objective(self.config.voxel).to(self.device)
        objective.check(own, has_azimuth=bool(self.data[0].camera.azimuth.isfinite()))
        check_orientation(self.config, self.data.front)
        if own.pairs and self.data.images is None:
            raise ConfigError(
                "network.preset: pairs of views are taken from memory, and this split does not fit"
            )
        return objective

    def _with_other_views(self, samples: Tensor) -> Tensor:
        """The first half of samples [B], and for each of them another view of its object."""
        half = samples[: len(samples) // 2]
        first, count = (t[self.owners[half]] for t in self.runs)
        drawn = torch.rand(len(half) * distributed.world(), device=half.device)
        step = 1 + (distributed.own_rows(drawn) * (count - 1)).long()
        return torch.cat([half, first + (half - first + step) % count])

    def draw(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> Varied:
        own = cast("VoxelNetwork", network)
        if own.pairs:
            inputs = (self._with_other_views(inputs[0]),)
        batch = self.resident.fetch(*inputs)
        # Drawn for the whole batch, so that any number of processes sees the same numbers.
        rows = len(batch.image) * distributed.world()
        draws = distributed.own_rows(torch.rand(rows, DRAWS, device=self.device))
        noise = distributed.own_rows(torch.randn(rows, own.latent, device=self.device))
        partner = keep = None
        if own.pairs:  # both views of an object are mirrored, or none
            half = len(draws) // 2
            draws[half:, 0] = draws[:half, 0]
            # Of another object, so that no shape can hide in a pose code. A quarter of the batch
            # further on: this process has that row of the global batch too.
            further = torch.arange(len(draws), device=self.device) + max(half // 2, 1)
            partner = further % len(draws)
        if share := self.config.voxel.dropout:
            kept = torch.rand(rows, own.dropped, device=self.device) >= share
            keep = distributed.own_rows(kept) / (1 - share)
        ones = torch.ones(len(draws), 1, 3, device=self.device)
        image, sides, azimuth = self.augmentation(batch.image, ones, batch.azimuth, draws)
        if image.is_cuda:
            image = image.contiguous(memory_format=torch.channels_last)
        volume = self.volumes.index_select(0, self.owners[batch.sample])
        for axis in (0, 2):
            mirrored = (sides[:, 0, axis] < 0)[:, None, None, None]
            volume = torch.where(mirrored, volume.flip(axis + 1), volume)
        volume, azimuth = volume.float(), azimuth.deg2rad()
        turned = None
        if partner is not None:
            turned = turn(volume, azimuth.index_select(0, partner))
        truth = Truth(volume, azimuth, turned)
        return Varied(image, noise if own.latent else None, partner, keep, truth)

    def forward(self, model: nn.Module, batch: Varied) -> Volumes:
        out: Volumes = model(
            batch.image, batch.truth.volume, batch.noise, batch.partner, batch.keep
        )
        return out

    def loss(self, objective: nn.Module, out: Volumes, batch: Varied) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = objective(out, batch.truth)
        return terms

    @torch.no_grad()
    def validate(self, network: nn.Module) -> dict[str, float]:
        """1 - IoU, a mean over the images, at the one of THRESHOLDS that is best for it."""
        loader, volumes = self.validation
        sums = ious(network, loader, volumes, self.device)
        images = sums.new_tensor([len(cast("Any", loader.dataset))])
        *found, count = distributed.total(torch.cat([sums, images])).tolist()
        if not count:
            return {}
        best = max(found)
        threshold = THRESHOLDS[found.index(best)].item()
        return {"val_error": 1 - best / count, "val_threshold": round(threshold, 2)}

    def evaluate(
        self, state: dict[str, Any] | None, out: Path, commit: str | None = None, **options: Any
    ) -> str:
        """See models.tasks.voxel_score.score; options: save_clouds."""
        from models.tasks.voxel_score import score

        if state is None:
            raise ConfigError("network.name: clouds of anybody are scored by a point network's")
        return score(self.config, self.device, state, out, commit, **options)
