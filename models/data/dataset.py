# SPDX-License-Identifier: MIT
"""Reads a prepared set, or ShapeNet in the layout of 3D-R2N2 and 3D-LMNet, into memory.

ROOT/ShapeNetRendering/<synset>/<model>/rendering/00.png ...
ROOT/ShapeNet_pointclouds/<synset>/<model>/pointcloud_2048.npy
ROOT/splits/<split>_models.json            {synset: ["synset/model", ...]}
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from models.data.categories import NAMES

FURNITURE = Path(__file__).parent / "furniture"  # the set that lies in the repository
SPLITS = ("train", "val", "test")


class Sample(NamedTuple):
    """One view of one object; a DataLoader batches the fields one by one."""

    image: torch.Tensor  # [3, H, W] float32 in 0..1, on white
    points: torch.Tensor  # [N, 3] float32, object frame: y up, longest side 1
    category: int  # index into ReconstructionDataset.categories
    sample: int  # index of the (object, view) in this split
    object: int  # index into ReconstructionDataset.objects
    view: int  # number of the image


class ReconstructionDataset(Dataset):
    """Every view of every object of a split, with the object's points.

    Images are decoded once and kept (uint8, 12 KB a view at 64 x 64), so the whole set must fit
    into memory. `categories` and `synsets` run over all splits: train and test share the indices.
    """

    def __init__(
        self,
        root: str | Path = FURNITURE,
        split: str = "train",
        image_size: int | None = None,
        points: int = 2048,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        if image_size is not None and image_size < 1:
            raise ValueError(f"image_size must be positive, got {image_size}")
        self.root, self.split = Path(root), split
        tables = {name: self._read_split(name) for name in SPLITS if self._has_split(name)}
        if split not in tables:
            raise FileNotFoundError(f"missing {self._split_file(split)}")
        self.synsets = sorted({s for table in tables.values() for s, keys in table.items() if keys})
        self.categories = [NAMES.get(synset, synset) for synset in self.synsets]
        self.objects = sorted(key for keys in tables[split].values() for key in keys)
        self.object_categories = [self.synsets.index(k.split("/")[0]) for k in self.objects]
        images: list[np.ndarray] = []
        clouds: list[np.ndarray] = []
        self.samples: list[tuple[int, int]] = []  # (object index, view)
        for index, key in enumerate(self.objects):
            clouds.append(self._read_points(key, points))
            for view, path in enumerate(self._views(key)):
                images.append(read_image(path, image_size))
                if images[-1].shape != images[0].shape:
                    raise ValueError(f"{path}: another size than the first; pass image_size")
                self.samples.append((index, view))
        self.points = torch.from_numpy(np.stack(clouds)) if clouds else torch.empty(0, points, 3)
        self.images = torch.from_numpy(np.stack(images)) if images else torch.empty(0, 3, 0, 0)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        # Python's rule for negative indices; the sample's number must stay the same for both.
        index = range(len(self.samples))[index]
        owner, view = self.samples[index]
        image = self.images[index].to(torch.float32) / 255
        category = self.object_categories[owner]
        return Sample(image, self.points[owner], category, index, owner, view)

    def _split_file(self, split: str) -> Path:
        return self.root / "splits" / f"{split}_models.json"

    def _has_split(self, split: str) -> bool:
        if not self.root.is_dir():
            raise FileNotFoundError(f"no folder {self.root}")
        return self._split_file(split).exists()

    def _read_split(self, split: str) -> dict[str, list[str]]:
        path = self._split_file(split)
        try:
            table = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: not JSON ({error})") from None
        if not isinstance(table, dict):
            raise ValueError(f"{path}: expected {{synset: [synset/model, ...]}}")
        for synset, keys in table.items():
            if not isinstance(keys, list):
                raise ValueError(f"{path}: {synset!r} does not hold a list")
            for key in keys:
                # Keys become paths, so nothing but two plain names may pass.
                plain = isinstance(key, str) and re.fullmatch(r"[\w-]+/[\w-]+", key)
                if not plain or not key.startswith(f"{synset}/"):
                    raise ValueError(f"{path}: {key!r} is not of the form {synset}/model")
        return table

    def _views(self, key: str) -> list[Path]:
        folder = self.root / "ShapeNetRendering" / key / "rendering"
        # The numbering is checked: a lost image must not renumber the rest.
        paths = sorted(folder.glob("[0-9][0-9].png"))
        for view in range(max(len(paths), 1)):
            if not (folder / f"{view:02d}.png").exists():
                raise FileNotFoundError(f"missing {folder / f'{view:02d}.png'}")
        return paths

    def _read_points(self, key: str, count: int) -> np.ndarray:
        path = self.root / "ShapeNet_pointclouds" / key / f"pointcloud_{count}.npy"
        if not path.exists():
            raise FileNotFoundError(f"missing {path}")
        try:
            points = np.load(path, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(f"{path}: not a readable array ({error})") from None
        if points.shape != (count, 3):
            raise ValueError(f"{path}: shape {list(points.shape)}, expected [{count}, 3]")
        points = points.astype(np.float32)
        if not np.isfinite(points).all():
            raise ValueError(f"{path}: holds values that are not finite")
        return points


def read_image(path: Path, size: int | None = None) -> np.ndarray:
    """A PNG composited on white, resized to [3, size, size] uint8 (its own size for None)."""
    try:
        with Image.open(path) as file:
            image = file.convert("RGBA")
    except OSError as error:
        raise ValueError(f"{path}: not a readable image ({error})") from None
    white = Image.new("RGBA", image.size, "white")
    image = Image.alpha_composite(white, image).convert("RGB")
    if size is not None and image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
