# SPDX-License-Identifier: MIT
"""Clouds and meshes from files that may be anybody's: sizes are bounded, nothing is unpickled."""

from __future__ import annotations

import importlib
import io
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MAX_BYTES = 2 << 30  # of a file, and of what an archive unpacks to
MAX_POINTS = 20_000_000
MESH_POINTS = 100_000  # sampled of a mesh, unless the caller says how many


class Cloud(NamedTuple):
    """What a file holds, in its own unit."""

    points: Array  # [N, 3], finite
    normals: Array | None  # [N, 3], of any length
    origin: str  # in words: what it was, and what was done


class Raw(NamedTuple):
    """What a reader finds: points, or a mesh to sample."""

    points: Array
    normals: Array | None = None
    faces: NDArray[np.int64] | None = None
    note: str = ""


def read(path: Path, points: int | None, seed: int) -> Cloud:
    """The cloud in a file; a mesh is sampled uniformly by area, with the normals of its faces.

    Args:
        path: a file whose name ends in one of SUFFIXES.
        points: how many to sample of a mesh (None: MESH_POINTS), and at most to take of a cloud
            (None: all).
        seed: of the sampling and of the choice.

    Returns:
        Cloud with points and normals [N, 3] float64, N > 0.

    Raises:
        ValueError: the file is not what its name says, too large, empty or not finite; one line.
        OSError: it cannot be read.
        ImportError: what reads this format is not installed; the message has the pip command.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{path}: expected one of {' '.join(SUFFIXES)}, got {path.suffix!r}")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"{path}: {size} bytes, more than the {MAX_BYTES} that are read")
    content = path.read_bytes()
    try:
        raw = reader(content, path.suffix.lower())
        return _finish(raw, points, np.random.default_rng(seed))
    except ImportError:
        raise
    except Exception as error:  # of a broken file a parser may raise nearly anything
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__} "
        reason = kind + " ".join(str(error).split())
        raise ValueError(f"{path}: {reason[:300]}") from None


def _finish(raw: Raw, points: int | None, rng: np.random.Generator) -> Cloud:
    """Check, sample, choose."""
    _check_points("points", raw.points)
    if raw.faces is not None:
        wanted = MESH_POINTS if points is None else points
        origin = f"mesh of {len(raw.faces)} triangles, {wanted} points sampled by area"
        return Cloud(*_sample(raw.points, raw.faces, wanted, rng), origin)
    found: Array = raw.points
    normals = raw.normals
    if normals is not None:
        _check_points("normals", normals)
    origin = f"cloud of {len(found)} points"
    if points is not None and len(found) > points:
        keep = rng.choice(len(found), points, replace=False)
        found, normals = found[keep], None if normals is None else normals[keep]
        origin += f", {points} of them chosen at random"
    return Cloud(found, normals, origin + raw.note)


def _check_points(what: str, values: Array) -> None:
    if values.ndim != 2 or values.shape[1] != 3 or len(values) == 0:
        raise ValueError(f"expected {what} [N, 3], N > 0, got shape {list(values.shape)}")
    if len(values) > MAX_POINTS:
        raise ValueError(f"{len(values)} points, more than the {MAX_POINTS} that are compared")
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values).all(axis=1)).sum())
        raise ValueError(f"{bad} of {len(values)} {what} are not finite")


def _sample(
    vertices: Array, faces: NDArray[np.int64], count: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    trimesh = need("trimesh", "sampling a mesh")
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    if not mesh.area > 0:
        raise ValueError("the mesh has no surface area")
    points, face = trimesh.sample.sample_surface(mesh, count, seed=rng)
    # Not face_normals, which leaves triangles without area out of its rows.
    corner = vertices[faces[face]]
    return np.asarray(points), np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])


def need(package: str, purpose: str) -> ModuleType:
    """An optional package, or ImportError with the purpose and the pip command."""
    try:
        return importlib.import_module(package)
    except ImportError:
        raise ImportError(f"{purpose} needs {package}: pip install {package}") from None


def _read_trimesh(content: bytes, suffix: str) -> Raw:
    trimesh = need("trimesh", f"reading {suffix}")
    scene = trimesh.load_scene(
        io.BytesIO(content), file_type=suffix[1:], process=False, skip_materials=True
    )
    parts = scene.dump()  # in the scene's frame
    meshes = [p for p in parts if isinstance(p, trimesh.Trimesh) and len(p.faces)]
    if meshes:
        starts = np.cumsum([0] + [len(m.vertices) for m in meshes[:-1]])
        faces = [np.asarray(m.faces) + start for m, start in zip(meshes, starts, strict=True)]
        vertices = [np.asarray(m.vertices, np.float64) for m in meshes]
        return Raw(np.concatenate(vertices), faces=np.concatenate(faces))
    clouds = [p for p in parts if len(getattr(p, "vertices", ()))]
    if not clouds:
        raise ValueError("it holds neither points nor triangles")
    points = np.concatenate([np.asarray(p.vertices, np.float64) for p in clouds])
    if suffix != ".ply":
        return Raw(points)
    # trimesh takes a PLY file that ends early for one with fewer points.
    told = re.search(rb"element\s+vertex\s+(\d+)", content)
    if told and int(told[1]) != len(points):
        raise ValueError(f"the header says {int(told[1])} points, there are {len(points)}")
    return Raw(points, _ply_normals(clouds[0]))


def _ply_normals(cloud: object) -> Array | None:
    """Normals of the points of a PLY file without faces, which trimesh keeps beside them."""
    metadata = getattr(cloud, "metadata", {})
    rows = metadata.get("_ply_raw", {}).get("vertex", {}).get("data")
    names = ("nx", "ny", "nz")
    has = set(getattr(getattr(rows, "dtype", None), "names", None) or rows or ())
    if rows is None or not has.issuperset(names):
        return None
    return np.stack([np.asarray(rows[name], np.float64).reshape(-1) for name in names], axis=1)


def _as_points(array: object) -> Raw:
    """An array [N, 3] of real numbers; columns beyond the third are left out, and this is told."""
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise ValueError(f"expected real numbers, got {getattr(array, 'dtype', type(array))}")
    if array.ndim != 2 or array.shape[1] < 3:
        raise ValueError(f"expected an array [N, 3], got shape {list(array.shape)}")
    extra = array.shape[1] - 3
    note = f" ({extra} more columns are not looked at)" if extra else ""
    return Raw(array[:, :3].astype(np.float64), note=note)


def _read_npy(content: bytes, suffix: str) -> Raw:
    return _as_points(np.load(io.BytesIO(content), allow_pickle=False))


def _read_npz(content: bytes, suffix: str) -> Raw:
    """The array `points`, with `normals` if there; without it the only array [N, 3 or more]."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        total = sum(member.file_size for member in archive.infolist())
    if total > MAX_BYTES:
        raise ValueError(f"unpacks to {total} bytes, more than the {MAX_BYTES} that are read")
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        if "points" in archive.files:
            raw = _as_points(archive["points"])
        else:
            arrays = {name: archive[name] for name in archive.files if name != "normals"}
            fitting = [a for a in arrays.values() if a.ndim == 2 and a.shape[1] >= 3]
            if len(fitting) != 1:
                shapes = ", ".join(f"{name} {list(a.shape)}" for name, a in arrays.items())
                raise ValueError(f"expected an array 'points' [N, 3], got {shapes or 'nothing'}")
            raw = _as_points(fitting[0])
        if "normals" not in archive.files:
            return raw
        normals = _as_points(archive["normals"]).points
    if len(normals) != len(raw.points):
        raise ValueError(f"{len(raw.points)} points, but {len(normals)} normals")
    return raw._replace(normals=normals)


