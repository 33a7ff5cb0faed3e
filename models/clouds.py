# SPDX-License-Identifier: MIT
"""Clouds in files: anybody's, to be scored, and the reconstructions of a network, to be looked at.

A folder of clouds holds <synset>/<model>/<view>.<format> (00.npy ...), or <synset>/<model>.<format>
for all views of an object. Formats: npy; npz with the array "points", or with one array; ply; xyz
(text, x y z and what else there may be on a line); pcd (ascii or binary). No reader runs code.
"""

import io
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.config import ConfigError
from models.data.dataset import ReconstructionDataset, Sample, check_cloud, read_cloud
from models.predict import write_ply

Predictor = Callable[[Sample], Sequence[Tensor]]  # a batch -> clouds [N, 3], on any device
LISTED = 100  # objects that the error about missing files names


def _read_npz(path: Path) -> np.ndarray:
    with np.load(path, allow_pickle=False) as arrays:
        names = list(arrays)
        if "points" not in names and len(names) != 1:
            raise ValueError(f"expected an array 'points', or one array alone, got {names}")
        return np.asarray(arrays["points" if "points" in names else names[0]])


def _read_ply(path: Path) -> np.ndarray:
    try:
        from trimesh.exchange.ply import load_ply
    except ImportError:
        cure = "pip install trimesh, or pip install -e '.[data]'"
        raise ConfigError(f"{path}: PLY files need trimesh: {cure}") from None
    with open(path, "rb") as file:
        # Not trimesh.load: it would merge points that lie in one place.
        return np.asarray(load_ply(file, skip_materials=True, fix_texture=False)["vertices"])


def _read_xyz(path: Path) -> np.ndarray:
    text = path.read_text(encoding="utf-8").replace(",", " ")
    return np.loadtxt(io.StringIO(text), usecols=(0, 1, 2), ndmin=2)


def _read_pcd(path: Path) -> np.ndarray:
    """The point cloud library's own format, version 0.7 and before."""
    content, header = io.BytesIO(path.read_bytes()), dict[str, list[str]]()
    for line in content:
        words = line.decode("ascii").split()
        if words and not words[0].startswith("#"):
            header[words[0].upper()] = words[1:]
        if words and words[0].upper() == "DATA":
            break
    fields, data = header["FIELDS"], header["DATA"]
    counts = [int(count) for count in header.get("COUNT", ["1"] * len(fields))]
    number = int(header["POINTS"][0])
    if data == ["ascii"]:
        first = np.cumsum([0, *counts])
        columns = [int(first[fields.index(axis)]) for axis in "xyz"]
        points = np.loadtxt(content, usecols=columns, ndmin=2)
    elif data == ["binary"]:
        kinds = zip(header["TYPE"], header["SIZE"], strict=True)
        types = [f"<{kind.lower()}{int(size)}" for kind, size in kinds]
        # Names of our own: padding has the name "_", more than once.
        names = [name if name in "xyz" else f"{i} {name}" for i, name in enumerate(fields)]
        layout = np.dtype(list(zip(names, types, [(c,) for c in counts], strict=True)))
        table = np.frombuffer(content.read(), layout, count=number)
        points = np.concatenate([table[axis] for axis in "xyz"], axis=1)
    else:
        raise ValueError(f"expected DATA ascii or binary, got {' '.join(data)}")
    if len(points) != number:
        raise ValueError(f"{len(points)} points, its header says {number}")
    return points


READERS: dict[str, Callable[[Path], np.ndarray]] = {
    ".npy": read_cloud,
    ".npz": _read_npz,
    ".ply": _read_ply,
    ".xyz": _read_xyz,
    ".pcd": _read_pcd,
}


def read(path: Path) -> np.ndarray:
    """The cloud [N, 3] float32, N > 0, in a file of one of READERS' formats.

    Raises:
        ValueError: it cannot be read, or holds no finite points [N, 3]; the message names the file.
    """
    try:
        points: Any = READERS[path.suffix](path)
    except ConfigError:
        raise
    except Exception as error:  # a broken file makes the readers raise nearly anything
        reason = str(error) if isinstance(error, ValueError) else repr(error)
        where = "" if str(path) in reason else f"{path}: not a readable cloud: "
        raise ValueError(f"{where}{reason}") from None
    return check_cloud(points, path)


def find(folder: Path, key: str, view: int) -> Path | None:
    """The file of a view of the object `key`, "synset/model"; None if there is none.

    Raises ConfigError if there is one in more than one format.
    """
    for stem in (f"{key}/{view:02d}", key):
        found = [path for end in READERS if (path := folder / f"{stem}{end}").is_file()]
        if len(found) > 1:
            both = " and ".join(path.name for path in found)
            raise ConfigError(f"{found[0].parent}: {both} are there; expected one of them")
        if found:
            return found[0]
    return None


def find_all(folder: Path, wanted: Iterable[tuple[str, int]]) -> dict[tuple[str, int], Path]:
    """The file of each (object, view), or a ConfigError that lists all that are missing."""
    found = {pair: find(folder, *pair) for pair in wanted}
    missing = sorted(pair for pair, path in found.items() if path is None)
    if missing:
        objects = [
            f"{key} (views {', '.join(f'{view:02d}' for _, view in pairs)})"
            for key, pairs in groupby(missing, key=lambda pair: pair[0])
        ]
        more = f" and {len(objects) - LISTED} more objects" if len(objects) > LISTED else ""
        raise ConfigError(
            f"{folder}: {len(missing)} of {len(found)} clouds are missing, each as "
            f"<synset>/<model>/<view> or <synset>/<model> with one of {', '.join(READERS)}: "
            f"{'; '.join(objects[:LISTED])}{more}"
        )
    return {pair: path for pair, path in found.items() if path is not None}


def folder_predictor(folder: Path, data: ReconstructionDataset, keep: Iterable[int]) -> Predictor:
    """Clouds from files for the samples `keep`; ConfigError at once if one of them is missing."""
    pairs = [data.samples[index] for index in keep]
    paths = find_all(folder, [(data.objects[owner], view) for owner, view in pairs])

    def predict(batch: Sample) -> Sequence[Tensor]:
        pairs = zip(batch.object.tolist(), batch.view.tolist(), strict=True)
        found = [paths[data.objects[owner], view] for owner, view in pairs]
        return [torch.from_numpy(read(path)) for path in found]

    return predict


def saving(predictor: Predictor, data: ReconstructionDataset, folder: Path) -> Predictor:
    """The same clouds, each written into `folder` as <synset>/<model>/<view>.ply."""

    def predict(batch: Sample) -> Sequence[Tensor]:
        found = predictor(batch)
        for cloud, sample in zip(found, batch.sample.tolist(), strict=True):
            path = folder / f"{data.name(sample)}.ply"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_ply(path, cloud.float().cpu())
        return found

    return predict
