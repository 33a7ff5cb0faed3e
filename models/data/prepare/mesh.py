# SPDX-License-Identifier: MIT
"""One object of a source, and its mesh with a flat colour per face (needs trimesh)."""

from __future__ import annotations

import hashlib
import io
import posixpath
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from models.data.categories import SYNSETS
from models.data.prepare import ac3d, polygons
from models.data.prepare.archives import FILE_LIMIT, Beside, open_files
from models.data.prepare.licences import Terms
from models.data.prepare.pictures import check_picture, open_picture
from models.data.prepare.sample import unit_box

_GREY = (0.7, 0.7, 0.7)
_NAME = 200  # characters of a part's name that are looked at


class Item(NamedTuple):
    """A mesh that has not been read yet, and all that is known about it."""

    category: str
    model: str  # folder name in the layout
    name: str
    source: dict[str, str]
    container: Path  # zip file or folder that holds the mesh and its materials
    path: str  # inside the container
    family: str
    rotation: tuple[float, ...] | None = None  # row-major 3 x 3, or None
    size_cm: tuple[float, ...] | None = None  # width, height, depth, where the source tells them
    terms: Terms = Terms()
    hidden: str = ""  # pattern of "name texture" of parts that are no surface (AC3D only)
    textures: tuple[tuple[str, str], ...] = ()  # (name, path) of textures that lie elsewhere
    photos: tuple[tuple[str, str, tuple[float, ...]], ...] = ()  # (photo, mask, box) for views
    stretch: tuple[float, ...] | None = None  # factors of x, y, z, once the mesh is upright

    @property
    def synset(self) -> str:
        return SYNSETS.get(self.category, self.category)

    @property
    def key(self) -> str:
        return f"{self.synset}/{self.model}"


class Part(NamedTuple):
    """Triangles of one material."""

    vertices: np.ndarray  # [V, 3]
    faces: np.ndarray  # [F, 3]
    colours: np.ndarray  # [F, 3] in 0..1


class Mesh(NamedTuple):
    """vertices [V, 3] float64 in the unit frame, faces [F, 3], colours [F, 3] in 0..1."""

    vertices: np.ndarray
    faces: np.ndarray
    colours: np.ndarray
    side: float  # longest side before scaling, source units
    sha256: str  # of the source file


def load_mesh(item: Item, limit: int = FILE_LIMIT) -> Mesh:
    """Read, turn upright, stretch, scale to the unit box. Raises ValueError on a mesh of no use.

    limit: bytes that the mesh, a material file or a texture may have.
    """
    with open_files(item.container, limit) as files:
        data = files.read(item.path)
        beside = Beside(files, posixpath.dirname(item.path))
        suffix = posixpath.splitext(item.path)[1][1:].lower()
        if suffix in ("ac", "acc"):
            parts = ac3d_parts(data, item, beside)
        else:
            parts = trimesh_parts(data, suffix, beside)
    parts = [part for part in parts if len(part.faces)]
    if not parts:
        raise ValueError("no faces")
    offsets = np.cumsum([0] + [len(part.vertices) for part in parts])
    faces = np.concatenate(
        [np.asarray(part.faces) + off for part, off in zip(parts, offsets[:-1], strict=True)]
    )
    vertices = np.concatenate([np.asarray(part.vertices, dtype=np.float64) for part in parts])
    colours = np.concatenate([part.colours for part in parts])
    if item.rotation is not None:
        vertices = vertices @ np.reshape(item.rotation, (3, 3)).T
    if item.stretch is not None:
        vertices = vertices * item.stretch
    # Vertices that no face uses would shift the box away from the surface.
    used, faces = np.unique(faces, return_inverse=True)
    vertices, _, side = unit_box(vertices[used])
    return Mesh(vertices, faces.reshape(-1, 3), colours, side, hashlib.sha256(data).hexdigest())


def trimesh_parts(data: bytes, suffix: str, beside: Any) -> list[Part]:
    """Parts of a file in any format of trimesh; beside: its resolver."""
    import trimesh

    if suffix == "ply" and (part := ply_part(data, beside)):
        return [part]
    if suffix in ("obj", "off"):
        data = (polygons.obj_in_triangles if suffix == "obj" else polygons.off_in_triangles)(data)
    # A scene and not one mesh: joining the parts would lose their materials.
    scene = trimesh.load_scene(
        io.BytesIO(data), file_type=suffix, resolver=beside, process=False
    )  # fmt: skip
    meshes = [part for part in scene.dump() if isinstance(part, trimesh.Trimesh)]
    return [Part(mesh.vertices, mesh.faces, face_colours(mesh)) for mesh in meshes]