def _read_xyz(content: bytes, suffix: str) -> Raw:
    """Text, a point per line, separated by blanks or commas; # begins a comment."""
    text = content.decode("utf-8").replace(",", " ")
    return _as_points(_numbers(text))


def _numbers(text: str) -> Array:
    """Rows of numbers, at least one."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # numpy warns of a text without rows
        return np.loadtxt(io.StringIO(text), dtype=np.float64, ndmin=2)


def _read_pcd(content: bytes, suffix: str) -> Raw:
    """Point Cloud Library's format, version 0.7, ascii or binary."""
    header, body = _pcd_header(content)
    fields, counts = header["FIELDS"], [int(c) for c in header["COUNT"]]
    points = int(header["POINTS"][0])
    if not 0 < points <= MAX_POINTS:
        raise ValueError(f"expected 1 to {MAX_POINTS} points, the header says {points}")
    for axis in "xyz":
        if fields.count(axis) != 1 or counts[fields.index(axis)] != 1:
            raise ValueError(f"expected fields x, y and z, got {' '.join(fields)}")
    if header["DATA"] == ["ascii"]:
        wanted = {name: sum(counts[:i]) for i, name in enumerate(fields)}
        rows = _numbers(body.decode("ascii"))
        columns = {name: rows[:, place] for name, place in wanted.items() if place < rows.shape[1]}
    elif header["DATA"] == ["binary"]:
        kinds = zip(header["TYPE"], header["SIZE"], counts, strict=True)
        formats = [f"({c},)<{_PCD_TYPES[t]}{int(s)}" for t, s, c in kinds]
        layout = np.dtype([(f"{i}", kind) for i, kind in enumerate(formats)])
        table = np.frombuffer(body, layout, count=points)
        columns = {name: table[f"{i}"][:, 0] for i, name in enumerate(fields) if counts[i]}
    else:
        kind = " ".join(header["DATA"])
        raise ValueError(f"DATA {kind} is not read; save it as ascii or binary")
    if len(columns["x"]) != points:
        raise ValueError(f"the header says {points} points, there are {len(columns['x'])}")
    found, normals = (
        np.stack([columns[n] for n in names], axis=1).astype(np.float64)
        if all(n in columns for n in names)
        else None
        for names in (("x", "y", "z"), ("normal_x", "normal_y", "normal_z"))
    )
    assert found is not None
    # In this format NaN stands for a pixel that was not measured.
    measured = np.isfinite(found).all(axis=1)
    missing = points - int(measured.sum())
    note = f" ({missing} that are not finite are left out)" if missing else ""
    normals = None if normals is None else normals[measured]
    return Raw(found[measured], normals, note=note)


