# SPDX-License-Identifier: MIT
"""Score a trained network, or anybody's clouds, on held-out objects.

    python -m models.evaluate runs/NAME [--split test] [--protocol lmnet] [--set evaluate.seed=1]
    python -m models.evaluate --pred-dir CLOUDS [--set data.root=SET]

CLOUDS holds <synset>/<model>/<view>.npy (00.npy ...), or <synset>/<model>.npy for all views of an
object: float [N, 3] in the frame of the set. Prints tables and writes results.md, results.csv,
results.json and reconstructions.png. With the run's own settings they go into the run folder, else
into a folder in it that is named after what differs (RUN/protocol=occnet), or into --out: no answer
takes the place of another question's. Beside the scored clouds
stand the baselines of models/baselines.py and the sampling floor: the truth against another
sampling of itself, below which no number means anything.
"""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from models import checkpoint, plots
from models import config as configs
from models.baselines import (
    NAMES,
    cluster_shapes,
    mean_shape,
    nearest_images,
    nearest_shapes,
    thumbnails,
)
from models.build import build_network, cloud_sizes, open_split, pick_device
from models.config import Config, ConfigError
from models.cost import describe_machine, measure
from models.data.dataset import ReconstructionDataset, Sample, read_cloud
from models.determinism import deterministic
from models.networks.base import Network, Reconstruction
from models.protocols import PROTOCOLS, Protocol
from models.report import Pictures, Results, Row, as_markdown, tabulate, write

FLOOR = "floor"  # the method's name in the tables
Predictor = Callable[[Sample], Tensor]  # a batch of images -> clouds [B, N, 3], on any device


class Truth(NamedTuple):
    """The true clouds of a split, one row an object."""

    clouds: Tensor  # [O, P, 3], what CD and EMD compare with
    dense: Tensor  # [O, K, 3], for the F-score
    other: Tensor | None  # [O, Q, 3], another sampling of the same surfaces, for the floor
    other_is_dense: bool


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
    """A protocol with its truth: clouds in, one row of numbers a cloud out."""

    def __init__(
        self, config: Config, protocol: Protocol, data: ReconstructionDataset, device: str
    ):
        self.options, self.protocol, self.device = config.evaluate, protocol, device
        self.truth = open_truth(protocol, data)

    def score(self, prediction: Tensor, objects: Tensor, ids: Tensor) -> Tensor:
        """A batch `prediction` [B, N, 3] of the true clouds `objects` [B] -> [B, columns].

        `prediction` may be on any device, `objects` and the scores are on the CPU. `ids` [B] tell
        clouds apart if each has a choice of points of its own.
        """
        values = self.protocol.score(
            prediction.to(self.device),
            self.truth.clouds[objects].to(self.device),
            self.options.seed,
            ids if self.options.sampling == "random" else None,
            self.truth.dense[objects].to(self.device),
        )
        return torch.stack(list(values.values()), dim=1).cpu()

    def score_floor(self, other: Tensor, objects: Tensor) -> Tensor:
        """The truth against `other`, its other sampling, for each image's object [S]."""
        floor = self.score_chosen(FLOOR, other, objects, objects)
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
        with tqdm(batches, method, unit="batch", leave=False) as bar:
            return torch.cat([self.score(clouds[b[:, 0]], b[:, 1], b[:, 1]) for b in bar])[back]


def network_predictor(network: Network, config: Config, device: str) -> Predictor:
    """z is the mean of the latent, so the same images give the same clouds, unless evaluate.draw.

    (The compared systems draw it while they evaluate, and their numbers change from run to run.)
    """
    network.eval()
    torch.manual_seed(config.evaluate.seed)

    @torch.no_grad()
    def predict(batch: Sample) -> Tensor:
        noise = None
        if config.evaluate.draw and network.latent:
            noise = torch.randn(len(batch.image), network.latent, device=device)
        points = batch.points.to(device) if network.reads_points else None
        out: Reconstruction = network(batch.image.to(device), points, noise)
        return out.points

    return predict


