# SPDX-License-Identifier: MIT
"""Scores a voxel network beside mean voxels, retrieval and the oracle, on the same test images.

Every answer is a grid of bits, so IoU needs a threshold: the network's and the mean's are searched
on the validation split. The points of a grid's surface (models.data.occupancy) are scored as a
point network's are, so that both kinds can stand in one table: see models.compare.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from tqdm import tqdm

from models import checkpoint, files, plots, report
from models import config as configs
from models.baselines import FLOOR, ORACLE
from models.clouds import saving
from models.config import Config
from models.cost import describe_machine, measure
from models.data.dataset import View
from models.data.occupancy import surface_points
from models.determinism import deterministic
from models.judge import Judge
from models.networks.voxel import RESOLUTION, VoxelNetwork
from models.score import describe_split
from models.tables import tabulate
from models.tasks import voxel_latent, voxel_plots
from models.tasks.voxel_answers import (
    MEAN,
    SHARED,
    Method,
    Split,
    look,
    methods_beside,
    open_parts,
    search_threshold,
)
from pointloss import voxel_iou
from pointloss.protocols import PLAIN, Protocol


@dataclass(frozen=True)
class VolumeProtocol(Protocol):
    """A protocol whose table begins with the IoU of the grids that the clouds are taken from."""

    def columns(self) -> list[str]:
        return ["IoU", *super().columns()]


class VolumeJudge(Judge):
    """Scores grids: IoU, and their surface points by a protocol."""

    def __init__(self, judge: Judge, volumes: Tensor):
        self.clouds = judge
        self.options, self.device, self.truth = judge.options, judge.device, judge.truth
        self.protocol = VolumeProtocol(**vars(judge.protocol))
        self.volumes = volumes

    def score_grids(
        self, method: str, grids: Tensor, clouds: list[Tensor], chosen: Tensor, objects: Tensor
    ) -> Tensor:
        """grids[chosen] and clouds[chosen] of the true `objects`, both [S] -> [S, columns]."""
        pairs, back = torch.stack([chosen, objects], dim=1).unique(dim=0, return_inverse=True)
        parts = []
        batches = pairs.split(self.options.batch_size)
        with tqdm(
            batches, f"{self.protocol.name} {method}", unit="batch", leave=False, disable=None
        ) as bar:
            for rows, owners in (batch.unbind(1) for batch in bar):
                iou = voxel_iou(grids[rows].float(), self.volumes[owners])
                own = [clouds[row] for row in rows.tolist()]
                parts.append(
                    torch.cat([iou[:, None], self.clouds.score(own, owners, owners)], dim=1)
                )
        return torch.cat(parts)[back]


@deterministic()
def score(
    config: Config,
    device: str,
    state: dict[str, Any],
    out: Path,
    commit: str | None = None,
    save_clouds: Path | None = None,
) -> str:
    """Write results.md, .csv, .json, latent.json and the pictures into `out`; the Markdown."""
    protocol, test, held_out, train = open_parts(config, device)
    network = VoxelNetwork(config.network.preset, config.data.image_size).to(device)
    checkpoint.restore(network, state, "network")
    network.eval()
    threshold = search_threshold(network, held_out, config, device)
    seen = look(network, test, config, device, threshold)
    methods = {config.network.name: Method(seen.grids, torch.arange(len(seen.grids)))}
    methods |= methods_beside(config, network, seen, test, held_out, train, device)
    methods[FLOOR] = Method(test.volumes, test.objects)
    points, seed = config.network.points, config.evaluate.seed
    judges = [
        Judge(config.evaluate, p, test.data, device) for p in dict.fromkeys((protocol, PLAIN))
    ]
    shown = [VolumeJudge(judge, test.volumes) for judge in judges]
    clouds = {name: clouds_of(m, points, seed) for name, m in methods.items()}
    scores = [
        {
            name: j.score_grids(name, m.grids, clouds[name], m.chosen, test.objects)
            for name, m in methods.items()
        }
        for j in shown
    ]
    own = clouds[config.network.name]
    if save_clouds is not None:
        row = {sample: number for number, sample in enumerate(test.keep)}
        write = saving(lambda b: [own[row[s]] for s in b.sample.tolist()], test.data, save_clouds)
        for batch in test.loader(config):
            write(batch)
    header = [
        describe_split(config, test.data, len(test.keep)),
        *checkpoint.describe(state, config),
        describe_volumes(config, threshold),
        describe_machine(device, commit),
    ]
    tables = tabulate(list(shown), scores, test.objects, test.data)
    results = report.Results(
        config.network.name,
        header,
        *tables,
        [],
        measure(cast("Any", network), config),
        configs.to_dict(config),
        pictures(test, own, scores[0][config.network.name], shown[0]),
    )
    report.write(results, out)
    latent = voxel_latent.study(network, seen, methods, test, train, config, device, threshold)
    files.write_text(out / "latent.json", report.as_json(latent))
    text = report.as_markdown(results) + "\n" + voxel_latent.as_markdown(latent)
    files.write_text(out / "results.md", text)
    voxel_plots.draw(out, network, seen, methods, test, config, device, threshold)
    return text


def clouds_of(method: Method, points: int, seed: int) -> list[Tensor]:
    """The surface points of each grid that a method chooses; [0, 3] of those that it does not."""
    clouds = [torch.empty(0, 3)] * len(method.grids)
    for row in method.chosen.unique().tolist():
        clouds[row] = surface_points(method.grids[row], points, seed)
    return clouds


def describe_volumes(config: Config, threshold: float) -> str:
    """What is behind the columns of this kind of problem."""
    held_out = config.data.val_split
    warning = " WARNING: which is this very split." if held_out == config.evaluate.split else ""
    return (
        f"{RESOLUTION}^3 voxels over the unit cube, carved by {config.voxel.source}; IoU of the "
        f"grids, more is better. Cut at a probability of {threshold:.2f}, the best on split "
        f"{held_out!r}; so is the mean's.{warning} Clouds: {config.network.points} points of "
        f"the surface of the voxels. {MEAN}: the training volumes' mean. {SHARED}: the training "
        f"volume whose code is nearest to the image's. {ORACLE}: here by IoU. {FLOOR}: here the "
        f"points of the true voxels."
    )


def pictures(
    test: Split, clouds: list[Tensor], scores: Tensor, judge: VolumeJudge
) -> plots.Pictures:
    """A row for the first image of every category."""
    rows = []
    for row in plots.choose_rows([test.data.category(i) for i in test.keep]):
        sample = test.data[test.keep[row]]
        iou, cd = scores[row, 0].item(), scores[row, 1].item()
        label = f"{test.data.category(test.keep[row])}\nIoU {iou:.2f}, CD {cd:.3g}"
        camera = View(*sample.camera)
        rows.append(plots.Picture(sample.image, sample.points, clouds[row], camera, label))
    note = f"CD by the convention {judge.protocol.name}, x{judge.protocol.factor:g}"
    return plots.Pictures(rows, note)
