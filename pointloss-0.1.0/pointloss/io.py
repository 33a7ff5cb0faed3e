# SPDX-License-Identifier: MIT
"""Clouds and meshes in files that may be anybody's: sizes are bounded, nothing is unpickled."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pointloss import _mesh_files
from pointloss._mesh_files import UnreadableError
from pointloss._optional import need

Array = NDArray[np.float64]

MAX_BYTES = 2 << 30  # of a file, and of what it unpacks to
MAX_POINTS = 20_000_000


class Shape(NamedTuple):
    """What a file holds, in its own unit: a cloud, or a mesh."""

    points: Array  # [N, 3], N > 0, finite; of a mesh its vertices
    normals: Array | None = None  # [N, 3], finite, of any length
    faces: NDArray[np.int64] | None = None  # [F, 3] of a mesh, into points
    note: str = ""  # in words, what of the file was left out


def read(path: str | PathLike[str]) -> Shape:
    """The cloud or mesh in a file.

    Formats: npy; npz (the array `points`, with `normals` if there, or the only array [N, 3 or
    more]); xyz (text, a point per line: x y z and what else there may be); pcd (version 0.7 and
    before: ascii, binary, binary_compressed); ply, obj, stl, off and glb, which trimesh reads.

    Args:
        path: a file whose name ends in one of SUFFIXES.

    Returns:
        Shape, in float64. Columns beyond x, y and z are left out, and so are points of a pcd that
        are not finite, which stand for pixels that were not measured.

    Raises:
        ValueError: the file is not what its name says, too large, empty or not finite; one line.
        OSError: it cannot be read.
        ImportError: trimesh is not installed; the message has the pip command.
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UnreadableError(f"{path}: expected one of {' '.join(SUFFIXES)}, got {path.suffix!r}")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise UnreadableError(f"{path}: {size} bytes, more than the {MAX_BYTES} that are read")
    content, suffix = path.read_bytes(), path.suffix.lower()
    try:
        if not content:
            raise UnreadableError("the file is empty")
        shape = reader(content, suffix)
        _check_points("points", shape.points)
        if shape.normals is not None:
            _check_points("normals", shape.normals)
    except ImportError:
        raise
    except UnreadableError as error:
        raise UnreadableError(f"{path}: {error}") from None
    except Exception as error:  # of a broken file a parser may raise nearly anything
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        reason = kind + " ".join(str(error).split())
        raise UnreadableError(f"{path}: broken, or not a {suffix} file ({reason[:300]})") from None
    return shape


def write_ply(file: BinaryIO, points: NDArray[Any], **columns: NDArray[Any]) -> None:
    """Write a cloud as binary PLY: x, y and z, then the columns in their order.

    Args:
        file: open for writing bytes.
        points: real numbers [N, 3]; float64 stays, all else becomes float32.
        columns: by their names further numbers of each point, [N]; uint8 stays, all else becomes
            float32.
    """
    values = {axis: points[:, i] for i, axis in enumerate("xyz")} | columns
    kinds = {name: "uchar" if v.dtype == np.uint8 else "float" for name, v in values.items()}
    if points.dtype == np.float64:
        kinds |= dict.fromkeys("xyz", "double")
    codes = {"uchar": "u1", "float": "<f4", "double": "<f8"}
    rows = np.empty(len(points), [(name, codes[kind]) for name, kind in kinds.items()])
    for name, column in values.items():
        rows[name] = column
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(rows)}"]
    lines += [f"property {kind} {name}" for name, kind in kinds.items()]
    file.write("\n".join([*lines, "end_header", ""]).encode() + rows.tobytes())


def _check_points(what: str, values: Array) -> None:
    if values.ndim != 2 or values.shape[1] != 3 or len(values) == 0:
        raise UnreadableError(f"expected {what} [N, 3], N > 0, got shape {list(values.shape)}")
    if len(values) > MAX_POINTS:
        raise UnreadableError(f"{len(values)} points, more than the {MAX_POINTS} that are read")
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values).all(axis=1)).sum())
        raise UnreadableError(f"{bad} of {len(values)} {what} are not finite")


def _check_faces(faces: Any, points: int) -> None:
    faces = np.asarray(faces)
    wrong = faces[(faces < 0) | (faces >= points)]
    if len(wrong):
        raise UnreadableError(f"a face names vertex {wrong[0]}, there are {points}, the first is 0")