def folder_predictor(folder: Path, data: ReconstructionDataset) -> Predictor:
    """Clouds from files; all of one number of points."""
    sizes: set[int] = set()  # of what was read so far

    def read(index: int, view: int) -> np.ndarray:
        key = data.objects[index]
        names = [folder / key / f"{view:02d}.npy", folder / f"{key}.npy"]
        path = next((p for p in names if p.is_file()), None)
        if path is None:
            raise ConfigError(f"--pred-dir: neither {names[0]} nor {names[1]} is there")
        cloud = read_cloud(path)
        sizes.add(len(cloud))
        if len(sizes) > 1:
            raise ConfigError(f"{path}: clouds of --pred-dir differ in their number of points")
        return cloud

    def predict(batch: Sample) -> Tensor:
        pairs = zip(batch.object.tolist(), batch.view.tolist(), strict=True)
        return torch.from_numpy(np.stack([read(index, view) for index, view in pairs]))

    return predict


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


def score_images(
    predictor: Predictor, data: ReconstructionDataset, judge: Judge, workers: int
) -> tuple[Tensor, Tensor, Tensor, Pictures]:
    """Every image of the split once -> scores [S, columns], objects [S], thumbnails, pictures."""
    options = judge.options
    keep = spread_views(data.samples, options.views)
    objects = torch.tensor([data.samples[i][0] for i in keep])
    categories = [data.categories[data.object_categories[o]] for o in objects.tolist()]
    shown = {keep[row]: row for row in plots.choose_rows(categories, objects.tolist())}
    scores, thumbs, drawn = [], [], {}
    loader = DataLoader(Subset(data, keep), options.batch_size, num_workers=workers)
    with tqdm(loader, "scores", unit="batch", leave=False) as bar:
        for batch in bar:
            predicted = predictor(batch)
            scores.append(judge.score(predicted, batch.object, batch.sample))
            thumbs.append(thumbnails(batch.image))
            for row, sample in enumerate(batch.sample.tolist()):
                if sample in shown:
                    drawn[sample] = (batch.image[row], batch.points[row], predicted[row].cpu())
    images, truths, predictions = ([drawn[s][part] for s in shown] for part in range(3))
    pictures = Pictures(images, truths, predictions, [categories[row] for row in shown.values()])
    return torch.cat(scores), objects, torch.cat(thumbs), pictures


def score_baselines(
    config: Config, judge: Judge, objects: Tensor, thumbs: Tensor, mean: Tensor | None, device: str
) -> dict[str, Tensor]:
    """Scores [S, columns] of what learns little or nothing; `objects` [S] of each image."""
    train = open_split(config, config.data.train_split)
    if not train.samples:
        raise ConfigError(
            f"data.train_split: {train.split!r} of {train.root} holds no images for the "
            f"baselines; --set evaluate.baselines=false scores without them"
        )
    mean = mean_shape(train.points, device) if mean is None else mean.cpu()
    loader = DataLoader(train, 256, num_workers=config.data.workers)
    retrieved = nearest_images(thumbs, loader, device)
    member, shapes = cluster_shapes(train.points, device)
    oracle = nearest_shapes(judge.truth.clouds, train.points, device)
    nothing = torch.zeros_like(objects)
    chosen = (
        (mean[None], nothing),
        (shapes, member[retrieved]),
        (train.points, retrieved),
        (train.points, oracle[objects]),
    )
    return {
        name: judge.score_chosen(name, clouds, rows, objects)
        for name, (clouds, rows) in zip(NAMES, chosen, strict=True)
    }


@deterministic()
def evaluate(
    config: Config,
    device: str,
    state: dict[str, Any] | None = None,
    pred_dir: Path | None = None,
    commit: str | None = None,
) -> Results:
    """Score the network of a checkpoint's `state`, or the clouds of `pred_dir`.

    `commit`, of this project, is named in the header if it is given.
    The same weights or clouds give the same table on the same device, however they were trained:
    the matching of the EMD is deterministic here, not only within its certificate.
    """
    options = config.evaluate
    protocol, data = open_asked(config)
    mean, cost, notes = None, {}, []
    if pred_dir is not None:
        name, predictor = pred_dir.resolve().name, folder_predictor(pred_dir, data)
        if name in (*NAMES, FLOOR):  # beside which it stands in the tables
            name = f"{name} (--pred-dir)"
    elif state is None:
        raise ValueError("evaluate: give the state of a checkpoint, or pred_dir")
    else:
        network = build_network(config).to(device)
        checkpoint.restore(network, state, "network")
        name, predictor = config.network.name, network_predictor(network, config, device)
        mean, cost = state["mean_shape"], measure(network, config)
        chosen, epochs = state.get("chosen_on"), len(state["history"])
        why = f"the best on split {chosen!r}" if chosen else "its last"
        notes = [f"Weights after epoch {epochs} of the run, {why}."]
        if chosen == options.split:
            notes.append("WARNING: the best epoch was chosen on this very split.")
        if network.reads_points:
            notes.append(
                "It reads the true cloud, not the image: a bound for what decodes with it."
            )
    judge = Judge(config, protocol, data, device)
    scores, objects, thumbs, pictures = score_images(predictor, data, judge, config.data.workers)
    methods = {name: scores}
    if options.baselines:
        methods |= score_baselines(config, judge, objects, thumbs, mean, device)
    if judge.truth.other is not None:
        methods[FLOOR] = judge.score_floor(judge.truth.other, objects)
    categories = [data.categories[data.object_categories[o]] for o in objects.tolist()]
    rows = tabulate(methods, protocol.columns(), categories)
    header = [protocol.describe(), *describe(config, judge, rows, len(data.objects)), *notes]
    header.append(describe_machine(device, commit))
    return Results(name, header, rows, cost, configs.to_dict(config), pictures)


