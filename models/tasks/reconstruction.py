# SPDX-License-Identifier: MIT
"""One image -> a cloud of points."""

from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from models import distributed, report, score
from models.augment import DRAWS, Augmentation, choose_points
from models.baselines import mean_shape
from models.batches import Batches
from models.build import (
    build_network,
    check_orientation,
    check_sources,
    initialise,
    make_val_loader,
    open_training,
)
from models.config import Evaluate
from models.cost import count_macs
from models.data.dataset import ReconstructionDataset, Sample
from models.losses import Objective, Target
from models.networks import base as networks
from models.tasks.base import Task
from pointloss import chamfer, emd

VAL_RTOL = 1e-2  # of the EMD that chooses the best epoch, whatever the training's is


class Varied(NamedTuple):
    """A batch as the network sees it, and what it is compared with."""

    image: Tensor  # [B, 3, H, W] in 0..1
    noise: Tensor | None  # [B, L]
    target: Target


class Reconstruction(Task):
    """The networks of models.networks.NETWORKS, by the terms of models.losses."""

    chooses = ("val_cd", "val_emd")
    keeps = ("mean_shape",)
    options = frozenset({"pred_dir", "samples", "save_clouds"})
    follows = frozenset(field.name for field in fields(Evaluate))

    @cached_property
    def data(self) -> ReconstructionDataset:
        """The training split."""
        return open_training(self.config)

    @cached_property
    def validation(self) -> DataLoader[Sample]:
        """This process's share of the validation split."""
        return make_val_loader(self.config)

    @cached_property
    def resident(self) -> Batches:
        return Batches(self.config, self.data, self.device)

    @cached_property
    def augmentation(self) -> Augmentation:
        return Augmentation(self.config.augment).to(self.device)

    def check(self) -> str:
        score.open_asked(self.config, images=False)
        macs = count_macs(self.build(), self.config)  # also checks the names
        return f"{macs / 1e9:.3f} GMAC an image"

    def build(self) -> networks.Network:
        return build_network(self.config)

    def batches(self) -> Batches:
        assert self.validation is not None  # opened now, so that it says early if it is empty
        return self.resident

    def objective(self, network: nn.Module) -> Objective:
        own, options = cast("networks.Network", network), self.config.network
        objective = Objective(self.config.loss, len(self.data), options.points).to(self.device)
        objective.check(own, has_azimuth=bool(self.data[0].camera.azimuth.isfinite()))
        check_sources(own, options)
        check_orientation(self.config, self.data.front)
        return objective

    def initialise(self, network: nn.Module) -> dict[str, Tensor]:
        options = self.config.network
        clouds = self.data.points[:, : options.points]
        mean = mean_shape(clouds, self.device, seed=self.config.optim.seed)
        initialise(cast("networks.Network", network), options, mean.to(self.device))
        return {"mean_shape": mean}

    def draw(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> Varied:
        batch, device = self.resident.fetch(*inputs), self.device
        latent: int = network.latent  # type: ignore[assignment]
        # Drawn for the whole batch, so that any number of processes sees the same numbers.
        rows = len(batch.image) * distributed.world()
        draws = distributed.own_rows(torch.rand(rows, DRAWS, device=device))
        noise = distributed.own_rows(torch.randn(rows, latent, device=device))
        points = choose_points(batch.points, self.config.network.points, draws)
        image, points, azimuth = self.augmentation(batch.image, points, batch.azimuth, draws)
        if image.is_cuda:
            image = image.contiguous(memory_format=torch.channels_last)
        return Varied(image, noise if latent else None, Target(points, batch.sample, azimuth))

    def forward(self, model: nn.Module, batch: Varied) -> networks.Reconstruction:
        out: networks.Reconstruction = model(batch.image, batch.target.points, batch.noise)
        return out

    def loss(
        self, objective: nn.Module, out: networks.Reconstruction, batch: Varied
    ) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = objective(out, batch.target)
        return terms

    def end_epoch(self, objective: nn.Module) -> None:
        cast("Objective", objective).emd_loss.gather_price_cache()

    @torch.no_grad()
    def validate(self, network: nn.Module) -> dict[str, float]:
        """Mean unsquared Chamfer and EMD over the validation images, at z = mu."""
        sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        for batch in self.validation:
            points = batch.points.to(self.device)
            predicted = network(batch.image.to(self.device), points).points
            cd = chamfer(predicted, points, squared=False, batch_reduction="sum")
            matched = emd(predicted, points, rtol=VAL_RTOL, batch_reduction="sum")
            sums += torch.stack([cd, matched, cd.new_tensor(len(points))]).double()
        cd, matched, count = distributed.total(sums).tolist()
        return {"val_cd": cd / count, "val_emd": matched / count} if count else {}

    def evaluate(
        self, state: dict[str, Any] | None, out: Path, commit: str | None = None, **options: Any
    ) -> str:
        """See models.score.score; options: pred_dir, samples, save_clouds."""
        results = score.score(self.config, self.device, state, commit=commit, **options)
        report.write(results, out)
        return report.as_markdown(results)