_PCD_TYPES = {"F": "f", "I": "i", "U": "u"}
_PCD_KEYS = ("FIELDS", "SIZE", "TYPE", "COUNT", "POINTS", "DATA")


def _pcd_header(content: bytes) -> tuple[dict[str, list[str]], bytes]:
    """The lines up to DATA by their first word, and what follows them."""
    header: dict[str, list[str]] = {}
    start = 0
    while "DATA" not in header:
        end = content.find(b"\n", start, start + 10_000)
        if end < 0 or len(header) > 20:
            raise ValueError("not a PCD file: its header has no DATA line")
        words = content[start:end].decode("ascii").split()
        start = end + 1
        if words and not words[0].startswith("#"):
            header[words[0]] = words[1:]
    header.setdefault("COUNT", ["1"] * len(header.get("FIELDS", [])))
    missing = [key for key in _PCD_KEYS if not header.get(key)]
    lengths = {len(header[key]) for key in ("FIELDS", "SIZE", "TYPE", "COUNT") if key in header}
    if missing or len(lengths) != 1:
        raise ValueError(f"not a PCD file: {', '.join(missing) or 'FIELDS to COUNT'} do not fit")
    return header, content[start:]


READERS: dict[str, Callable[[bytes, str], Raw]] = {
    **dict.fromkeys((".ply", ".obj", ".stl", ".off", ".glb"), _read_trimesh),
    ".xyz": _read_xyz,
    ".pcd": _read_pcd,
    ".npy": _read_npy,
    ".npz": _read_npz,
}
SUFFIXES = tuple(READERS)