def _read_trimesh(content: bytes, suffix: str) -> Shape:
    trimesh = need("trimesh", f"reading {suffix}")
    content = _mesh_files.prepared(content, suffix)
    # Unprocessed, so that points in one place and those at the seams of a texture stay as they are.
    options = {"fix_texture": False} if suffix == ".ply" else {}
    try:
        scene = trimesh.load_scene(
            io.BytesIO(content), file_type=suffix[1:], process=False, skip_materials=True, **options
        )
    except ImportError as error:  # of a package for a rare kind of content
        raise UnreadableError(f"trimesh cannot read it ({error})") from None
    for mesh in scene.geometry.values():
        _check_faces(getattr(mesh, "faces", ()), len(getattr(mesh, "vertices", ())))
    parts = scene.dump()  # in the scene's frame
    meshes = [p for p in parts if isinstance(p, trimesh.Trimesh) and len(p.faces)]
    if meshes:
        starts = np.cumsum([0] + [len(m.vertices) for m in meshes[:-1]])
        faces = [np.asarray(m.faces) + start for m, start in zip(meshes, starts, strict=True)]
        vertices = [np.asarray(m.vertices, np.float64) for m in meshes]
        return Shape(np.concatenate(vertices), faces=np.concatenate(faces))
    clouds = [p for p in parts if len(getattr(p, "vertices", ()))]
    if not clouds:
        raise UnreadableError("it holds neither points nor triangles")
    points = np.concatenate([np.asarray(p.vertices, np.float64) for p in clouds])
    if suffix != ".ply":
        return Shape(points)
    # trimesh takes a PLY file that ends early for one with fewer points, or without faces.
    told = _mesh_files.ply_counts(content)
    if told.get("vertex") != len(points):
        raise UnreadableError(
            f"the header says {told.get('vertex')} points, there are {len(points)}"
        )
    if told.get("face"):
        raise UnreadableError(f"the header says {told['face']} faces, there are none")
    return Shape(points, _ply_normals(clouds[0]))


def _ply_normals(cloud: object) -> Array | None:
    """Normals of the points of a PLY file without faces, which trimesh keeps beside them."""
    metadata = getattr(cloud, "metadata", {})
    rows = metadata.get("_ply_raw", {}).get("vertex", {}).get("data")
    names = ("nx", "ny", "nz")
    has = set(getattr(getattr(rows, "dtype", None), "names", None) or rows or ())
    if rows is None or not has.issuperset(names):
        return None
    return np.stack([np.asarray(rows[name], np.float64).reshape(-1) for name in names], axis=1)


def _as_points(array: object) -> Shape:
    """An array [N, 3] of real numbers; columns beyond the third are left out, and this is told."""
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise UnreadableError(f"expected real numbers, got {getattr(array, 'dtype', type(array))}")
    if array.ndim != 2 or array.shape[1] < 3:
        raise UnreadableError(f"expected an array [N, 3], got shape {list(array.shape)}")
    if len(array) == 3 and array.shape[1] > 32:
        raise UnreadableError(
            f"expected an array [N, 3], got shape {list(array.shape)}; transpose it"
        )
    return Shape(array[:, :3].astype(np.float64), note=_extra(array.shape[1]))


def _extra(columns: int) -> str:
    return f" ({columns - 3} more columns are not looked at)" if columns > 3 else ""


def _read_npy(content: bytes, suffix: str) -> Shape:
    if not content.startswith(b"\x93NUMPY"):  # which NumPy advises to unpickle
        raise UnreadableError("not an npy file: it does not begin with NUMPY")
    return _as_points(np.load(io.BytesIO(content), allow_pickle=False))


