# SPDX-License-Identifier: MIT
"""Polygons -> triangles that cover what the polygon covers, convex or not.

trimesh cuts the polygons of a file into fans, which cover surface that is not there where a polygon
is not convex. So files are handed to it in triangles.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

_FEW = np.zeros((0, 3), dtype=np.int64)
_OVERLAP = 1e-9  # share of a polygon's area by which a fan may cover too much


def triangulate(polygons: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Triangles of flat polygons: corners [n, 3] of each -> corner numbers [t, 3] of each.

    A fan from the first corner where it covers the polygon, else ear clipping (mapbox_earcut).
    Corners may repeat or lie on a line. Fewer than three corners give no triangle.
    """
    result = [_FEW] * len(polygons)
    sizes = np.array([len(polygon) for polygon in polygons], dtype=np.int64)
    for size in np.unique(sizes[sizes >= 3]):
        where = np.flatnonzero(sizes == size)
        corner = np.stack([polygons[i] for i in where.tolist()]).astype(np.float64)
        corner -= corner[:, :1]
        part = np.cross(corner[:, 1:-1], corner[:, 2:])  # of each triangle of the fan
        normal = part.sum(axis=1)
        # Signed areas add up to the polygon's, so a fan is right where none is negative.
        signed = (part * normal[:, None]).sum(axis=-1)
        covers = (signed >= -_OVERLAP * (normal**2).sum(axis=-1, keepdims=True)).all(axis=1)
        last = np.arange(2, size)
        fan = np.column_stack([np.zeros_like(last), last - 1, last])
        for i, polygon, across, right in zip(where, corner, normal, covers, strict=True):
            result[i] = fan if right else _clip_ears(polygon, across)
    return result


def _clip_ears(corner: np.ndarray, normal: np.ndarray) -> np.ndarray:
    from mapbox_earcut import triangulate_float64

    # The axis that the polygon faces is dropped: no rounding, and nothing collapses.
    flat = np.delete(corner, np.abs(normal).argmax(), axis=1)
    triangles = triangulate_float64(flat, np.array([len(flat)], dtype=np.uint32))
    return triangles.reshape(-1, 3).astype(np.int64)


def obj_in_triangles(data: bytes) -> bytes:
    """An OBJ file with its polygons as triangles; references that count backwards made absolute."""
    lines = data.replace(b"\\\r\n", b" ").replace(b"\\\n", b" ").splitlines()
    counts = {b"v": 0, b"vt": 0, b"vn": 0}
    vertices: list[list[bytes]] = []
    faces: dict[int, list[bytes]] = {}  # by line: the references of its corners
    for number, line in enumerate(lines):
        key, _, rest = line.strip().partition(b" ")
        if key in counts:
            counts[key] += 1
            if key == b"v":
                vertices.append(rest.split()[:3])
        elif key == b"f":
            corners = rest.partition(b"#")[0].split()
            if b"-" in rest:
                corners = [_absolute(corner, [*counts.values()]) for corner in corners]
            if len(corners) > 3 or b"-" in rest:
                faces[number] = corners
    if not faces:
        return data
    place = np.array(vertices, dtype=np.float64).reshape(-1, 3)
    polygons = []
    for number, corners in faces.items():
        index = np.array([int(corner.partition(b"/")[0]) - 1 for corner in corners])
        if len(index) and (index.min() < 0 or index.max() >= len(place)):
            raise ValueError(f"line {number + 1}: vertex number out of range")
        polygons.append(place[index])
    for (number, corners), triangles in zip(faces.items(), triangulate(polygons), strict=True):
        lines[number] = b"\n".join(
            b"f " + b" ".join(corners[i] for i in triangle) for triangle in triangles
        )
    return b"\n".join(lines)


def _absolute(corner: bytes, counts: list[int]) -> bytes:
    """v/vt/vn with negative numbers (-1: the last one so far) counted from the start."""
    words = corner.split(b"/")
    for i, word in enumerate(words):
        if word.startswith(b"-"):
            words[i] = b"%d" % (counts[i] + 1 + int(word))
    return b"/".join(words)


def off_in_triangles(data: bytes) -> bytes:
    """An OFF file with its polygons as triangles; colours of faces are left out."""
    bare = b"\n".join(line.partition(b"#")[0] for line in data.splitlines())
    lines = [line for line in bare.partition(b"OFF")[2].splitlines() if line.strip()]
    if not lines:
        raise ValueError("OFF file without a line of counts")
    vertices, faces = (int(word) for word in lines[0].split()[:2])
    corners = lines[1 : vertices + 1]
    place = np.array([line.split()[:3] for line in corners], dtype=np.float64).reshape(-1, 3)
    rows = [line.split() for line in lines[vertices + 1 : vertices + faces + 1]]
    polygons = [np.array(row[1 : int(row[0]) + 1], dtype=np.int64) for row in rows]
    cut = [
        polygon[triangles]
        for polygon, triangles in zip(
            polygons, triangulate([place[polygon] for polygon in polygons]), strict=True
        )
    ]
    triangles = np.concatenate([_FEW, *cut])
    return b"\n".join(
        [b"OFF", b"%d %d 0" % (len(place), len(triangles)), *corners]
        + [b"3 %d %d %d" % tuple(row) for row in triangles]
    )


def ply_triangles(loaded: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Of what trimesh's load_ply returns: vertices [V, 3], triangles [F, 3], polygon of each [F].

    None where all faces are triangles, or there are none.
    """
    raw = loaded["metadata"]["_ply_raw"]
    face = raw.get("face", {}).get("data")
    names = face.dtype.names if isinstance(face, np.ndarray) else face
    name = next((n for n in ("vertex_indices", "vertex_index") if n in (names or ())), None)
    if name is None:
        return None
    rows = face[name]["f1"] if face[name].dtype.names else face[name]
    polygons = [np.asarray(row, dtype=np.int64).reshape(-1) for row in rows]
    if all(len(polygon) == 3 for polygon in polygons):
        return None
    vertices = np.column_stack([raw["vertex"]["data"][axis] for axis in "xyz"]).astype(np.float64)
    if any(len(p) and (p.min() < 0 or p.max() >= len(vertices)) for p in polygons):
        raise ValueError("vertex number out of range")
    cut = triangulate([vertices[polygon] for polygon in polygons])
    owner = np.repeat(np.arange(len(cut)), [len(triangles) for triangles in cut])
    faces = [polygon[triangles] for polygon, triangles in zip(polygons, cut, strict=True)]
    return vertices, np.concatenate([_FEW, *faces]), owner
