# SPDX-License-Identifier: MIT
"""ShapeNet as 3D-R2N2 rendered and 3D-LMNet sampled it: checked, split, and linked to."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from models.data.camera import read_metadata
from models.data.categories import NAMES
from models.data.manifest import CAMERAS, FORMAT, write_json
from models.data.prepare.archives import PrepareError

# 3D-LMNet takes azimuth 180, the camera on -x, for the view from behind.
FRONT = "+x"
_TOPS = {
    "ShapeNetRendering": "3D-R2N2's renderings, https://cvgl.stanford.edu/data2/ShapeNetRendering.tgz",
    "ShapeNet_pointclouds": "3D-LMNet's point clouds, https://github.com/val-iisc/3d-lmnet",
}
_TRAIN_SHARE = 0.8  # 3D-LMNet's lists hold the first 80 % of the sorted ids of each category
_VAL_STRIDE = 20  # of a category's objects that 3D-LMNet trains on, every 20th validates
_NAMED = 10  # broken objects that are named before the rest is only counted


def index(source: Path, out: Path, quiet: bool) -> list[dict[str, Any]]:
    """Check every object of source and write out's links, splits and manifest; the records.

    Of source nothing is copied or changed. Its own splits/{train,val}_models.json are followed
    where it has them. Their "val" is what the compared papers report on: it becomes "test" here,
    and every 20th training object of a category (the last of fewer, if it is not the only one)
    validates instead, so that no choice is made on the test set.
    """
    from tqdm import tqdm

    for top, origin in _TOPS.items():
        if not (source / top).is_dir():
            raise PrepareError(f"{source}: no {top}/ ({origin})")
    split = read_split(source)
    records, broken = [], 0
    for key in tqdm(sorted(split), unit="object", desc="objects", disable=quiet or None):
        try:
            views, points = check_object(source, key)
        except (OSError, ValueError, EOFError) as error:
            broken += 1
            if broken <= _NAMED:
                tqdm.write(f"skipped {key}: {error}", file=sys.stderr)
            continue
        synset, model = key.split("/")
        category = NAMES.get(synset, synset)
        record = {"synset": synset, "category": category, "model": model, "split": split[key]}
        records.append({**record, "views": views, "points": points})
    if not records:
        raise PrepareError(f"{source}: not one object is whole")
    if broken > _NAMED:
        print(f"{broken} objects skipped in all", file=sys.stderr)
    for top in _TOPS:
        link(out / top, (source / top).resolve())
    write_json(
        out / "manifest.json",
        {
            "format": FORMAT,
            "source": "ShapeNetCore.v1, rendered by 3D-R2N2, sampled by 3D-LMNet",
            "licence": "ShapeNet's terms of use, https://shapenet.org/terms",
            "image": {"metadata": CAMERAS},
            "frame": {"name": "object", "up": "+y", "front": FRONT, "unit": "as ShapeNet has it"},
            "objects": records,
        },
    )
    return records


def read_split(source: Path) -> dict[str, str]:
    """Split of every object, {"synset/model": "train" | "val" | "test"}."""
    if (source / "splits").is_dir():
        train, test = (read_list(source / "splits" / f"{n}_models.json") for n in ("train", "val"))
    else:
        train, test = {}, {}
        for home in folders(source / "ShapeNetRendering"):
            keys = [f"{home.name}/{path.name}" for path in folders(home)]
            cut = int(_TRAIN_SHARE * len(keys))
            train[home.name], test[home.name] = keys[:cut], keys[cut:]
    parts: dict[str, str] = {}
    for keys in train.values():
        parts |= dict.fromkeys(keys, "train")
        if len(keys) > 1:
            last = min(len(keys), _VAL_STRIDE) - 1
            parts |= dict.fromkeys(keys[last::_VAL_STRIDE], "val")
    tested = {key for keys in test.values() for key in keys}
    if twice := tested & set(parts):
        raise PrepareError(f"{source / 'splits'}: {min(twice)} is in train and in val")
    return parts | dict.fromkeys(sorted(tested), "test")


def folders(path: Path) -> list[Path]:
    """Sorted; stray files (.DS_Store) do not count."""
    return sorted(child for child in path.iterdir() if child.is_dir())


def read_list(path: Path) -> dict[str, list[str]]:
    """A {synset: ["synset/model", ...]} file."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        return {synset: [key for key in keys if key.count("/") == 1]
                for synset, keys in sorted(table.items())}  # fmt: skip
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise PrepareError(f"{path}: not a list of models ({error})") from None


def check_object(source: Path, key: str) -> tuple[int, list[int]]:
    """Number of views and sizes of the clouds. Raises ValueError or OSError saying what lacks."""
    folder = source / "ShapeNetRendering" / key / "rendering"
    images = {path.name for path in folder.glob("*.png")}
    views = len(read_metadata((folder / "rendering_metadata.txt").read_text(encoding="utf-8")))
    if lost := {f"{view:02d}.png" for view in range(views)} ^ images:
        raise ValueError(f"{min(lost)}: {len(images)} images for {views} cameras")
    points = []
    for path in sorted((source / "ShapeNet_pointclouds" / key).glob("pointcloud_*.npy")):
        # Only the header is read: 44,000 objects take minutes, not an hour.
        shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
        if shape != (int(path.stem.partition("_")[2]), 3):
            raise ValueError(f"{path.name} has shape {list(shape)}")
        points.append(shape[0])
    if 2048 not in points:
        raise ValueError("no pointcloud_2048.npy")
    return views, points


def link(path: Path, target: Path) -> None:
    """Make path a link to target."""
    if path.is_symlink():
        path.unlink()
    try:
        path.symlink_to(target, target_is_directory=True)
    except OSError as error:
        raise PrepareError(f"{path}: cannot link to {target} ({error.strerror})") from None
