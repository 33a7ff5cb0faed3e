# SPDX-License-Identifier: MIT
"""One HTML page in which clouds can be turned, and what evaluated runs are worth.

    python -m models.viewer RUN... --out FILE.html [--objects 40]

The page is one file without network access. Of every run it shows the clouds of the evaluated
split, coloured by the distance to the truth or by the spread over draws of the latent, the loss
curves, and (from results.json of models.evaluate) error against compute and error by category. One
view of each object is shown, another side from object to object.
"""

import argparse
import csv
import math
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from models import files, tables
from models.build import open_split, pick_device
from models.data.dataset import ReconstructionDataset, Sample
from models.page import FRONT, Cloud, Shown, page
from models.predict import SAMPLES, predict
from models.weights import Weights, open_run
from pointloss import nearest

OBJECTS = 40
CAPTION = (
    "CD of one cloud: mean distance to the truth plus mean distance from it, not squared, x100, in "
    "the set's unit (the object's longest side is 1), without alignment. The charts' CD and EMD "
    "follow the convention that models.evaluate was asked for:"
)


def names_of(runs: Sequence[Path]) -> list[str]:
    """A name for each run: its folder's, with the parent's before it where that is not enough."""
    last = Counter(run.resolve().name for run in runs)
    paths = [run.resolve() for run in runs]
    found = [p.name if last[p.name] == 1 else f"{p.parent.name}/{p.name}" for p in paths]
    if twice := [name for name, count in Counter(found).items() if count > 1]:
        raise ValueError(f"two of the runs are called {twice[0]}; rename the folder of one")
    return found


def views_shown(data: ReconstructionDataset) -> list[int]:
    """A sample of each object: view 0 of the first, 1 of the second ..., around and around."""
    views: dict[int, list[int]] = {}
    for sample, (owner, _) in enumerate(data.samples):
        views.setdefault(owner, []).append(sample)
    return [of[owner % len(of)] for owner, of in sorted(views.items())]


def judge(points: Tensor, truth: Tensor, spread: Tensor | None) -> Cloud:
    """A prediction [N, 3] beside the truth [M, 3], both float32."""
    there, back = nearest(points, truth).dist.sqrt(), nearest(truth, points).dist.sqrt()
    return Cloud(points, there, spread, back, 100 * (there.mean() + back.mean()).item())


def clouds_of(
    weights: Weights, samples: list[Sample], truths: list[Tensor], label: str
) -> list[Cloud]:
    """The network's cloud for each sample, judged, with the spread over draws if it draws."""
    clouds = []
    bar = tqdm(
        zip(samples, truths, strict=True),
        label,
        len(samples),
        unit="image",
        leave=False,
        disable=None,
    )
    for sample, truth in bar:
        found = predict(weights, sample.image, SAMPLES, truth=sample.points)
        clouds.append(judge(found.points, truth, found.spread))
    return clouds


def spaced(numbers: list[float], wanted: int) -> list[int]:
    """`wanted` positions, evenly over the ranks of `numbers`, least and largest among them."""
    ranked = sorted(range(len(numbers)), key=lambda i: (numbers[i], i))
    if wanted >= len(ranked):
        return sorted(ranked)
    step = (len(ranked) - 1) / max(wanted - 1, 1)
    return sorted({ranked[round(i * step)] for i in range(wanted)})


def collect(runs: Sequence[Path], labels: list[str], wanted: int, device: str) -> list[Shown]:
    """Clouds of every run on `wanted` objects, spread over the first run's CD.

    Raises:
        ValueError: the runs were evaluated on different objects.
    """
    opened = [open_run(run, device) for run in runs]
    splits = [open_split(w.config, w.config.evaluate.split, images=False) for w in opened]
    samples = [[data[i] for i in views_shown(data)] for data in splits]
    data, first = splits[0], samples[0]
    # Systems give clouds of different sizes; all are judged by the first one's truth.
    truths = [sample.points for sample in first]
    found = []  # [runs][objects]
    for run, weights, split, own, label in zip(runs, opened, splits, samples, labels, strict=True):
        if not own:
            raise ValueError(f"{run}: evaluate.split of {split.root} holds no images")
        if split.objects != data.objects:
            raise ValueError(f"{run}: evaluated on other objects than {runs[0]}")
        found.append(clouds_of(weights, own, truths, label))
    shown = []
    for i in spaced([cloud.cd or 0.0 for cloud in found[0]], wanted):
        view, category = first[i].camera, data.categories[int(first[i].category)]
        angles = (view.azimuth.item(), view.elevation.item())
        camera = angles if all(angle == angle for angle in angles) else FRONT
        clouds = {label: of[i] for label, of in zip(labels, found, strict=True)}
        name = data.name(int(first[i].sample))
        shown.append(Shown(name, category, first[i].image, first[i].points, clouds, camera))
    return shown


def read_curves(path: Path) -> dict[str, list[float | None]]:
    """The columns of metrics.csv that are distances or losses; empty if there is no such file."""
    if not path.is_file():
        return {}
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    left_out = {"lr", "loss_share", "loader_share", "minutes"}
    kept = [key for key in (rows[0] if rows else {}) if key not in left_out]
    return {key: [rounded(row[key]) for row in rows] for key in kept}


def rounded(text: str) -> float | None:
    """A number of metrics.csv; None, which JSON has a word for, if it is empty or not finite."""
    number = float(text or "nan")
    return float(f"{number:.5g}") if math.isfinite(number) else None


def collect_charts(runs: Sequence[Path], labels: list[str]) -> dict[str, Any]:
    """What metrics.csv and results.json of the runs hold; a run without one is left out there."""
    curves, compute = {}, {}
    errors: dict[str, dict[str, dict[str, float]]] = {}  # method -> category -> CD, EMD
    notes: list[str] = []
    for label, run in zip(labels, runs, strict=True):
        if columns := read_curves(run / "metrics.csv"):
            curves[label] = columns
        if not (run / tables.FILE).is_file():
            continue
        results = tables.read_results(run)
        own, protocol = results["method"], next(iter(results["conventions"]))  # the one asked for
        if (convention := results["conventions"][protocol][0]) not in notes:
            notes.append(convention)
        for row in (row for row in results["rows"] if row["protocol"] == protocol):
            # The baselines are those of the first run that has them.
            name = label if row["method"] == own else row["method"]
            numbers = {key: round(row[key], 4) for key in ("CD", "EMD") if key in row}
            errors.setdefault(name, {}).setdefault(row["category"], numbers)
        if results["cost"]:
            compute[label] = round(results["cost"]["macs"] / 1e9, 4)
    return {"curves": curves, "errors": errors, "compute": compute, "notes": notes}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m models.viewer", description=__doc__.split("\n")[0]
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the page")
    parser.add_argument(
        "--objects", type=int, default=OBJECTS, help=f"that are shown at most; default: {OBJECTS}"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    args = parser.parse_args(argv)
    try:
        if args.objects < 1:
            raise ValueError(f"--objects: expected 1 or more, got {args.objects}")
        labels = names_of(args.runs)
        shown = collect(args.runs, labels, args.objects, pick_device(args.device))
        charts = collect_charts(args.runs, labels)
        notes = [CAPTION, *charts["notes"]]
        args.out.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(args.out, page("Reconstructions", notes, labels, shown, charts))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"written: {args.out} ({args.out.stat().st_size / 1e6:.1f} MB, {len(shown)} objects)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