def _read_npz(content: bytes, suffix: str) -> Shape:
    """The array `points`, with `normals` if there; without it the only array [N, 3 or more]."""
    if not zipfile.is_zipfile(io.BytesIO(content)):
        raise UnreadableError("it ends early, or is not an npz file")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        total = sum(member.file_size for member in archive.infolist())
    if total > MAX_BYTES:
        raise UnreadableError(f"unpacks to {total} bytes, more than the {MAX_BYTES} that are read")
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        if "points" in archive.files:
            shape = _as_points(archive["points"])
        else:
            arrays = {name: archive[name] for name in archive.files if name != "normals"}
            fitting = [a for a in arrays.values() if a.ndim == 2 and a.shape[1] >= 3]
            if len(fitting) != 1:
                shapes = ", ".join(f"{name} {list(a.shape)}" for name, a in arrays.items())
                raise UnreadableError(
                    f"expected an array 'points' [N, 3], got {shapes or 'nothing'}"
                )
            shape = _as_points(fitting[0])
        if "normals" not in archive.files:
            return shape
        normals = _as_points(archive["normals"]).points
    if len(normals) != len(shape.points):
        raise UnreadableError(f"{len(shape.points)} points, but {len(normals)} normals")
    return shape._replace(normals=normals)


def _read_xyz(content: bytes, suffix: str) -> Shape:
    """Text, a point per line, separated by blanks or commas; # begins a comment."""
    text = content.decode("utf-8", "replace").replace(",", " ")
    points = _columns(text, range(3))
    lines = (line.split("#")[0].split() for line in io.StringIO(text))
    return Shape(points, note=_extra(len(next(filter(None, lines)))))


def _columns(text: str, wanted: Sequence[int]) -> Array:
    """These columns of a table of numbers that has at least one row."""
    if not any(line.split("#")[0].strip() for line in io.StringIO(text)):
        raise UnreadableError("it holds no points")
    try:
        return np.loadtxt(io.StringIO(text), dtype=np.float64, ndmin=2, usecols=wanted)
    except ValueError:
        for number, line in enumerate(io.StringIO(text), 1):
            words = line.split("#")[0].split()
            if words and not _are_numbers(words, wanted):
                raise UnreadableError(
                    f"row {number}: expected {max(wanted) + 1} numbers, got {line.strip()[:60]!r}"
                ) from None
        raise


def _are_numbers(words: Sequence[str], wanted: Sequence[int]) -> bool:
    try:
        return all(isinstance(float(words[i]), float) for i in wanted)
    except (ValueError, IndexError):
        return False


_PCD_KEYS = ("FIELDS", "SIZE", "TYPE", "COUNT", "POINTS", "DATA")
_PCD_TYPES = {"F": "f", "I": "i", "U": "u"}
_AXES = ("x", "y", "z")
_NORMALS = ("normal_x", "normal_y", "normal_z")


def _read_pcd(content: bytes, suffix: str) -> Shape:
    """Point Cloud Library's format, version 0.7 and before."""
    header, body = _pcd_header(content)
    fields, counts = header["FIELDS"], [_whole("COUNT", c) for c in header["COUNT"]]
    points, kind = _whole("POINTS", header["POINTS"][0]), " ".join(header["DATA"])
    if not 0 < points <= MAX_POINTS:
        raise UnreadableError(f"expected 1 to {MAX_POINTS} points, the header says {points}")
    for axis in _AXES:
        if fields.count(axis) != 1 or counts[fields.index(axis)] != 1:
            raise UnreadableError(f"expected fields x, y and z, got {' '.join(fields)}")
    names = _AXES + (_NORMALS if set(_NORMALS).issubset(fields) else ())
    places = [fields.index(name) for name in names]
    if kind == "ascii":
        table = _columns(body.decode("ascii", "replace"), [sum(counts[:i]) for i in places])
    elif kind in ("binary", "binary_compressed"):
        formats = [
            (
                f"{i}",
                f"<{_pcd_type(header['TYPE'][i])}{_whole('SIZE', header['SIZE'][i])}",
                (count,),
            )
            for i, count in enumerate(counts)
        ]
        read_rows = _pcd_rows if kind == "binary" else _pcd_unpacked
        columns = read_rows(body, formats, points)
        table = np.stack([columns[i][:, 0].astype(np.float64) for i in places], axis=1)
    else:
        raise UnreadableError(f"expected DATA ascii, binary or binary_compressed, got {kind!r}")
    if len(table) != points:
        raise UnreadableError(f"the header says {points} points, there are {len(table)}")
    # In this format NaN stands for a pixel that was not measured.
    table = table[np.isfinite(table[:, :3]).all(axis=1)]
    missing = points - len(table)
    note = f" ({missing} that are not finite are left out)" if missing else ""
    return Shape(table[:, :3], table[:, 3:] if len(names) > 3 else None, note=note)


