# SPDX-License-Identifier: MIT
"""One object of a source, and its mesh with a flat colour per face (needs trimesh)."""

from __future__ import annotations

import hashlib
import io
import posixpath
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from models.data.categories import SYNSETS
from models.data.licences import Terms
from models.data.sample import unit_box

_LIMIT = 64 << 20  # bytes of one file inside a library
_GREY = (0.7, 0.7, 0.7)


class Item(NamedTuple):
    """A mesh that has not been read yet, and all that is known about it."""

    category: str
    model: str  # folder name in the layout
    name: str
    source: dict[str, str]
    archive: Path  # zip that holds the mesh and its materials
    path: str  # inside the archive
    rotation: tuple[float, ...] | None  # row-major 3 x 3, or None
    size_cm: tuple[float, ...]  # width, height, depth
    family: str
    terms: Terms = Terms()

    @property
    def synset(self) -> str:
        return SYNSETS[self.category]

    @property
    def key(self) -> str:
        return f"{self.synset}/{self.model}"


class Mesh(NamedTuple):
    """vertices [V, 3] float64 in the unit frame, faces [F, 3], colours [F, 3] in 0..1."""

    vertices: np.ndarray
    faces: np.ndarray
    colours: np.ndarray
    side: float  # longest side before scaling, source units
    sha256: str  # of the source file


class _Folder:
    """What trimesh asks for the materials and textures beside a mesh, read from the zip.

    Nothing is unpacked to disk, so a hostile path has nowhere to lead.
    """

    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        self._archive, self._folder = archive, folder

    def get(self, name: str) -> bytes:
        name = posixpath.normpath(posixpath.join(self._folder, name.strip().replace("\\", "/")))
        return read_member(self._archive, name)

    __getitem__ = get

    def namespaced(self, namespace: str) -> _Folder:
        return _Folder(self._archive, posixpath.join(self._folder, namespace))


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """One file of a zip, refused when it claims to be larger than any honest mesh."""
    info = archive.getinfo(name)
    if info.file_size > _LIMIT:
        raise ValueError(f"{name} is {info.file_size >> 20} MB, more than {_LIMIT >> 20} MB")
    return archive.read(info)


def load_mesh(item: Item) -> Mesh:
    """Read, turn upright, scale to the unit box. Raises ValueError on a mesh of no use."""
    import trimesh

    with zipfile.ZipFile(item.archive) as archive:
        data = read_member(archive, item.path)
        folder = _Folder(archive, posixpath.dirname(item.path))
        # A scene and not one mesh: joining the parts would lose their materials.
        scene = trimesh.load_scene(
            io.BytesIO(data), file_type=posixpath.splitext(item.path)[1][1:], resolver=folder,
            process=False,
        )  # fmt: skip
        parts = [part for part in scene.dump() if isinstance(part, trimesh.Trimesh)]
    parts = [part for part in parts if len(part.faces)]
    if not parts:
        raise ValueError("no faces")
    offsets = np.cumsum([0] + [len(part.vertices) for part in parts])
    faces = np.concatenate(
        [np.asarray(part.faces) + off for part, off in zip(parts, offsets[:-1], strict=True)]
    )
    vertices = np.concatenate([np.asarray(part.vertices, dtype=np.float64) for part in parts])
    colours = np.concatenate([face_colours(part) for part in parts])
    if item.rotation is not None:
        vertices = vertices @ np.reshape(item.rotation, (3, 3)).T
    # Vertices that no face uses would shift the box away from the surface.
    used, faces = np.unique(faces, return_inverse=True)
    vertices, _, side = unit_box(vertices[used])
    return Mesh(vertices, faces.reshape(-1, 3), colours, side, hashlib.sha256(data).hexdigest())


def face_colours(part: Any) -> np.ndarray:
    """One flat colour per face, [F, 3] float64 in 0..1, from a trimesh part's material."""
    count = len(part.faces)
    material = getattr(part.visual, "material", None)
    if material is None:
        return np.tile(_GREY, (count, 1))
    main = np.asarray(material.main_color, dtype=np.float64)[:3] / 255
    image, uv = getattr(material, "image", None), getattr(part.visual, "uv", None)
    if image is None or uv is None or len(uv) != len(part.vertices):
        return np.tile(main, (count, 1))
    # Averaged over corners and centre: at 64 pixels a texture is little more than its mean.
    texels = np.asarray(image.convert("RGB"), dtype=np.float64) / 255
    corner = np.asarray(uv, dtype=np.float64)[part.faces]
    places = np.concatenate([corner, corner.mean(axis=1, keepdims=True)], axis=1)
    places = np.nan_to_num(places) % 1.0
    height, width = texels.shape[:2]
    column = (places[..., 0] * (width - 1)).astype(np.int64)
    row = ((1 - places[..., 1]) * (height - 1)).astype(np.int64)
    return texels[row, column].mean(axis=1)
