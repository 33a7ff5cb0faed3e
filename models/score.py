# SPDX-License-Identifier: MIT
"""The scores of a network's clouds, or of anybody's, on held-out objects.

Every table is made twice, by the protocol that is asked for and by `plain`, which changes nothing
of what was predicted. Beside the scored clouds stand the baselines of models/baselines.py, each
difference with its standard error, and the sampling floor: the truth against another sampling of
itself, below which no number means anything.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from models import checkpoint, plots, uncertainty
from models import config as configs
from models.baselines import (
    FLOOR,
    NAMES,
    cluster_shapes,
    mean_shape,
    nearest_images,
    nearest_shapes,
    thumbnails,
    with_mirrored,
)
from models.build import build_network, check_orientation, open_split
from models.clouds import Predictor, folder_predictor, saving
from models.config import Config, ConfigError
from models.cost import describe_machine, measure
from models.data.dataset import ReconstructionDataset, Sample, View
from models.determinism import deterministic
from models.judge import Judge
from models.networks.base import Network, Reconstruction
from models.report import Results
from models.tables import BEST_OF, tabulate
from pointloss.protocols import PLAIN, PROTOCOLS, Protocol

Sampler = Callable[[Sample], Tensor]  # a batch -> draws [K, B, N, 3], on any device


def open_asked(config: Config, *, images: bool = True) -> tuple[Protocol, ReconstructionDataset]:
    """The protocol and the split that the config asks for, or an error; see open_split."""
    options = config.evaluate
    if options.protocol not in PROTOCOLS:
        known = ", ".join(PROTOCOLS)
        raise ConfigError(f"evaluate.protocol: expected one of {known}, got {options.protocol!r}")
    data = open_split(config, options.split, images=images)
    if not data.samples:
        raise ConfigError(f"evaluate.split: {options.split!r} of {data.root} holds no images")
    return PROTOCOLS[options.protocol], data


def network_predictor(network: Network, config: Config, device: str) -> Predictor:
    """z is the mean of the latent, so the same images give the same clouds, unless evaluate.draw.

    (The compared systems draw it while they evaluate, and their numbers change from run to run.)
    """
    network.eval()
    draw = network_sampler(network, config, device, 1)

    @torch.no_grad()
    def predict(batch: Sample) -> Sequence[Tensor]:
        if config.evaluate.draw and network.latent:
            return draw(batch)[0].unbind()
        points = batch.points.to(device) if network.reads_points else None
        out: Reconstruction = network(batch.image.to(device), points)
        return out.points.unbind()

    return predict


def network_sampler(network: Network, config: Config, device: str, draws: int) -> Sampler:
    """`draws` clouds of each image, from as many draws of the latent."""

    @torch.no_grad()
    def sample(batch: Sample) -> Tensor:
        seed = config.evaluate.seed
        noise = uncertainty.draw_noise(batch.sample, network.latent, draws, seed).to(device)
        image = batch.image.to(device)
        points = batch.points.to(device) if network.reads_points else None
        return torch.stack([network(image, points, row).points for row in noise])

    return sample


def spread_views(samples: list[tuple[int, int]], wanted: int) -> list[int]:
    """Which of the (object, view) pairs are scored: `wanted` views of each object, or all for 0.

    They are spread evenly over the object's views: the sets of models.data go around it in order,
    so that the first few would show one side only.
    """
    count = Counter(owner for owner, _ in samples)
    return [
        index
        for index, (owner, view) in enumerate(samples)
        if not wanted or view * wanted % count[owner] < wanted
    ]


class Scored(NamedTuple):
    """What became of the S images that are scored, in their order."""

    scores: list[Tensor]  # of each protocol: [S, columns]
    objects: Tensor  # [S] int64
    thumbs: Tensor  # [S, P], for the retrieval
    azimuth: Tensor  # [S] degrees
    draws: uncertainty.Draws | None
    pictures: plots.Pictures


def score_images(
    predictor: Predictor,
    sampler: Sampler | None,
    data: ReconstructionDataset,
    keep: list[int],
    judges: list[Judge],
    workers: int,
) -> Scored:
    """Each image of `keep` once; the pictures carry the CD of the first judge."""
    objects = torch.tensor([data.samples[i][0] for i in keep])
    shown = {keep[row]: row for row in plots.choose_rows([data.category(i) for i in keep])}
    drawn: dict[int, plots.Picture] = {}
    thumbs, azimuth, spreads = [], [], []
    scores: list[list[Tensor]] = [[] for _ in judges]
    samples: list[list[Tensor]] = [[] for _ in judges]
    loader = DataLoader(Subset(data, keep), judges[0].options.batch_size, num_workers=workers)
    with tqdm(loader, "scores", unit="batch", leave=False, disable=None) as bar:
        for batch in bar:
            predicted = predictor(batch)
            thumbs.append(thumbnails(batch.image))
            azimuth.append(batch.camera.azimuth)
            for judge, found in zip(judges, scores, strict=True):
                found.append(judge.score(predicted, batch.object, batch.sample))
            if sampler:
                many = sampler(batch)
                spreads.append(uncertainty.spread(many).cpu())
                for judge, found in zip(judges, samples, strict=True):
                    rows = [judge.score(one.unbind(), batch.object, batch.sample) for one in many]
                    found.append(torch.stack(rows))
            for row, sample in enumerate(batch.sample.tolist()):
                if sample in shown:
                    label = f"{data.category(sample)}\nCD {scores[0][-1][row, 0].item():.3g}"
                    camera = View(*(field[row] for field in batch.camera))
                    three = batch.image[row], batch.points[row], predicted[row].cpu()
                    drawn[sample] = plots.Picture(*three, camera, label)
    draws = None
    if sampler:
        draws = uncertainty.Draws(torch.cat(spreads), [torch.cat(s, dim=1) for s in samples])
    note = f"CD by the convention {judges[0].protocol.name}, x{judges[0].protocol.factor:g}"
    return Scored(
        [torch.cat(found) for found in scores],
        objects,
        torch.cat(thumbs),
        torch.cat(azimuth),
        draws,
        plots.Pictures([drawn[sample] for sample in shown], note),
    )


def score_baselines(
    config: Config, judges: list[Judge], scored: Scored, mean: Tensor | None, device: str
) -> list[dict[str, Tensor]]:
    """Scores [S, columns] by method of what learns little or nothing, one table a judge."""
    train = open_split(config, config.data.train_split)
    if not train.samples:
        raise ConfigError(
            f"data.train_split: {train.split!r} of {train.root} holds no images for the "
            f"baselines; --set evaluate.baselines=false scores without them"
        )
    check_orientation(config, train.front)
    mirror, objects = config.augment.mirror, scored.objects
    mean = mean_shape(train.points, device) if mean is None else mean.cpu()
    loader = DataLoader(train, 256, num_workers=config.data.workers)
    retrieved, turned = nearest_images(scored.thumbs, loader, device, mirror != "none")
    member, shapes = cluster_shapes(train.points, device)
    points = with_mirrored(train.points, mirror)
    oracle = nearest_shapes(judges[0].truth.clouds, points, device)
    chosen = (
        (mean[None], torch.zeros_like(objects)),
        (with_mirrored(shapes, mirror), member[retrieved] + len(shapes) * turned),
        (points, retrieved + len(train.points) * turned),
        (points, oracle[objects]),
    )
    return [
        {
            name: judge.score_chosen(name, shape, rows, objects)
            for name, (shape, rows) in zip(NAMES, chosen, strict=True)
        }
        for judge in judges
    ]


def score_beside(
    name: str,
    config: Config,
    judges: list[Judge],
    scored: Scored,
    mean: Tensor | None,
    device: str,
) -> list[dict[str, Tensor]]:
    """Scores [S, columns] by method, one table a judge: the scored clouds, and all beside them."""
    methods = [{name: own} for own in scored.scores]
    if scored.draws:
        for found, drawn in zip(methods, scored.draws.scores, strict=True):
            found[f"{name}{BEST_OF}{len(drawn)}"] = uncertainty.best_draw(drawn)
    if config.evaluate.baselines:
        beside = score_baselines(config, judges, scored, mean, device)
        methods = [own | found for own, found in zip(methods, beside, strict=True)]
    for judge, found in zip(judges, methods, strict=True):
        if (floor := judge.score_floor(scored.objects)) is not None:
            found[FLOOR] = floor
    return methods


@deterministic()
def score(
    config: Config,
    device: str,
    state: dict[str, Any] | None = None,
    pred_dir: Path | None = None,
    commit: str | None = None,
    samples: int = 0,
    save_clouds: Path | None = None,
) -> Results:
    """Score the network of a checkpoint's `state`, or the clouds of `pred_dir`.

    `commit`, of this project, is named in the header if it is given. `samples` draws of a network's
    latent tell how sure it is (at least 2; 0: none). Every cloud is written into `save_clouds`.
    The same weights or clouds give the same table on the same device, however they were trained:
    the matching of the EMD is deterministic here, not only within its certificate.
    """
    options = config.evaluate
    protocol, data = open_asked(config)
    keep = spread_views(data.samples, options.views)
    mean, cost, notes, sampler = None, {}, [], None
    if samples == 1 or samples < 0:
        raise ConfigError(f"--samples: expected 2 or more, got {samples}")
    if pred_dir is not None:
        name, predictor = pred_dir.resolve().name, folder_predictor(pred_dir, data, keep)
        if name in (*NAMES, FLOOR):  # beside which it stands in the tables
            name = f"{name} (--pred-dir)"
    elif state is None:
        raise ValueError("score: give the state of a checkpoint, or pred_dir")
    else:
        network = build_network(config).to(device)
        checkpoint.restore(network, state, "network")
        name, predictor = config.network.name, network_predictor(network, config, device)
        if samples and network.latent:
            sampler = network_sampler(network, config, device, samples)
        mean, cost = state["mean_shape"], measure(network, config)
        notes = describe_weights(network, state, config)
    if samples and not sampler:
        raise ConfigError(f"--samples: {name} has no latent to draw")
    if save_clouds is not None:
        predictor = saving(predictor, data, save_clouds)
    judges = [Judge(options, p, data, device) for p in dict.fromkeys((protocol, PLAIN))]
    scored = score_images(predictor, sampler, data, keep, judges, config.data.workers)
    unsure = []
    if scored.draws:
        seen = uncertainty.sides(scored.azimuth, data.front)
        unsure = uncertainty.tabulate(scored.draws, scored.scores, judges, seen)
    methods = score_beside(name, config, judges, scored, mean, device)
    header = [describe_split(config, data, len(scored.objects)), *notes]
    header.append(describe_machine(device, commit))
    tables = tabulate(judges, methods, scored.objects, data)
    return Results(name, header, *tables, unsure, cost, configs.to_dict(config), scored.pictures)


def describe_weights(network: Network, state: dict[str, Any], config: Config) -> list[str]:
    """Which weights are scored, and what their score does not mean."""
    notes = checkpoint.describe(state, config)
    if network.reads_points:
        notes.append("It reads the true cloud, not the image: a bound for what decodes with it.")
    return notes


def describe_split(config: Config, data: ReconstructionDataset, images: int) -> str:
    """What was scored, and how points are chosen."""
    options = config.evaluate
    choice = (
        "the same points of every cloud" if options.sampling == "fixed" else "each cloud its own"
    )
    mirror = config.augment.mirror
    allowed = "as they are" if mirror == "none" else f"also mirrored in {mirror}"
    return (
        f"Split {options.split!r}: {len(data.objects)} objects, {images} images. Where a cloud has "
        f"more points than a convention takes: a random choice, {choice}, seed {options.seed}. "
        f"Training split {config.data.train_split!r}, all categories together; the baselines take "
        f"its images and shapes {allowed} (augment.mirror)."
    )
