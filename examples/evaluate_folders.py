# SPDX-License-Identifier: MIT
"""A table of two folders: predictions against the truth, file by file and in the mean.

    python examples/evaluate_folders.py [--out FOLDER] [PREDICTIONS TRUTH]

What `pointloss compare PREDICTIONS TRUTH` prints, from Python, where the numbers can be worked
with: here they are drawn. Without two folders it writes them first, some objects of the repository
with noise that grows from file to file. Writes table.csv and evaluate_folders.png.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no display needed

import matplotlib.pyplot as plt
import numpy as np

from pointloss.compare.measure import Options, measure
from pointloss.compare.sample import read
from pointloss.io import SUFFIXES

OBJECTS = Path(__file__).parent.parent / "models/data/furniture/ShapeNet_pointclouds"
Table = dict[str, dict[str, float]]  # by file, then by measure


def write_folders(out: Path, objects: int) -> tuple[Path, Path]:
    """Folders of predictions and of true clouds, as .npy files of one name."""
    folders = out / "predictions", out / "truth"
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number, path in enumerate(sorted(OBJECTS.glob("*/*/pointcloud_1024.npy"))[:objects]):
        truth = np.load(path).astype(np.float32)
        noise = 0.005 * (number + 1) * rng.standard_normal(truth.shape)
        name = f"{number:02d}-{path.parent.name}.npy"
        np.save(folders[0] / name, (truth + noise).astype(np.float32))
        np.save(folders[1] / name, truth)
    return folders


def compare(predictions: Path, truth: Path) -> Table:
    """What `measure` says of each pair of files with one name."""
    table = {}
    for path in sorted(predictions.iterdir()):
        partner = truth / path.name
        if path.suffix.lower() in SUFFIXES and partner.is_file():
            a, b = read(path, None, seed=0), read(partner, None, seed=1)
            table[path.stem] = measure(a, b, Options()).values
    if not table:
        raise SystemExit(f"evaluate_folders: no file of {predictions} has a partner in {truth}")
    columns = list(dict.fromkeys(name for row in table.values() for name in row))
    # A column may be missing for some pairs: only some files have normals.
    shared = [c for c in columns if all(c in row for row in table.values())]
    mean = {c: float(np.mean([row[c] for row in table.values()])) for c in shared}
    return {**table, "mean": mean}


def main(argv: Sequence[str] | None = None) -> Table:
    """Compare, print, draw; returns the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path, help="predictions and truth")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for what is written")
    parser.add_argument("--objects", type=int, default=8, help="that are written without folders")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    if len(args.folders) not in (0, 2):
        parser.error(f"expected two folders, got {len(args.folders)}")
    folders = args.folders or write_folders(args.out, args.objects)

    table = compare(*folders)
    shown = ["CD", "HD95", "EMD", "gap", "F@2%"]
    print(f"{'':40}" + "".join(f"{name:>10}" for name in shown))
    for name, row in table.items():
        print(f"{name[:40]:40}" + "".join(f"{row[column]:10.4g}" for column in shown))
    with open(args.out / "table.csv", "w", newline="", encoding="utf-8") as file:
        columns = dict.fromkeys(name for row in table.values() for name in row)
        writer = csv.DictWriter(file, ["file", *columns])
        writer.writeheader()
        writer.writerows({"file": name, **row} for name, row in table.items())

    names = [name for name in table if name != "mean"]
    figure, panels = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained", sharey=True)
    for panel, column in zip(panels, ("CD", "EMD", "F@2%"), strict=True):
        panel.barh(names, [table[name][column] for name in names])
        panel.axvline(table["mean"][column], color="0.3", linestyle="--", label="mean")
        panel.set(
            title=column, xlabel="share" if column[0] == "F" else "longest side of an object = 1"
        )
        panel.tick_params(axis="y", labelsize=7)
    panels[0].invert_yaxis()
    panels[0].legend(fontsize=8)
    figure.savefig(args.out / "evaluate_folders.png", dpi=110)
    plt.close(figure)
    print(f"wrote {args.out / 'table.csv'} and {args.out / 'evaluate_folders.png'}")
    return table


if __name__ == "__main__":
    main()
