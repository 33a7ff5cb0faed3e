# SPDX-License-Identifier: MIT
"""Objects -> a set: which of them, in which split, with manifest and credits."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from models.data.camera import FOV
from models.data.manifest import CAMERAS, FORMAT, credits_text, write_json
from models.data.prepare.archives import PrepareError
from models.data.prepare.mesh import Item
from models.data.prepare.objects import Built, Options, Record
from models.data.prepare.sample import seed_of
from models.data.prepare.splits import families, near_duplicates, split
from models.data.prepare.visible import DIRECTIONS

_STRETCH = 0.35  # a stretched copy's factors are e to the power of at most this, either way
_TOPS = ("ShapeNetRendering", "ShapeNet_pointclouds")


def select(items: list[Item], categories: list[str] | None, limit: int | None) -> list[Item]:
    """The first `limit` items of each category (best licence comes first), unique by key."""
    known = {item.category for item in items}
    if unknown := sorted(set(categories or []) - known):
        raise PrepareError(
            f"--categories {unknown[0]}: no such mesh; of {', '.join(sorted(known))}"
        )
    kept: dict[str, Item] = {}
    count: Counter[str] = Counter()
    for item in items:
        if categories is not None and item.category not in categories:
            continue
        if item.key not in kept and (limit is None or count[item.category] < limit):
            kept[item.key] = item
            count[item.category] += 1
    return [kept[key] for key in sorted(kept)]


def records_of(items: list[Item], built: dict[str, Built], fixed: dict[str, str]) -> list[Record]:
    """Manifest records of what was built, with family and split."""
    names = {item.key: item.family for item in items if item.key in built}
    family = families(names, near_duplicates({key: b.dense for key, b in built.items()}))
    category = {key: b.record["category"] for key, b in built.items()}
    parts = split(family, category, fixed)
    return [
        {**b.record, "family": family[key], "split": parts[key]} for key, b in built.items()
    ]  # fmt: skip


def stretched(items: list[Item], records: list[Record], copies: int) -> list[Item]:
    """Copies of each training item, stretched along x, y and z by random factors of their own."""
    train = {f"{r['synset']}/{r['model']}" for r in records if r["split"] == "train"}
    result = []
    for item in items:
        for number in range(1, copies + 1) if item.key in train else ():
            rng = np.random.default_rng(seed_of(item.key, "stretch", number))
            factors = np.exp(rng.uniform(-_STRETCH, _STRETCH, 3)).round(6).tolist()
            model = f"{item.model}-stretched-{number}"
            result.append(item._replace(model=model, stretch=tuple(factors)))
    return result


def records_of_copies(
    copies: list[Item], made: dict[str, Built], records: list[Record], built: dict[str, Built]
) -> list[Record]:
    """Manifest records of stretched copies: their original's family, in train.

    A copy that nearly coincides with an object of another split is left out.
    """
    held = {f"{r['synset']}/{r['model']}" for r in records if r["split"] != "train"}
    shapes = {key: b.dense for key, b in made.items()}
    twice = {key for key, _ in near_duplicates(shapes, {key: built[key].dense for key in held})}
    family = {f"{r['synset']}/{r['model']}": r["family"] for r in records}
    original = {item.key: item.key.rpartition("-stretched-")[0] for item in copies}
    return [
        {**b.record, "family": family[original[key]], "split": "train"}
        for key, b in made.items()
        if key not in twice
    ]


def write_set(out: Path, records: list[Record], options: Options) -> None:
    """Splits, manifest and credits."""
    write_splits(out, records)
    rig = options.rig
    opaque = f"RGB on {rig.background}"
    mode = "RGBA, alpha = coverage" if rig.background == "none" else opaque
    image: dict[str, Any] = {"size": options.size, "mode": mode}
    if options.views:
        metadata = CAMERAS if rig.fov == FOV else CAMERAS.partition("; lens")[0]
        image |= {"views": options.views, "metadata": metadata, "fov": rig.fov, "light": rig.light}
    manifest: dict[str, Any] = {"format": FORMAT, "image": image}
    if options.geometry:
        manifest["depth"] = "16 bit grey, 1e-4 object units along the optical axis, 0: nothing"
        manifest["normal"] = "RGB = 128 + 127 n, camera frame: x right, y down, z forward"
    visible = f"what a ray from outside in one of {DIRECTIONS} directions meets"
    manifest["points"] = {
        "dtype": "float16",
        "sampling": "independent, uniform over the surface",
        "surface": options.surface,
        "meaning": visible if options.surface == "visible" else "inner faces (drawers) too",
    }
    manifest["frame"] = {
        "name": "object",
        "up": "+y",
        "front": options.front,
        "origin": "centre of the box",
        "unit": "longest side of the box",
    }
    write_json(out / "manifest.json", {**manifest, "objects": records})
    (out / "CREDITS.md").write_text(credits_text(records), encoding="utf-8")


def drop_strangers(out: Path, records: list[Record]) -> None:
    """Remove objects that an earlier run with other choices left behind."""
    known = {f"{r['synset']}/{r['model']}" for r in records}
    for top in _TOPS:
        for folder in (out / top).glob("*/*"):
            if f"{folder.parent.name}/{folder.name}" not in known:
                shutil.rmtree(folder)


def check_out(out: Path, *, index: bool = False) -> None:
    """OUT is new, empty, or this command's own, and holds no link: what it leads to is not ours.

    index: the set is to be an index, whose two folders of data are links by nature.
    """
    if out.exists() and not out.is_dir():
        raise PrepareError(f"{out} is a file, expected a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / ".work").is_dir():
        try:
            made_here = "format" in json.loads((out / "manifest.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError):
            made_here = False
        if not made_here:
            raise PrepareError(f"{out} is not empty and was not made by this command")
    tops = [out / top for top in _TOPS]
    if not index and any(top.is_symlink() for top in tops):
        raise PrepareError(f"{out} links to a data set of yours; choose another folder")
    for folder, folders, files in os.walk(out):
        for path in (Path(folder, name) for name in (*folders, *files)):
            if path.is_symlink() and path not in tops:
                raise PrepareError(f"{path} is a link; nothing behind it may be touched")


def write_splits(out: Path, records: list[Record]) -> None:
    for part in ("train", "val", "test"):
        table: dict[str, list[str]] = {r["synset"]: [] for r in records}
        for r in records:
            if r["split"] == part:
                table[r["synset"]].append(f"{r['synset']}/{r['model']}")
        write_json(out / "splits" / f"{part}_models.json", table)


def summary(records: list[Record], rest: str) -> None:
    """Objects by category and split."""
    table = Counter((r["category"], r["split"]) for r in records)
    for category in sorted({c for c, _ in table}):
        print(f"{category:10}", *(f"{p} {table[category, p]:4}" for p in ("train", "val", "test")))
    print(f"{len(records)} objects{rest}")
