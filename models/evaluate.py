# SPDX-License-Identifier: MIT
"""Score a trained network on held-out objects, beside two predictors that learn nothing.

    python -m models.evaluate runs/NAME [--split test] [--views 2] [--set evaluate.seed=1]

Prints a table (per category and the mean over categories) and writes results.md, results.csv,
results.json and reconstructions.png into the run folder.
"""

import argparse
import csv
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from models import checkpoint, plots
from models import config as configs
from models.config import Config
from models.data.dataset import FURNITURE, ReconstructionDataset
from models.networks import NETWORKS
from models.protocols import PROTOCOLS
from pointloss import assign


class Samples(NamedTuple):
    """A split held in memory: one row per image."""

    images: Tensor  # [S, 3, H, W], 0..1
    objects: Tensor  # [S] row of each image's object in `clouds`
    clouds: Tensor  # [O, N, 3]
    categories: list[str]  # [O]


@dataclass(frozen=True)
class Results:
    """Everything a table or a picture needs; rows are plain data for JSON."""

    header: list[str]
    rows: list[dict]
    max_gap: float
    samples: Samples
    predictions: Tensor  # [S, N, 3]


def open_split(config: Config, split: str, points: int | None = None) -> ReconstructionDataset:
    """The data set of a split; `points` a cloud, by default as many as the network gives."""
    return ReconstructionDataset(
        config.data.root or FURNITURE,
        split,
        config.data.image_size,
        points or config.network.points,
    )


def load_split(config: Config, split: str, views: int = 0) -> Samples:
    """A split in memory, the first `views` views of each object (0: all)."""
    data = open_split(config, split)
    keep = [i for i, (_, view) in enumerate(data.samples) if not views or view < views]
    if not keep:
        raise configs.ConfigError(f"split {split!r} of {data.root} holds no images")
    return Samples(
        images=torch.stack([data[i].image for i in keep]),
        objects=torch.tensor([data.samples[i][0] for i in keep]),
        clouds=data.points,
        categories=[data.categories[i] for i in data.object_categories],
    )


def build_network(config: Config) -> nn.Module:
    options = config.network
    if options.name not in NETWORKS:
        raise configs.ConfigError(
            f"network.name: expected one of {', '.join(NETWORKS)}, got {options.name!r}"
        )
    return NETWORKS[options.name](options.preset, points=options.points, out_act=options.out_act)


def count_macs(network: nn.Module, image_size: int) -> int:
    """Multiply-accumulates of one forward pass, convolutions and linear layers only."""
    device = next(network.parameters()).device
    training = network.training
    network.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, image_size, image_size, device=device))
    network.train(training)
    return counter.get_total_flops() // 2


def mean_shape(clouds: Tensor, rounds: int = 2, limit: int = 128, seed: int = 0) -> Tensor:
    """The mean [N, 3] of clouds [O, N, 3]: a free-support Wasserstein barycentre.

    Points of different clouds do not correspond, so each round matches the mean one to one with
    every cloud and averages what each point was matched with (Cuturi and Doucet, 2014, algorithm 2,
    here for unsquared distances). At most `limit` clouds, drawn by `seed`.
    """
    generator = torch.Generator().manual_seed(seed)
    parts = clouds[torch.randperm(len(clouds), generator=generator)[:limit]].split(16)
    mean = parts[0][0]
    prices: list[Tensor | None] = [None] * len(parts)
    for _ in range(rounds):
        total = torch.zeros_like(mean)
        for i, part in enumerate(parts):
            # A gap of a tenth does: the average of a hundred matchings hides more than that.
            match = assign(mean.expand_as(part), part, rtol=0.1, price=prices[i])
            prices[i] = match.price
            total += torch.gather(part, 1, match.idx[..., None].expand(-1, -1, 3)).sum(dim=0)
        mean = total / sum(len(part) for part in parts)
    return mean


def nearest_image(images: Tensor, train: Samples) -> Tensor:
    """For each image the cloud of the training object with the nearest image (L2 of the pixels)."""
    distance = torch.cdist(images.flatten(1), train.images.flatten(1))  # [S, T]
    return train.clouds[train.objects[distance.argmin(dim=1)]]


@torch.no_grad()
def predict(network: nn.Module, images: Tensor, batch_size: int, device: str) -> Tensor:
    """Clouds [S, N, 3] on the CPU; z = mu, so the same images give the same clouds."""
    network.eval()
    return torch.cat([network(part.to(device)).points.cpu() for part in images.split(batch_size)])


