# SPDX-License-Identifier: MIT
"""A protocol with the true clouds of a split: clouds in, one row of numbers a cloud out."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from models.baselines import FLOOR
from models.build import cloud_sizes
from models.config import Evaluate
from models.data.dataset import ReconstructionDataset
from pointloss.protocols import ALL, Protocol


class Truth(NamedTuple):
    """The true clouds of a split, one row an object."""

    clouds: Tensor  # [O, P, 3], what CD and EMD compare with
    dense: Tensor  # [O, K, 3], for the F-score
    other: Tensor | None  # [O, Q, 3], another sampling of the same surfaces, for the floor
    other_is_dense: bool


def open_truth(protocol: Protocol, data: ReconstructionDataset) -> Truth:
    """Choose among the samplings in the set: the smallest that has enough points, else the largest.

    The floor uses a second sampling with enough points, preferably not the one used for F; without
    one there is no floor.
    """
    sizes = cloud_sizes(data)
    main = min((s for s in sizes if s >= protocol.points), default=max(sizes))
    dense = min((s for s in sizes if s >= protocol.f_points), default=max(sizes))
    beside = [s for s in sizes if s != main and s >= min(protocol.points, main)]
    other = max([s for s in beside if s != dense] or beside, default=None)
    clouds = {size: data.clouds(size) for size in (main, dense, other) if size is not None}
    return Truth(clouds[main], clouds[dense], clouds[other] if other else None, other == dense)


class Judge:
    """Scores clouds against the truth by one protocol."""

    def __init__(
        self, options: Evaluate, protocol: Protocol, data: ReconstructionDataset, device: str
    ):
        self.options, self.protocol, self.device = options, protocol, device
        self.truth = open_truth(protocol, data)

    def score(self, predictions: Sequence[Tensor], objects: Tensor, ids: Tensor) -> Tensor:
        """Clouds [N, 3], which may differ in N, of the true clouds `objects` [B] -> [B, columns].

        The clouds may be on any device, `objects` and the scores are on the CPU. `ids` [B] tell
        clouds apart if each has a choice of points of its own.
        """
        sizes = torch.tensor([len(cloud) for cloud in predictions])
        scores = torch.empty(len(sizes), len(self.protocol.columns()))
        for size in sizes.unique():
            rows = (sizes == size).nonzero()[:, 0]
            values = self.protocol.score(
                torch.stack([predictions[row] for row in rows.tolist()]).to(self.device),
                self.truth.clouds[objects[rows]].to(self.device),
                self.options.seed,
                ids[rows] if self.options.sampling == "random" else None,
                self.truth.dense[objects[rows]].to(self.device),
            )
            scores[rows] = torch.stack(list(values.values()), dim=1).cpu()
        return scores

    def score_floor(self, objects: Tensor) -> Tensor | None:
        """The truth against its other sampling for each image's object [S]; None without one."""
        if self.truth.other is None:
            return None
        floor = self.score_chosen(FLOOR, self.truth.other, objects, objects)
        if self.truth.other_is_dense:  # then the F-score would see a cloud against itself
            again = self.score_chosen(FLOOR, self.truth.clouds, objects, objects)
            first = len(self.protocol.columns()) - len(self.protocol.radii)
            floor[:, first:] = again[:, first:]
        return floor

    def score_chosen(self, method: str, clouds: Tensor, chosen: Tensor, objects: Tensor) -> Tensor:
        """clouds[chosen] against the true clouds `objects`, both [S]; each pair is scored once.

        `method` is the name in the progress bar.
        """
        pairs, back = torch.stack([chosen, objects], dim=1).unique(dim=0, return_inverse=True)
        batches = pairs.split(self.options.batch_size)
        with tqdm(
            batches, f"{self.protocol.name} {method}", unit="batch", leave=False, disable=None
        ) as bar:
            parts = [self.score(clouds[b[:, 0]].unbind(), b[:, 1], b[:, 1]) for b in bar]
        return torch.cat(parts)[back]

    def describe(self, gap: float) -> list[str]:
        """The convention, and what it means on this set; `gap` is the largest of all matchings."""
        truth, protocol = self.truth, self.protocol
        lines = [
            f"{protocol.describe()} True clouds of {truth.clouds.shape[1]} points, for F of "
            f"{truth.dense.shape[1]}."
        ]
        if protocol.emd:
            lines.append(
                f"EMD certified: (cost - lower bound) / cost is at most {gap:.2%} in every cloud."
            )
        if protocol.radii and truth.dense.shape[1] < protocol.f_points < ALL:
            lines.append(
                f"The set has no cloud of {protocol.f_points} points: F at small radii is far "
                f"below 1 even for a perfect answer, see the floor."
            )
        return lines