def _pcd_header(content: bytes) -> tuple[dict[str, list[str]], bytes]:
    """The lines up to DATA by their first word, and what follows them."""
    header: dict[str, list[str]] = {}
    start = 0
    while "DATA" not in header:
        end = content.find(b"\n", start, start + 10_000)
        if end < 0 or len(header) > 20:
            raise UnreadableError("not a PCD file: its header has no DATA line")
        words = content[start:end].decode("ascii", "replace").split()
        start = end + 1
        if words and not words[0].startswith("#"):
            header[words[0].upper()] = words[1:]
    header.setdefault("COUNT", ["1"] * len(header.get("FIELDS", [])))
    missing = [key for key in _PCD_KEYS if not header.get(key)]
    lengths = {len(header[key]) for key in ("FIELDS", "SIZE", "TYPE", "COUNT") if key in header}
    if missing or len(lengths) != 1:
        raise UnreadableError(
            f"not a PCD file: {', '.join(missing) or 'FIELDS to COUNT'} do not fit"
        )
    return header, content[start:]


def _whole(key: str, text: str) -> int:
    if not text.isdecimal():
        raise UnreadableError(f"expected a whole number of {key}, got {text[:60]!r}")
    return int(text)


def _pcd_type(letter: str) -> str:
    if letter.upper() not in _PCD_TYPES:
        raise UnreadableError(f"expected TYPE {', '.join(_PCD_TYPES)}, got {letter!r}")
    return _PCD_TYPES[letter.upper()]


def _check_length(body: bytes, size: int) -> None:
    if len(body) < size:
        raise UnreadableError(f"it ends early: {size} bytes are announced, {len(body)} follow")


_Formats = list[tuple[str, str, tuple[int]]]


def _pcd_rows(body: bytes, formats: _Formats, points: int) -> list[NDArray[Any]]:
    """Columns [points, count] of a table that lies point by point."""
    dtype = np.dtype(formats)
    _check_length(body, points * dtype.itemsize)
    table = np.frombuffer(body, dtype, count=points)
    return [table[name] for name, *_ in formats]


def _pcd_unpacked(body: bytes, formats: _Formats, points: int) -> list[NDArray[Any]]:
    """Columns [points, count] of a table that lies column by column, packed."""
    _check_length(body, 8)
    packed, size = struct.unpack_from("<II", body)
    wanted = points * np.dtype(formats).itemsize
    if size != wanted or size > MAX_BYTES:
        raise UnreadableError(f"unpacks to {size} bytes, the header says {wanted}")
    if packed > len(body) - 8:
        raise UnreadableError(f"{packed} packed bytes are announced, {len(body) - 8} are there")
    try:
        data = _unpack_lzf(body[8 : 8 + packed], size)
    except IndexError:
        raise UnreadableError("broken packed data: it ends early") from None
    columns: list[NDArray[Any]] = []
    offset = 0
    for _, kind, (count,) in formats:
        found = np.frombuffer(data, kind, points * count, offset)
        columns.append(found.reshape(points, count))
        offset += found.nbytes
    return columns


def _unpack_lzf(data: bytes, size: int) -> bytes:
    """LZF (Lehmann's liblzf): runs of bytes as they are, and copies of earlier ones."""
    out = bytearray()
    place = 0
    while place < len(data) and len(out) <= size:
        control = data[place]
        place += 1
        if control < 32:
            out += data[place : place + control + 1]
            place += control + 1
            continue
        length = control >> 5
        if length == 7:
            length += data[place]
            place += 1
        length += 2
        distance = ((control & 31) << 8) + data[place] + 1
        place += 1
        if distance > len(out):
            raise UnreadableError("broken packed data: a copy from before its beginning")
        start = len(out) - distance
        earlier = out[start : start + length]
        out += (earlier * (length // len(earlier) + 1))[:length]  # it may run into itself
    if len(out) != size:
        raise UnreadableError(f"broken packed data: it does not unpack to {size} bytes")
    return bytes(out)


_READERS: dict[str, Callable[[bytes, str], Shape]] = {
    **dict.fromkeys((".ply", ".obj", ".stl", ".off", ".glb"), _read_trimesh),
    ".xyz": _read_xyz,
    ".pcd": _read_pcd,
    ".npy": _read_npy,
    ".npz": _read_npz,
}
SUFFIXES = tuple(_READERS)