def evaluate(
    network: nn.Module, config: Config, device: str, mean: Tensor | None = None
) -> Results:
    """Score the network and the baselines on the split that config.evaluate names."""
    options = config.evaluate
    if options.protocol not in PROTOCOLS:
        known = ", ".join(PROTOCOLS)
        raise configs.ConfigError(
            f"evaluate.protocol: expected one of {known}, got {options.protocol!r}"
        )
    protocol = PROTOCOLS[options.protocol]
    samples = load_split(config, options.split, options.views)
    train = load_split(config, config.data.train_split)
    mean = mean_shape(train.clouds) if mean is None else mean.cpu()
    predictions = predict(network, samples.images, options.batch_size, device)

    def score(prediction: Tensor, truth: Tensor) -> Tensor:  # [S, 3]: cd, emd, gap
        parts = zip(
            prediction.split(options.batch_size), truth.split(options.batch_size), strict=True
        )
        scored = [protocol.score(p.to(device), t.to(device), options.seed) for p, t in parts]
        return torch.cat([torch.stack(s, dim=1).cpu() for s in scored])

    truth_of = open_split(
        config, options.split, protocol.points
    ).points  # [O, P, 3], its own sampling
    truth = truth_of[samples.objects]
    scores = {
        "network": score(predictions, truth),
        # These two do not see the image: once per object is enough.
        "mean shape": score(mean.expand(len(truth_of), -1, -1), truth_of)[samples.objects],
        "nearest image": score(nearest_image(samples.images, train), truth),
    }
    if samples.clouds.shape[1] != truth_of.shape[1]:  # else both come from one file
        scores["floor"] = score(samples.clouds, truth_of)[samples.objects]
    gap = max(float(s[:, 2].max()) for s in scores.values())
    rows = tabulate(scores, [samples.categories[i] for i in samples.objects.tolist()])
    macs = count_macs(network, config.data.image_size)
    parameters = sum(p.numel() for p in network.parameters())
    header = [
        protocol.describe(),
        f"EMD certified: relative gap <= {gap:.2%} in every cloud. Split {options.split!r}, "
        f"{len(samples.clouds)} objects, {len(samples.images)} images, seed {options.seed}; "
        f"the last row is the mean over categories.",
        "mean shape: the training set's, the same for every image. nearest image: the training "
        "object whose image is nearest. floor: the truth against another sampling of itself.",
        f"{config.network.name} {config.network.preset}: {parameters / 1e6:.2f} M parameters, "
        f"{macs / 1e9:.3f} GMAC = {2 * macs / 1e9:.3f} GFLOP for an image of "
        f"{config.data.image_size} x {config.data.image_size}.",
    ]
    return Results(header, rows, gap, samples, predictions)


def tabulate(scores: dict[str, Tensor], categories: list[str]) -> list[dict]:
    """Rows of {category, n, "<column> CD", "<column> EMD"}: one per category, then their mean."""
    rows = []
    for category in sorted(set(categories)):
        mask = torch.tensor([c == category for c in categories])
        row = {"category": category, "n": int(mask.sum())}
        for column, values in scores.items():
            cd, emd, _ = values[mask].double().mean(dim=0).tolist()
            row |= {f"{column} CD": cd, f"{column} EMD": emd}
        rows.append(row)
    mean = {"category": "mean", "n": len(categories)}
    for key in list(rows[0])[2:]:
        mean[key] = sum(row[key] for row in rows) / len(rows)
    return [*rows, mean]


def as_markdown(results: Results) -> str:
    """The table as people read it, with every convention in the lines above it."""
    first, second, *keys = results.rows[0]
    widths = [10, 6, *(max(7, len(key)) for key in keys)]
    lines = [[first.ljust(10), second.rjust(6), *(key.rjust(7) for key in keys)]]
    lines.append(["-" * 10] + ["-" * (width - 1) + ":" for width in widths[1:]])
    for row in results.rows:
        texts = [row[first].ljust(10), str(row[second]).rjust(6)]
        numbers = zip(keys, widths[2:], strict=True)
        lines.append(texts + [f"{row[key]:{width}.2f}" for key, width in numbers])
    table = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([*(line + "  " for line in results.header), "", *table]) + "\n"


def write(results: Results, folder: Path, config: Config) -> None:
    """results.md, results.csv, results.json and the picture grid."""
    (folder / "results.md").write_text(as_markdown(results), encoding="utf-8")
    with open(folder / "results.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(results.rows[0]))
        writer.writeheader()
        writer.writerows(results.rows)
    record = {
        "header": results.header,
        "max_gap": results.max_gap,
        "rows": results.rows,
        "config": configs.to_dict(config),
    }
    (folder / "results.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    s = results.samples
    shown = plots.choose_rows([s.categories[i] for i in s.objects.tolist()], s.objects.tolist())
    plots.reconstructions(
        folder / "reconstructions.png",
        images=s.images[shown],
        truths=s.clouds[s.objects[shown]],
        predictions=results.predictions[shown],
        labels=[s.categories[s.objects[i]] for i in shown],
    )


def pick_device(name: str) -> str:
    """The device for `--device`: auto is CUDA where there is one."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise configs.ConfigError("--device cuda: torch sees no CUDA device; use --device cpu")
    return name


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m models.evaluate", description=__doc__.split("\n")[0]
    )
    parser.add_argument("run", help="run folder or checkpoint file")
    parser.add_argument("--split", help="default: the config's evaluate.split")
    parser.add_argument("--views", type=int, help="first K views of each object; 0: all")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    args = parser.parse_args(argv)
    try:
        device = pick_device(args.device)
        path = checkpoint.find(args.run)
        state = checkpoint.load(path, device, checkpoint.PARTS)
        config = configs.override(configs.update(Config(), state["config"]), args.set)
        given = {"split": args.split, "views": args.views}
        given = {key: value for key, value in given.items() if value is not None}
        config = configs.update(config, {"evaluate": given})
        network = build_network(config).to(device)
        checkpoint.restore(network, state, "network")
        results = evaluate(network, config, device, state["mean_shape"])
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(as_markdown(results))
    write(results, path.parent, config)
    print(f"written: {path.parent}/results.md, .csv, .json, reconstructions.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