def ply_part(data: bytes, beside: Any) -> Part | None:
    """A PLY file with polygons; None where it has triangles alone, which trimesh reads right."""
    from trimesh.exchange.ply import load_ply

    loaded = load_ply(io.BytesIO(data), resolver=beside)
    if (cut := polygons.ply_triangles(loaded)) is None:
        return None
    vertices, faces, owner = cut
    colours = np.tile(_GREY, (len(faces), 1))
    for name, chosen in (("face_colors", owner), ("vertex_colors", faces)):
        if (told := loaded.get(name)) is not None:
            colours = np.asarray(told)[chosen][..., :3].astype(np.float64) / 255
            return Part(vertices, faces, colours.reshape(len(faces), -1, 3).mean(axis=1))
    return Part(vertices, faces, colours)


def face_colours(part: Any) -> np.ndarray:
    """One flat colour per face, [F, 3] float64 in 0..1, from a trimesh part's material."""
    count = len(part.faces)
    material = getattr(part.visual, "material", None)
    if material is None:
        if getattr(part.visual, "kind", None) in ("face", "vertex"):
            return part.visual.face_colors[:, :3].astype(np.float64) / 255
        return np.tile(_GREY, (count, 1))
    main = np.asarray(material.main_color, dtype=np.float64)[:3] / 255
    images = (getattr(material, name, None) for name in ("image", "baseColorTexture"))
    image, uv = next((i for i in images if i is not None), None), getattr(part.visual, "uv", None)
    if image is None or uv is None or len(uv) != len(part.vertices):
        return np.tile(main, (count, 1))
    return texture_colours(check_picture(image), np.asarray(uv, dtype=np.float64)[part.faces])


def texture_colours(image: Image.Image, corner: np.ndarray) -> np.ndarray:
    """Mean colour of the texture on each face: uv of the corners [F, 3, 2] -> [F, 3] in 0..1."""
    # Averaged over corners and centre: at 64 pixels a texture is little more than its mean.
    texels = np.asarray(image.convert("RGB"))
    places = np.concatenate([corner, corner.mean(axis=1, keepdims=True)], axis=1)
    places = np.nan_to_num(places) % 1.0
    height, width = texels.shape[:2]
    column = (places[..., 0] * (width - 1)).astype(np.int64)
    row = ((1 - places[..., 1]) * (height - 1)).astype(np.int64)
    return texels[row, column].mean(axis=1) / 255


def ac3d_parts(data: bytes, item: Item, beside: Beside) -> list[Part]:
    """Parts of an AC3D file, without those that item.hidden names."""
    materials, parts = ac3d.parse(data.decode("latin-1"))
    table = np.array([material.rgb for material in materials] or [_GREY])
    elsewhere, opened = dict(item.textures), {}
    result = []
    for part in parts:
        # Cut off: some of these patterns take the square of the length.
        words = f"{part.name[:_NAME]} {part.texture[:_NAME]}"
        if item.hidden and re.search(item.hidden, words, re.I):
            continue
        if part.texture not in opened:
            opened[part.texture] = _texture(part.texture, beside, elsewhere)
        if (image := opened[part.texture]) is None:
            colours = table[np.minimum(part.material, len(table) - 1)]
        else:
            colours = texture_colours(image, part.uv)
        result.append(Part(part.vertices, part.faces, colours))
    return result


def _texture(name: str, beside: Beside, elsewhere: dict[str, str]) -> Image.Image | None:
    """The texture, found beside the mesh or where the source says; None: the material must do."""
    name = name.replace("\\", "/")
    for place in (name, elsewhere.get(posixpath.basename(name))):
        try:
            if place:
                # By way of RGBA: Pillow warns of a palette with transparency otherwise.
                picture = open_picture(io.BytesIO(beside.get(place)))
                return picture.convert("RGBA").convert("RGB")
        except (KeyError, OSError):
            continue
    return None
