# SPDX-License-Identifier: MIT
"""One HTML page in which clouds can be turned, and what evaluated runs are worth.

    python -m models.viewer RUN... --out FILE.html [--objects 40]

The page is one file without network access. Of every run it shows the clouds of the evaluated
split, coloured by the distance to the truth or by the spread over draws of the latent, the loss
curves, and (from results.json of models.evaluate) error against compute and error by category. One
view of each object is shown, another side from object to object.
"""

import argparse
import base64
import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from models import files
from models.build import open_split, pick_device
from models.data.dataset import ReconstructionDataset, Sample
from models.determinism import deterministic
from models.weights import Weights, open_weights
from pointloss import nearest

TEMPLATE = Path(__file__).with_name("viewer.html")
OBJECTS = 40
DRAWS = 8
QUANTILE = 0.98  # of all values of a measure, where its colours end
FRONT = (55.0, 25.0)  # azimuth and elevation, degrees, if the camera is not known
CAPTION = (
    "CD of one cloud: mean distance to the truth plus mean distance from it, not squared, x100, in "
    "the set's unit (the object's longest side is 1), without alignment. The charts' CD and EMD "
    "follow the convention that models.evaluate was asked for:"
)


@dataclass(frozen=True)
class Cloud:
    """A prediction, or a truth, with what may colour its points."""

    points: Tensor  # [N, 3]
    distance: Tensor | None = None  # [N] to the truth
    spread: Tensor | None = None  # [N] over draws of the latent
    missed: Tensor | None = None  # [M] from each point of the truth to this cloud
    cd: float | None = None  # x100


class Shown(NamedTuple):
    """An object of the page."""

    name: str
    category: str
    image: Tensor  # [3, H, W] in 0..1
    truth: Tensor | None  # [M, 3]
    clouds: dict[str, Cloud]  # by system
    camera: tuple[float, float] = FRONT  # azimuth and elevation of the image, degrees


def text64(values: Tensor, kind: str) -> str:
    return base64.b64encode(values.numpy().astype(kind).tobytes()).decode()


def quantise(points: Tensor) -> dict[str, Any]:
    """[N, 3] as int16 of the largest coordinate: off by at most 1/65534 of it."""
    reach = max(points.abs().max().item(), 1e-9)
    return {"reach": reach, "points": text64((points / reach * 32767).round(), "<i2")}


def shade(values: Tensor, limit: float) -> str:
    """[N] as uint8 of `limit`, above which there is one colour."""
    return text64((values / limit * 255).round().clamp(0, 255), "u1")


def data_uri(image: Tensor) -> str:
    pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def limits(shown: Sequence[Shown]) -> dict[str, float]:
    """Where the colours of each measure end; a measure that no cloud has is not there."""
    found = {}
    for measure in ("distance", "spread"):
        values = [getattr(cloud, measure) for entry in shown for cloud in entry.clouds.values()]
        if values := [value for value in values if value is not None]:
            ranked = torch.cat(values).sort().values
            found[measure] = max(ranked[int(QUANTILE * (len(ranked) - 1))].item(), 1e-6)
    return found


def page(
    title: str,
    notes: Sequence[str],
    systems: Sequence[str],
    shown: Sequence[Shown],
    charts: dict[str, Any] | None = None,
) -> str:
    """The HTML; `charts` as collect_charts gives them."""
    ends = limits(shown)
    objects = []
    for entry in shown:
        clouds = {}
        for system, cloud in entry.clouds.items():
            packed = quantise(cloud.points) | {"cd": cloud.cd}
            for measure in ("distance", "spread"):
                if (value := getattr(cloud, measure)) is not None:
                    packed[measure] = shade(value, ends[measure])
            if cloud.missed is not None:
                packed["missed"] = shade(cloud.missed, ends["distance"])
            clouds[system] = packed
        objects.append(
            {
                "name": entry.name,
                "category": entry.category,
                "image": data_uri(entry.image),
                "truth": None if entry.truth is None else quantise(entry.truth),
                "clouds": clouds,
                "camera": entry.camera,
            }
        )
    data = {
        "title": title,
        "notes": list(notes),
        "systems": list(systems),
        "limits": ends,
        "objects": objects,
        "charts": charts or {},
    }
    # "<" is the only letter that could end the script element that holds the data.
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return TEMPLATE.read_text(encoding="utf-8").replace("{{DATA}}", text)


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


