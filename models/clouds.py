# SPDX-License-Identifier: MIT
"""Clouds in files: anybody's, to be scored, and the reconstructions of a network, to be looked at.

A folder of clouds holds <synset>/<model>/<view>.<format> (00.npy ...), or <synset>/<model>.<format>
for all views of an object. pointloss.io tells what a file of a format may hold.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models import files
from models.config import ConfigError
from models.data.dataset import ReconstructionDataset, Sample, check_cloud
from pointloss import io

Predictor = Callable[[Sample], Sequence[Tensor]]  # a batch -> clouds [N, 3], on any device
FORMATS = (".npy", ".npz", ".ply", ".xyz", ".pcd")
LISTED = 100  # objects that the error about missing files names


def read(path: Path) -> np.ndarray:
    """The cloud [N, 3] float32, N > 0, in a file of one of FORMATS; of a mesh its vertices.

    Raises:
        ValueError: it cannot be read, or holds no points that are finite; the message names it.
        ConfigError: what reads this format is not installed.
    """
    try:
        return check_cloud(io.read(path).points, path)
    except ImportError as error:
        raise ConfigError(f"{path}: {error}") from None


def find(folder: Path, key: str, view: int) -> Path | None:
    """The file of a view of the object `key`, "synset/model"; None if there is none.

    Raises ConfigError if there is one in more than one format.
    """
    for stem in (f"{key}/{view:02d}", key):
        found = [path for end in FORMATS if (path := folder / f"{stem}{end}").is_file()]
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
            f"<synset>/<model>/<view> or <synset>/<model> with one of {', '.join(FORMATS)}: "
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
            with files.replacing(path) as file:
                io.write_ply(file, cloud.float().cpu().numpy())
        return found

    return predict
