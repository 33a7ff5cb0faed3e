# SPDX-License-Identifier: MIT
"""Reads a prepared set, or ShapeNet in the layout of 3D-R2N2 and 3D-LMNet.

ROOT/ShapeNetRendering/<synset>/<model>/rendering/00.png ... rendering_metadata.txt
ROOT/ShapeNetRendering/<synset>/<model>/depth/00.png ...         optional, and so is
ROOT/ShapeNetRendering/<synset>/<model>/normal/00.png ...
ROOT/ShapeNet_pointclouds/<synset>/<model>/pointcloud_2048.npy
ROOT/splits/<split>_models.json            {synset: ["synset/model", ...]}
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from models.data import maps
from models.data.camera import FOV, Camera, intrinsics, read_metadata, window
from models.data.categories import NAMES
from models.data.folds import Table, split_by_family
from models.data.manifest import is_plain, read_manifest

FURNITURE = Path(__file__).parent / "furniture"  # the set that lies in the repository
SPLITS = ("train", "val", "test")
IN_MEMORY = 4 << 30  # bytes of decoded images up to which they are kept
_NO_GEOMETRY = (torch.empty(0, 0), torch.empty(3, 0, 0))


class View(NamedTuple):
    """The camera of an image; NaN where the set does not tell it."""

    azimuth: torch.Tensor  # [] float32, degrees; 0 looks from +x, 90 from +z
    elevation: torch.Tensor  # [] float32, degrees
    extrinsics: torch.Tensor  # [3, 4] float32, object -> camera: x right, y down, z forward
    intrinsics: torch.Tensor  # [3, 3] float32, pixels of `image`


class Sample(NamedTuple):
    """One view of one object; a DataLoader batches the fields one by one."""

    image: torch.Tensor  # [3, H, W] float32 in 0..1, on white
    points: torch.Tensor  # [N, 3] float32, object frame: y up, longest side 1
    category: torch.Tensor  # [] int64, index into ReconstructionDataset.categories
    sample: torch.Tensor  # [] int64, index of the (object, view) in this split
    object: torch.Tensor  # [] int64, index into ReconstructionDataset.objects
    view: torch.Tensor  # [] int64, number of the image
    camera: View
    depth: torch.Tensor  # [H, W] float32 along the optical axis, 0: nothing; [0, 0]: not asked for
    normal: torch.Tensor  # [3, H, W] float32, camera frame, 0: nothing; [3, 0, 0]: not asked for
    alpha: torch.Tensor  # [1, H, W] float32 in 0..1, the object's share of each pixel


class ReconstructionDataset(Dataset[Sample]):
    """Every view of every object of a split, with the object's points.

    Args:
        root: the set's folder.
        split: "train", "val" or "test".
        image_size: pixels; 137 pixel renderings are cut to [4:-5] first, as the compared papers do.
            None: as they are.
        points: of each cloud; the file pointcloud_<points>.npy is read.
        geometry: read depth and normals too.
        fold: 0 to 4, the set's objects in another split by families, see models.data.folds; -1: the
            split of the set's files.
        in_memory: bytes. A split whose images need no more is decoded at once and kept (uint8, 64
            KB a view at 128 x 128); of a larger one every image is decoded when it is asked for.

    `categories` and `synsets` run over all splits: train and test share the indices. `front` is the
    axis that the objects face ("+z", "-x" ...) by the set's manifest, None where it does not tell.
    """

    def __init__(
        self,
        root: str | Path = FURNITURE,
        split: str = "train",
        image_size: int | None = None,
        points: int = 2048,
        *,
        geometry: bool = False,
        fold: int = -1,
        in_memory: int = IN_MEMORY,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        if image_size is not None and image_size < 1:
            raise ValueError(f"image_size must be positive, got {image_size}")
        self.root, self.split, self.image_size = Path(root), split, image_size
        self.geometry = geometry
        tables = {name: self._read_split(name) for name in SPLITS if self._has_split(name)}
        if split not in tables:
            raise FileNotFoundError(f"missing {self._split_file(split)}")
        manifest = read_manifest(self.root)
        if fold != -1:
            tables = self._split_anew(tables, manifest, fold)
        self.synsets = sorted({s for table in tables.values() for s, keys in table.items() if keys})
        self.categories = [NAMES.get(synset, synset) for synset in self.synsets]
        self.objects = sorted(key for keys in tables[split].values() for key in keys)
        self.object_categories = [self.synsets.index(k.split("/")[0]) for k in self.objects]
        self.samples: list[tuple[int, int]] = []  # (object index, view)
        self._cameras: list[Camera | None] = []  # of each sample
        for index, key in enumerate(self.objects):
            cameras = self._read_cameras(key)
            self.samples += [(index, view) for view in range(len(cameras))]
            self._cameras += cameras
        self.front = _front(manifest)
        self._fov = _fov(manifest)
        self._sha256 = _sha256(manifest)
        self.points = self.clouds(points)
        self.width = self._first_width()  # pixels of the files, before image_size
        # [S, 4, H, W] uint8 as from read_image, or None: read on demand
        self.images = self._read_images(in_memory)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        # Python's rule for negative indices; the sample's number must stay the same for both.
        index = range(len(self.samples))[index]
        owner, view = self.samples[index]
        image = self._image(index) if self.images is None else self.images[index]
        image = image.to(torch.float32) / 255
        depth, normal = _NO_GEOMETRY
        if self.geometry:
            depth, normal = self.depth(index), self.normal(index)
        return Sample(
            image=image[:3],
            points=self.points[owner],
            category=torch.tensor(self.object_categories[owner]),
            sample=torch.tensor(index),
            object=torch.tensor(owner),
            view=torch.tensor(view),
            camera=self.camera(index),
            depth=depth,
            normal=normal,
            alpha=image[3:],
        )

    def name(self, index: int) -> str:
        """The image of a sample as people find it: synset/model/view."""
        owner, view = self.samples[index]
        return f"{self.objects[owner]}/{view:02d}"

    @property
    def azimuth(self) -> torch.Tensor:
        """[S] float32, degrees, of each sample's camera; NaN where the set does not tell it."""
        nan = float("nan")
        return torch.tensor([nan if c is None else c.azimuth for c in self._cameras])

    def category(self, index: int) -> str:
        """The category of a sample's object."""
        return self.categories[self.object_categories[self.samples[index][0]]]

    def clouds(self, points: int) -> torch.Tensor:
        """Another sampling of every object, pointcloud_<points>.npy: [O, points, 3] float32."""
        clouds = [self._read_points(key, points) for key in self.objects]
        return torch.from_numpy(np.stack(clouds)) if clouds else torch.empty(0, points, 3)

    def _path(self, index: int, kind: str) -> Path:
        owner, view = self.samples[index]
        return self.root / "ShapeNetRendering" / self.objects[owner] / kind / f"{view:02d}.png"

    def _image(self, index: int) -> torch.Tensor:
        path = self._path(index, "rendering")
        image = read_image(path, self.image_size)
        if image.shape != (4, *2 * [self.image_size or self.width]):
            raise ValueError(f"{path}: another size than the first image, {self.width} pixels")
        return torch.from_numpy(image)

    def _first_width(self) -> int:
        if not self.samples:
            return 0
        return open_image(self._path(0, "rendering")).width

    def _read_images(self, in_memory: int) -> torch.Tensor | None:
        side = self.image_size or self.width
        if not self.samples or len(self.samples) * 4 * side**2 > in_memory:
            return None if self.samples else torch.empty(0, 4, 0, 0, dtype=torch.uint8)
        images = torch.empty(len(self.samples), 4, side, side, dtype=torch.uint8)
        with ThreadPoolExecutor() as pool:  # decoding leaves the interpreter's lock alone
            for index, image in enumerate(pool.map(self._image, range(len(images)))):
                images[index] = image
        return images

    def camera(self, index: int) -> View:
        """The camera of a sample."""
        camera = self._cameras[index]
        nan = float("nan")
        if camera is None:
            matrix = torch.full((3, 4), nan)
            return View(torch.tensor(nan), torch.tensor(nan), matrix, matrix[:, :3])
        return View(
            torch.tensor(camera.azimuth),
            torch.tensor(camera.elevation),
            torch.from_numpy(camera.extrinsics()).to(torch.float32),
            torch.from_numpy(intrinsics(self.width, self.image_size, self._fov)).float(),
        )

    def depth(self, index: int) -> torch.Tensor:
        """The depth map of a sample, [H, W] float32 at image_size; 0 where nothing is seen."""
        path = self._path(index, "depth")
        return torch.from_numpy(self._resized(path, maps.read_depth))

    def normal(self, index: int) -> torch.Tensor:
        """The normals of a sample, [3, H, W] float32 at image_size; 0 where nothing is seen."""
        path = self._path(index, "normal")
        normal = self._resized(path, maps.read_normal).transpose(2, 0, 1)
        return torch.from_numpy(np.ascontiguousarray(normal))

    def _resized(self, path: Path, read: Callable[[Path], np.ndarray]) -> np.ndarray:
        if not path.exists():
            raise FileNotFoundError(f"missing {path}")
        found = read(path)
        if found.shape[:2] != (self.width, self.width):
            sides = f"{found.shape[1]} x {found.shape[0]}"
            raise ValueError(f"{path}: {sides} pixels, its image has {self.width} a side")
        # The nearest pixel: a mean over an edge would be on no surface.
        offset, side = window(self.width, self.image_size)
        size = self.image_size or self.width
        pick = offset + ((np.arange(size) + 0.5) * side / size).astype(np.int64)
        return np.asarray(found[np.ix_(pick, pick)])

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
                names = key.split("/") if isinstance(key, str) else []
                if len(names) != 2 or not all(map(is_plain, names)) or names[0] != synset:
                    raise ValueError(f"{path}: {key!r} is not of the form {synset}/model")
        return table

    def _split_anew(
        self, tables: dict[str, Table], manifest: dict[str, Any], fold: int
    ) -> dict[str, Table]:
        known = {key for table in tables.values() for keys in table.values() for key in keys}
        records = manifest.get("objects")
        told = {
            f"{r['synset']}/{r['model']}": r
            for r in (records if isinstance(records, list) else [])
            if isinstance(r, dict) and {"synset", "model", "family"} <= r.keys()
        }
        if missing := sorted(known - told.keys()):
            raise ValueError(
                f"data.fold: {self.root / 'manifest.json'} does not tell the family of "
                f"{missing[0]} and {len(missing) - 1} more objects; set it to -1, or make the set "
                "again with models.data.prepare"
            )
        return split_by_family([told[key] for key in sorted(known)], fold)

    def _read_cameras(self, key: str) -> list[Camera | None]:
        """One entry a view of the object; None where its camera is not told."""
        folder = self.root / "ShapeNetRendering" / key / "rendering"
        names = {path.name for path in folder.glob("*.png")}
        # The numbering is checked: a lost image must not renumber the rest.
        for view in range(max(len(names), 1)):
            if f"{view:02d}.png" not in names:
                raise FileNotFoundError(f"missing {folder / f'{view:02d}.png'}")
        path = folder / "rendering_metadata.txt"
        if not path.exists():
            return [None] * len(names)
        try:
            cameras = read_metadata(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        if len(cameras) != len(names):
            raise ValueError(f"{path}: {len(cameras)} cameras for {len(names)} images")
        return list(cameras)

    def _read_points(self, key: str, count: int) -> np.ndarray:
        name = f"{key}/pointcloud_{count}.npy"
        path = self.root / "ShapeNet_pointclouds" / name
        points = read_cloud(path, self._sha256.get(name))
        if len(points) != count:
            raise ValueError(f"{path}: {len(points)} points, expected {count}")
        return points


def _fov(manifest: dict[str, Any]) -> float:
    """Degrees across the renderings; 3D-R2N2's where the manifest does not tell."""
    image = manifest.get("image")
    fov = image.get("fov") if isinstance(image, dict) else None
    return float(fov) if isinstance(fov, int | float) and 0 < fov < 180 else FOV


def _front(manifest: dict[str, Any]) -> str | None:
    frame = manifest.get("frame")  # somebody else's manifest may have none
    front = frame.get("front") if isinstance(frame, dict) else None
    return front if front in ("+x", "-x", "+z", "-z") else None


def _sha256(manifest: dict[str, Any]) -> dict[str, str]:
    """By "synset/model/name" the digests of the files that the manifest tells."""
    found, records = {}, manifest.get("objects")
    for record in records if isinstance(records, list) else []:
        if isinstance(record, dict) and isinstance(table := record.get("sha256"), dict):
            where = f"{record.get('synset')}/{record.get('model')}"
            found.update({f"{where}/{name}": str(digest) for name, digest in table.items()})
    return found


def read_cloud(path: Path, sha256: str | None = None) -> np.ndarray:
    """The points [N, 3] float32, N > 0, of an .npy file; nothing in it is unpickled.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no array of finite real numbers [N, 3], or does not have that `sha256`.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"missing {path}") from None
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(f"{path}: damaged: another sha256 than manifest.json tells")
    try:
        points = np.load(io.BytesIO(content), allow_pickle=False)
    except Exception as error:  # a broken header makes numpy's parser raise nearly anything
        raise ValueError(f"{path}: not a readable array ({error})") from None
    return check_cloud(points, path)


def check_cloud(points: Any, path: Path) -> np.ndarray:
    """`points`, read from `path`, as a cloud [N, 3] float32, N > 0; ValueError if they are none."""
    if not isinstance(points, np.ndarray) or points.dtype.kind not in "fiu":
        kind = getattr(points, "dtype", "an archive")
        raise ValueError(f"{path}: expected real numbers, got {kind}")
    if points.ndim != 2 or points.shape[0] == 0 or points.shape[1] != 3:
        raise ValueError(f"{path}: expected [N, 3], N > 0, got shape {list(points.shape)}")
    with np.errstate(over="ignore"):  # beyond float32 is inf, and told below
        cloud: np.ndarray = points.astype(np.float32)
    if not np.isfinite(cloud).all():
        raise ValueError(f"{path}: expected numbers that are all finite")
    return cloud


def open_image(path: Path) -> Image.Image:
    """A square PNG as RGBA.

    Raises:
        ValueError: it is no PNG that can be read, a checksum in it is wrong, or it is not square.
    """
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content), formats=("PNG",)) as file:
            file.verify()  # the decoder leaves some checksums alone; after it the file is used up
        with Image.open(io.BytesIO(content), formats=("PNG",)) as file:
            if file.width != file.height:
                raise ValueError(f"{path}: {file.width} x {file.height} pixels, expected a square")
            return file.convert("RGBA")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: not a readable image ({error})") from None


def read_image(path: Path, size: int | None = None) -> np.ndarray:
    """A PNG as `on_white` gives it."""
    return on_white(open_image(path), size)


def on_white(image: Image.Image, size: int | None = None) -> np.ndarray:
    """A square RGBA image, cut as camera.window says: [4, size, size] uint8 (None: its own size).

    The first three are its colours on white, the last is its alpha, all resized alike. So the
    picture on a background b is white + (1 - alpha) (b - 1), with white and alpha in 0..1.
    """
    offset, side = window(image.width, size)
    image = image.crop((offset, offset, offset + side, offset + side))
    white = Image.new("RGBA", image.size, "white")
    layers = [Image.alpha_composite(white, image).convert("RGB"), image.getchannel("A")]
    if size is not None and side != size:
        layers = [layer.resize((size, size), Image.Resampling.BILINEAR) for layer in layers]
    return np.ascontiguousarray(np.dstack([np.asarray(x) for x in layers]).transpose(2, 0, 1))
