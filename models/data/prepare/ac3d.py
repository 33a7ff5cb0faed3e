# SPDX-License-Identifier: MIT
"""Reads AC3D (.ac, .acc), the mesh format of FlightGear and TORCS, which trimesh does not know.

A text file: MATERIAL lines, then a tree of OBJECTs. Each has vertices, surfaces, a texture, and a
3 x 3 rotation and an offset that hold for its kids too. Source: the AC3D manual's file format page.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from models.data.prepare.polygons import triangulate

_POLYGON, _STRIP = 0, 4  # low four bits of SURF; 1 and 2 are lines


class Material(NamedTuple):
    """Diffuse colour in 0..1, and transparency: 1 is invisible."""

    rgb: tuple[float, float, float]
    transparency: float


class Object(NamedTuple):
    """One OBJECT, triangulated, in the frame of the file."""

    name: str
    vertices: np.ndarray  # [V, 3] float64
    faces: np.ndarray  # [F, 3] int64
    uv: np.ndarray  # [F, 3, 2] float64, texture coordinates of the corners
    material: np.ndarray  # [F] int64, index into the file's materials
    texture: str  # file name, "" for none


class _Surface(NamedTuple):
    """One SURF: its corners' vertex numbers [n] and texture coordinates [n, 2]."""

    kind: int
    material: int
    corner: np.ndarray
    uv: np.ndarray


class _Reader:
    """Goes through the lines once; `number` is the line it stands on, for messages."""

    def __init__(self, text: str) -> None:
        self.lines, self.number = text.split("\n"), 1
        self.materials: list[Material] = []
        self.parts: list[Object] = []

    def words(self) -> list[str]:
        """Words of the next line that is not blank; [] at the end."""
        while self.number < len(self.lines):
            self.number += 1
            if found := self.lines[self.number - 1].split():
                return found
        return []

    def quoted(self) -> str:
        """What stands between the quotes of the present line."""
        return self.lines[self.number - 1].split('"')[1]

    def read(self) -> None:
        while words := self.words():
            if words[0] == "MATERIAL":
                self.materials.append(_material(self.lines[self.number - 1]))
            elif words[0] == "OBJECT":
                self.object(np.eye(3), np.zeros(3))

    def object(self, turn: np.ndarray, shift: np.ndarray) -> None:
        """The object whose OBJECT line was read last, then its kids; turn, shift: its parent's.

        Vertices are rows: the object's own go to (vertex @ rot + loc) @ turn + shift.
        """
        name = texture = ""
        rotation, place = np.eye(3), np.zeros(3)
        repeat, offset = np.ones(2), np.zeros(2)
        vertices, surfaces = np.zeros((0, 3)), list[_Surface]()
        while words := self.words():
            key, values = words[0], words[1:]
            if key == "SURF":
                surfaces.append(self.surface(int(values[0], 16) & 0xF))
            elif key == "name":
                name = self.quoted()
            elif key == "texture":
                texture = self.quoted()
            elif key in ("texrep", "texoff"):
                pair = np.array(values[:2], dtype=np.float64)
                repeat, offset = (pair, offset) if key == "texrep" else (repeat, pair)
            elif key == "rot":
                rotation = np.array(values, dtype=np.float64).reshape(3, 3)
            elif key == "loc":
                place = np.array(values[:3], dtype=np.float64)
            elif key == "data":
                self.skip_text(int(values[0]))
            elif key == "numvert":
                vertices = self.vertices(self.count(values[0]))
            elif key == "kids":
                break
        turn, shift = rotation @ turn, place @ turn + shift
        faces, uv, material = _triangles(name, vertices, surfaces)
        if len(faces):
            place, uv = vertices @ turn + shift, uv * repeat + offset
            self.parts.append(Object(name, place, faces, uv, material, texture))
        for _ in range(int(values[0]) if words else 0):
            kid = self.words()
            if not kid:  # some writers count more kids than there are; nothing is lost
                return
            if kid[0] != "OBJECT":
                raise ValueError(f"expected an OBJECT, got {kid[0]!r}")
            self.object(turn, shift)

    def surface(self, kind: int) -> _Surface:
        material = 0
        while words := self.words():
            if words[0] == "mat":
                material = int(words[1])
            elif words[0] == "refs":
                refs = [self.words() for _ in range(self.count(words[1]))]
                index = np.array([int(ref[0]) for ref in refs], dtype=np.int64)
                uv = np.array([(float(ref[1]), float(ref[2])) for ref in refs]).reshape(-1, 2)
                return _Surface(kind, material, index, uv)
        raise ValueError("the file ends inside a surface")

    def vertices(self, count: int) -> np.ndarray:
        """The next `count` vertices: [count, 3]. Some writers add a normal behind the position."""
        rows = [self.words()[:3] for _ in range(count)]  # a blank line may lie among them
        return np.array(rows, dtype=np.float64).reshape(count, 3)

    def count(self, word: str) -> int:
        """How many lines follow, by the file, which must have as many left."""
        count, left = int(word), len(self.lines) - self.number
        if not 0 <= count <= left:
            raise ValueError(f"{count} lines are announced, {left} are left")
        return count

    def skip_text(self, length: int) -> None:
        """Pass over the free text that follows a "data" line."""
        while length > 0 and self.number < len(self.lines):
            length -= len(self.lines[self.number]) + 1
            self.number += 1


def _triangles(
    name: str, vertices: np.ndarray, surfaces: list[_Surface]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of an object's surfaces: vertex numbers [F, 3], texture corners [F, 3, 2], material [F]."""
    surfaces = [surface for surface in surfaces if surface.kind in (_POLYGON, _STRIP)]
    for surface in surfaces:
        corner = surface.corner
        if len(corner) and (corner.min() < 0 or corner.max() >= len(vertices)):
            raise ValueError(f"object {name!r} has a vertex index out of range")
    polygons = [vertices[s.corner] if s.kind == _POLYGON else vertices[:0] for s in surfaces]
    cut = [
        triangles if surface.kind == _POLYGON else _strip(len(surface.corner))
        for surface, triangles in zip(surfaces, triangulate(polygons), strict=True)
    ]
    faces = [surface.corner[corners] for surface, corners in zip(surfaces, cut, strict=True)]
    uv = [surface.uv[corners] for surface, corners in zip(surfaces, cut, strict=True)]
    material = np.repeat([s.material for s in surfaces], [len(corners) for corners in cut])
    return (
        np.concatenate([np.zeros((0, 3), dtype=np.int64), *faces]),
        np.concatenate([np.zeros((0, 3, 2)), *uv]),
        material.astype(np.int64),
    )


def _strip(corners: int) -> np.ndarray:
    """Corner numbers [t, 3] of a strip's triangles, of which every other one is wound backwards."""
    i = np.arange(max(corners - 2, 0))
    return np.column_stack([i, i + 1 + i % 2, i + 2 - i % 2])


def _material(line: str) -> Material:
    words = line.rpartition('"')[2].split()  # behind the name, which may hold blanks
    colour = words.index("rgb") + 1
    red, green, blue = (min(max(float(word), 0.0), 1.0) for word in words[colour : colour + 3])
    return Material((red, green, blue), float(words[words.index("trans") + 1]))


def parse(text: str) -> tuple[list[Material], list[Object]]:
    """Materials and parts of an AC3D file. Raises ValueError that names the line."""
    if not text.startswith("AC3D"):
        raise ValueError("not an AC3D file")
    reader = _Reader(text)
    try:
        reader.read()
    except (ValueError, IndexError) as error:
        raise ValueError(f"line {reader.number}: {error}") from error
    return reader.materials, reader.parts