def describe(config: Config, judge: Judge, rows: list[Row], objects: int) -> list[str]:
    """The lines over a table that depend on the data and not on the convention."""
    options, truth = config.evaluate, judge.truth
    images = next(row["n"] for row in rows if row["category"] == "all images")
    choice = (
        "the same points of every cloud" if options.sampling == "fixed" else "each cloud its own"
    )
    lines = [
        f"Split {options.split!r}: {objects} objects, {images} images. True clouds of "
        f"{truth.clouds.shape[1]} points, for F of {truth.dense.shape[1]}; where a cloud has more "
        f"than the convention takes: a random choice, {choice}, seed {options.seed}. "
        f"Training split {config.data.train_split!r}, all categories together."
    ]
    if judge.protocol.emd:
        gap = max(row["gap"] for row in rows)
        lines.append(
            f"EMD certified: (cost - lower bound) / cost is at most {gap:.2%} in every cloud."
        )
    if truth.dense.shape[1] < judge.protocol.f_points:
        lines.append(
            f"The set has no cloud of {judge.protocol.f_points} points: F at small radii is far "
            f"below 1 even for a perfect answer, see the floor."
        )
    return lines


def results_folder(args: argparse.Namespace, own: Config, asked: Config) -> Path:
    """Where the results go: see the head of this file. `own` is the run's config."""
    if args.out:
        return Path(args.out)
    if args.pred_dir:
        folder, own = args.pred_dir, replace(asked, evaluate=configs.Evaluate())
    else:  # a file of a run may be another than the one that the run itself has scored
        folder = args.run if args.run.is_dir() else args.run.with_suffix("")
    before = asdict(own)
    words = [
        f"{key}={value}"
        for section, table in asdict(asked).items()
        for key, value in table.items()
        if value != before[section][key]
    ]
    return Path(folder) / re.sub(r"[^\w.,=+-]+", "_", ",".join(words))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m models.evaluate", description=__doc__.split("\n")[0]
    )
    parser.add_argument("run", nargs="?", type=Path, help="run folder or checkpoint file")
    parser.add_argument("--pred-dir", type=Path, help="score these clouds instead of a network's")
    parser.add_argument("--split", help="default: the config's evaluate.split")
    parser.add_argument("--protocol", help=f"one of {', '.join(PROTOCOLS)}")
    parser.add_argument("--views", type=int, help="K views of each object; 0: all")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument(
        "--out", type=Path, help="folder for the results (default: RUN or PRED_DIR, see above)"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--commit", help="of this project, to be named in the results")
    args = parser.parse_args(argv)
    if (args.run is None) == (args.pred_dir is None):
        parser.error("give a run, or --pred-dir")
    try:
        device, config, state = pick_device(args.device), Config(), None
        if args.run:
            path = checkpoint.choose(args.run, "last")  # it says which file to score
            state = checkpoint.load(path, device, checkpoint.SCORED)
            config = configs.update(config, state["config"])
        own = config
        config = configs.override(config, args.set)
        if args.run and (wanted := checkpoint.choose(args.run, config.evaluate.checkpoint)) != path:
            path, state = wanted, checkpoint.load(wanted, device, checkpoint.SCORED)
        given = {"split": args.split, "views": args.views, "protocol": args.protocol}
        given = {key: value for key, value in given.items() if value is not None}
        config = configs.update(config, {"evaluate": given})
        out = results_folder(args, own, config)
        results = evaluate(config, device, state, args.pred_dir, args.commit)
        write(results, out)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(as_markdown(results))
    print(f"written: {out}/results.md, .csv, .json, reconstructions.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