@torch.no_grad()
def clouds_of(weights: Weights, samples: list[Sample], device: str, label: str) -> list[Cloud]:
    """The network's cloud for each sample, judged, with the spread over draws if it draws."""
    network, clouds = weights.network, []
    noise = torch.randn(DRAWS, network.latent, generator=torch.Generator().manual_seed(0))
    for sample in tqdm(samples, label, unit="image", leave=False):
        image, points = sample.image[None].to(device), None
        if network.reads_points:
            points = sample.points[None].to(device)
        found = network(image, points).points[0].float().cpu()
        spread = None
        if network.latent and not network.reads_points:
            drawn = network(image.expand(DRAWS, -1, -1, -1), None, noise.to(device)).points
            spread = (drawn - drawn.mean(dim=0)).square().sum(dim=-1).mean(dim=0).sqrt().cpu()
        clouds.append(judge(found, sample.points, spread))
    return clouds


def spaced(numbers: list[float], wanted: int) -> list[int]:
    """`wanted` positions, evenly over the ranks of `numbers`, least and largest among them."""
    ranked = sorted(range(len(numbers)), key=lambda i: (numbers[i], i))
    if wanted >= len(ranked):
        return sorted(ranked)
    step = (len(ranked) - 1) / max(wanted - 1, 1)
    return sorted({ranked[round(i * step)] for i in range(wanted)})


@deterministic()
def collect(runs: Sequence[Path], labels: list[str], wanted: int, device: str) -> list[Shown]:
    """Clouds of every run on `wanted` objects, spread over the first run's CD.

    Raises:
        ValueError: the runs were evaluated on different objects.
    """
    opened = [open_weights(f"{run}/", device) for run in runs]
    splits = [open_split(w.config, w.config.evaluate.split, images=False) for w in opened]
    found = []  # [runs][objects]
    for run, weights, data, label in zip(runs, opened, splits, labels, strict=True):
        if not data.samples:
            raise ValueError(f"{run}: evaluate.split of {data.root} holds no images")
        if data.objects != splits[0].objects:
            raise ValueError(f"{run}: evaluated on other objects than {runs[0]}")
        found.append(clouds_of(weights, [data[i] for i in views_shown(data)], device, label))
    data = splits[0]
    samples = [data[i] for i in views_shown(data)]
    shown = []
    for i in spaced([cloud.cd or 0.0 for cloud in found[0]], wanted):
        view, category = samples[i].camera, data.categories[int(samples[i].category)]
        angles = (view.azimuth.item(), view.elevation.item())
        camera = angles if all(angle == angle for angle in angles) else FRONT
        clouds = {label: of[i] for label, of in zip(labels, found, strict=True)}
        name = data.name(int(samples[i].sample))
        shown.append(Shown(name, category, samples[i].image, samples[i].points, clouds, camera))
    return shown


def read_curves(path: Path) -> dict[str, list[float]]:
    """The columns of metrics.csv that are distances or losses; empty if there is no such file."""
    if not path.is_file():
        return {}
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    left_out = {"lr", "loss_share", "loader_share", "minutes"}
    kept = [key for key in (rows[0] if rows else {}) if key not in left_out]
    return {key: [float(f"{float(row[key]):.5g}") for row in rows] for key in kept}


def collect_charts(runs: Sequence[Path], labels: list[str]) -> dict[str, Any]:
    """What metrics.csv and results.json of the runs hold; a run without one is left out there."""
    curves, compute = {}, {}
    errors: dict[str, dict[str, dict[str, float]]] = {}  # method -> category -> CD, EMD
    notes: list[str] = []
    for label, run in zip(labels, runs, strict=True):
        if columns := read_curves(run / "metrics.csv"):
            curves[label] = columns
        if not (path := run / "results.json").is_file():
            continue
        results = json.loads(path.read_text(encoding="utf-8"))
        if (header := results["header"][0]) not in notes:
            notes.append(header)
        own = results["method"]
        for row in results["rows"]:
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
