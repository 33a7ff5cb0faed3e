# SPDX-License-Identifier: MIT
"""Two images of an object -> the point that each pixel sees, in the first camera's frame."""

from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn

from models import checkpoint, distributed
from models.augment import PairAugmentation
from models.batches import Numbered
from models.build import open_split, tell_validation
from models.config import ConfigError
from models.cost import macs_of
from models.data.dataset import ReconstructionDataset
from models.data.pairs import Pair, Pairs
from models.networks.pointmap import PointmapNetwork, Pointmaps
from models.tasks import pointmap_score
from models.tasks.base import Task
from pointloss import pointmap_error, pointmap_loss

VAL_PAIRS = 4  # of each validation object


class Varied(NamedTuple):
    """A batch as the network sees it, and what it is compared with."""

    image: Tensor  # [B, 2, 3, H, W] in 0..1
    points: Tensor  # [B, 2, H, W, 3]
    mask: Tensor  # [B, 2, H, W]


class PointmapTask(Task):
    """DUSt3R on pairs of views of one object; section [pointmap] of the config."""

    section: ClassVar[str] = "pointmap"
    unit: ClassVar[str] = "pairs"
    chooses: ClassVar[tuple[str, ...]] = ("val_error",)

    @cached_property
    def pairs(self) -> Pairs:
        """The training pairs, on the device."""
        return self.open(self.config.data.train_split)

    @cached_property
    def validation(self) -> Pairs:
        return self.open(self.config.data.val_split)

    @cached_property
    def augmentation(self) -> PairAugmentation:
        options = self.config.pointmap
        return PairAugmentation(self.config.augment, options.roll, options.blank).to(self.device)

    def split(self, name: str, *, images: bool = True) -> ReconstructionDataset:
        """A split of the set, whose depth maps are there."""
        data = open_split(self.config, name, images=images)
        try:
            if data.samples:
                data.depth(0)
        except FileNotFoundError as error:
            raise ConfigError(
                f"data.root: pairs of views need depth maps ({error}); prepare the set without "
                "--no-geometry"
            ) from None
        return data

    def open(self, name: str) -> Pairs:
        """The pairs of a split, on the device."""
        options = self.config.pointmap
        return Pairs(self.split(name), options.least, options.most).to(self.device)

    def check(self) -> str:
        name = self.config.evaluate.split
        if not self.split(name, images=False).samples:
            raise ConfigError(f"evaluate.split: {name!r} of the set holds no images")
        side = self.config.data.image_size
        macs = macs_of(self.build(), torch.zeros(1, 2, 3, side, side))
        return f"{macs / 1e9:.3f} GMAC a pair"

    def build(self) -> PointmapNetwork:
        return PointmapNetwork(self.config.network.preset, self.config.data.image_size)

    def batches(self) -> Numbered:
        if not len(self.pairs):
            options = self.config.pointmap
            raise ConfigError(
                f"pointmap.least, most: no training object has two views that are "
                f"{options.least:g} to {options.most:g} degrees apart"
            )
        tell_validation(self.config, len(self.validation), "pairs")  # now, and not after an epoch
        return Numbered(self.config, self.pairs, self.device)

    def objective(self, network: nn.Module) -> nn.Module:
        return nn.Identity()  # the loss keeps nothing

    @property
    def terms(self) -> tuple[str, ...]:
        return ("distance",)

    def draw(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> Varied:
        pair: Pair = self.pairs(*inputs)
        # Drawn for the whole batch, so that any number of processes sees the same numbers.
        rows = len(pair.image) * distributed.world()
        draws = torch.rand(rows, self.augmentation.draws, device=self.device)
        image, pair = self.augmentation(pair, distributed.own_rows(draws))
        return Varied(image, pair.points, pair.mask)

    def forward(self, model: nn.Module, batch: Varied) -> Pointmaps:
        out: Pointmaps = model(batch.image)
        return out

    def loss(self, objective: nn.Module, out: Pointmaps, batch: Varied) -> dict[str, Tensor]:
        """The loss of the paper; "distance" is the part of it that is regression."""
        truth, mask = batch.points, batch.mask
        loss = pointmap_loss(
            out.points,
            truth,
            confidence=out.confidence,
            mask=mask,
            alpha=self.config.pointmap.alpha,
        )
        with torch.no_grad():
            return {"loss": loss, "distance": pointmap_loss(out.points, truth, mask=mask)}

    @torch.no_grad()
    def validate(self, network: nn.Module) -> dict[str, float]:
        """Over some pairs of every validation object: the loss's distance, pointmap_error."""
        chosen = self.validation.spread(VAL_PAIRS)[distributed.rank() :: distributed.world()]
        sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        size = self.config.evaluate.batch_size
        for first in range(0, len(chosen), size):  # of no pair there is no batch
            rows = torch.tensor(chosen[first : first + size], device=self.device)
            pair = self.validation(rows)
            points = network(pair.image[:, :, :3]).points
            distance = pointmap_loss(points, pair.points, mask=pair.mask, batch_reduction="sum")
            error = pointmap_error(points, pair.points, mask=pair.mask).sum()
            sums += torch.stack([distance, error, error.new_tensor(len(rows))]).double()
        distance, error, count = distributed.total(sums).tolist()
        return {"val_distance": distance / count, "val_error": error / count} if count else {}

    def evaluate(
        self, state: dict[str, Any] | None, out: Path, commit: str | None = None, **options: Any
    ) -> str:
        """See models.pointmap_score."""
        network = self.build().to(self.device)
        checkpoint.restore(network, cast("dict[str, Any]", state), "network")
        train = self.open(self.config.data.train_split)
        test = self.open(self.config.evaluate.split)
        results = pointmap_score.score(
            self.config, network.eval(), cast("dict[str, Any]", state), train, test, commit
        )
        return pointmap_score.write(results, out)
