# SPDX-License-Identifier: MIT
"""Clouds and meshes in files: every format, what is left out of one, and hostile ones."""

import base64
import struct
import sys
import zipfile
from io import BytesIO

import numpy as np
import pytest

from pointloss import io

POINTS = np.array([[0.0, 0, 0], [1, 2, 3], [4, 5, 6.5]])
# Made by liblzf of what `pcd` writes, column by column.
PACKED = base64.b64decode("AwkIBwlgAgAAYAABgD8gAwBAYAoBAAAgBwCgIANAAABAIAcA0CAD4BAAQBsgAwEAQA==")


def pcd(kind, points=POINTS, normals=True):
    """POINTS as PCL writes them, with a field of three numbers in front and normals behind."""
    names = "rgb x y z" + " normal_x normal_y normal_z" * normals
    count = len(names.split())
    head = (
        f"# .PCD v0.7\nVERSION 0.7\nFIELDS {names}\nSIZE 1{' 4' * (count - 1)}\n"
        f"TYPE U{' F' * (count - 1)}\nCOUNT 3{' 1' * (count - 1)}\nWIDTH {len(points)}\n"
        f"HEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {len(points)}\nDATA {kind}\n"
    ).encode()
    rows = [(9, 8, 7, *p, *((0, 0, 2) if normals else ())) for p in points]
    if kind == "binary_compressed":
        return head + struct.pack("<II", len(PACKED), 81) + PACKED
    if kind == "binary":
        return head + b"".join(struct.pack(f"<3B{len(r) - 3}f", *r) for r in rows)
    return head + "".join(" ".join(map(str, r)) + "\n" for r in rows).encode()


def npz(**arrays):
    file = BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def npy(array, **options):
    file = BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


PLY = (
    "ply\nformat ascii 1.0\nelement vertex 3\n"
    + "".join(f"property float {n}\n" for n in ("x", "y", "z", "nx", "ny", "nz"))
    + "end_header\n"
    + "".join(" ".join(map(str, p)) + " 0 0 2\n" for p in POINTS)
).encode()


def padded():
    """Padding before, between and after the coordinates, which are numbers of three types."""
    layout = [("a", "<u1", 3), ("x", "<f8"), ("y", "<i2"), ("b", "<u1", 4), ("z", "<f4")]
    table = np.zeros(3, layout)
    table["x"], table["y"], table["z"] = POINTS.T
    head = pcd("binary", normals=False).replace(b"rgb x y z", b"_ x y _ z")
    for old, new in (
        (b"1 4 4 4", b"1 8 2 1 4"),
        (b"U F F F", b"U f i U F"),
        (b"3 1 1 1", b"3 1 1 4 1"),
    ):
        head = head.replace(old, new)
    return head[: head.index(b"binary\n") + 7] + table.tobytes()


MESH = b"""ply
format ascii 1.0
element vertex 3
property float x
property float y
property float z
element face 2
property list uchar int vertex_indices
property list uchar float texcoord
end_header
0 0 0
1 2 3
4 5 6.5
3 0 1 2 6 0 0 1 0 0 1
3 2 1 0 6 .5 .5 1 0 0 1
"""
BINARY_MESH = MESH[: MESH.index(b"property list uchar float")].replace(
    b"ascii", b"binary_little_endian"
)
BINARY_MESH = BINARY_MESH.replace(b"face 2", b"face 1") + b"end_header\n"
BINARY_MESH += POINTS.astype("<f4").tobytes() + struct.pack("<B3i", 3, 0, 1, 2)
OBJ = b"# caf\xe9\nv 0 0 0\nv 1 2 3\nv 4 5 6.5\nf 1 2 3 # \xe9\n"


CLOUDS = {
    "a.npy": npy(POINTS.astype(np.float16)),
    "b.npy": npy(np.c_[POINTS, np.ones(3)]),
    "a.npz": npz(points=POINTS, normals=POINTS * 0 + [0, 0, 2], other=POINTS),
    "b.npz": npz(whatever=POINTS, label=np.zeros(3)),
    "a.xyz": b"# a comment\n0 0 0\n1 2 3\n4 5 6.5\n",
    "b.XYZ": b"0,0,0\n1,2,3\n4,5,6.5\n",
    "c.xyz": b"0 0 0 1 red\n1 2 3 1\n4 5 6.5 1 blue\n",
    "a.pcd": pcd("ascii"),
    "b.pcd": pcd("binary"),
    "c.pcd": pcd("binary", np.r_[POINTS, [[np.nan] * 3]], normals=False),
    "d.pcd": pcd("binary_compressed"),
    "e.pcd": padded(),
    "f.pcd": pcd("ascii").replace(b"FIELDS", b"fields"),
    "a.ply": PLY,
    "a.obj": b"v 0 0 0\nv 1 2 3\nv 4 5 6.5\n",
}


def needs(name):
    """What trimesh reads, of the extras compare and data."""
    if name.lower().endswith((".ply", ".obj", ".stl", ".off", ".glb")):
        pytest.importorskip("trimesh")


@pytest.mark.parametrize("name", CLOUDS)
def test_clouds_are_read(name, tmp_path):
    needs(name)
    path = tmp_path / name
    path.write_bytes(CLOUDS[name])
    found = io.read(str(path))
    assert found.points.dtype == np.float64
    np.testing.assert_allclose(found.points, POINTS, rtol=1e-6)
    assert found.faces is None
    if name in ("a.npz", "a.pcd", "b.pcd", "d.pcd", "f.pcd", "a.ply"):
        np.testing.assert_array_equal(found.normals, [[0, 0, 2]] * 3)
    else:
        assert found.normals is None
    notes = {"b.npy": "1 more col", "c.xyz": "2 more col", "c.pcd": "1 that are not finite"}
    assert notes.get(name, "") in found.note
    assert bool(found.note) == (name in notes)


class Bomb:
    """Running it would leave a mark."""

    def __reduce__(self):
        return (exec, ("import sys; sys.pointloss_bomb = True",))


def lying_zip():
    """An archive whose directory says that it unpacks to four gigabytes."""
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("points.npy", npy(POINTS))
    data = bytearray(file.getvalue())
    struct.pack_into("<I", data, data.index(b"PK\x01\x02") + 24, 2**32 - 2)
    return bytes(data)


HOSTILE = {
    "pickle.npy": (npy(np.array([Bomb()], object), allow_pickle=True), "pickle"),
    "pickle.npz": (npz(points=np.array([Bomb()], object)), "pickle"),
    "huge.npy": (npy(POINTS).replace(b"(3, 3), }      ", b"(99999999, 3), }"), ""),
    "bomb.npz": (lying_zip(), "unpacks to 4294967294 bytes"),
    "not.npz": (b"PK nothing", "is not an npz file"),
    "names.npz": (npz(a=POINTS, b=POINTS), r"expected an array 'points' \[N, 3\], got a \[3, 3\]"),
    "flat.npy": (npy(np.zeros((3, 2))), r"expected an array \[N, 3\], got shape \[3, 2\]"),
    "other.npy": (npy(np.zeros((3, 99))), r"got shape \[3, 99\]; transpose it"),
    "text.npy": (npy(np.array(["a"])), "expected real numbers"),
    "complex.npy": (npy(np.zeros((3, 3), complex)), "expected real numbers, got complex128"),
    "empty.npy": (npy(np.zeros((0, 3))), r"expected points \[N, 3\], N > 0"),
    "nan.npy": (npy(np.full((2, 3), np.nan)), "2 of 2 points are not finite"),
    "zero.npy": (b"", "the file is empty"),
    "words.xyz": (b"one two three\n", "row 1: expected 3 numbers, got 'one two three'"),
    "zero.xyz": (b"# nothing", "it holds no points"),
    "bytes.xyz": (b"\xff\xfe\x00", "row 1: expected 3 numbers"),
    "none.pcd": (b"hello\n" * 9, "no DATA line"),
    "count.pcd": (pcd("ascii").replace(b"POINTS 3", b"POINTS 99"), "says 99 points, there are 3"),
    "short.pcd": (pcd("binary")[:-1], "ends early: 81 bytes are announced, 80 follow"),
    "many.pcd": (pcd("binary").replace(b"POINTS 3", b"POINTS 99999999999"), "expected 1 to"),
    "kind.pcd": (pcd("zipped"), "expected DATA ascii, binary or binary_compressed, got 'zipped'"),
    "type.pcd": (pcd("binary").replace(b"TYPE U", b"TYPE O"), "expected TYPE F, I, U, got 'O'"),
    "cut.pcd": (pcd("binary_compressed")[:-1], "49 packed bytes are announced, 48 are there"),
    "size.pcd": (pcd("binary_compressed").replace(b"Q\0\0\0", b"Q\0\0\1"), "unpacks to 16777297"),
    "early.pcd": (pcd("binary_compressed").replace(PACKED, b"\0a" * 24 + b"\xe0"), "ends early"),
    "copy.pcd": (pcd("binary_compressed").replace(PACKED, b"\x20" * 49), "from before"),
    "long.pcd": (pcd("binary_compressed").replace(PACKED, b"\0a" + b"\xe0\xff\0" * 16), "to 81 b"),
    "axis.pcd": (pcd("ascii").replace(b"x y z", b"x y w"), "expected fields x, y and z"),
    "wide.pcd": (pcd("binary").replace(b"COUNT 3", b"COUNT 999999999"), ""),
    "word.ply": (b"ply\nnonsense", "the header ends early"),
    "lies.ply": (
        PLY.replace(b"vertex 3", b"vertex 99999999999"),
        "says 99999999999 lines, 3 follow",
    ),
    "none.off": (b"OFF\n0 0 0\n", "neither points nor triangles"),
    "short.stl": (b"\0" * 83, "the header ends early"),
    "magic.glb": (b"glTF\0\0\0\0", "the header ends early"),
    "pick.npy": (b"\x80\x04K.", "it does not begin with NUMPY"),
    "tail.npz": (npz(points=POINTS)[:-9], "ends early, or is not an npz file"),
    "row.xyz": (b"# caf\xe9\n0 0 0\n1 2\n", "row 3: expected 3 numbers, got '1 2'"),
    "number.pcd": (pcd("ascii").replace(b"POINTS 3", b"POINTS x"), "number of POINTS, got 'x'"),
    "size.pcd.pcd": (pcd("binary_compressed")[:199], "8 bytes are announced, 0 follow"),
    "not.ply": (b"solid", "does not begin with 'ply'"),
    "head.ply": (PLY[:40], "the header ends early: it has no line end_header"),
    "rows.ply": (PLY[:-20], "the header says 3 lines, 2 follow"),
    "faces.ply": (BINARY_MESH[:-13], "the header says 1 faces, there are none"),
    "index.ply": (
        BINARY_MESH[:-4] + struct.pack("<i", 9),
        "a face names vertex 9, there are 3, the first is 0",
    ),
    "count.off": (b"OFF\n3 1\n0 0 0\n1 0 0\n", "says 3 vertices and 1 faces, 2 lines follow"),
    "index.off": (b"OFF\n3 1\n0 0 0\n1 0 0\n0 1 0\n3 0 1 9\n", "a face index outside the range"),
    "word.off": (b"0FF\n3 1\n", "does not begin with OFF"),
    "index.obj": (
        OBJ.replace(b"f 1", b"f 9"),
        "a face names vertex 9, there are 3, the first is 1",
    ),
    "zero.obj": (OBJ.replace(b"f 1", b"f 0"), "a face names vertex 0, there are 3"),
    "slash.obj": (OBJ.replace(b"f 1", b"f -4/7/7"), "a face names vertex -4, there are 3"),
    "word.obj": (OBJ.replace(b"f 1", b"f one"), "no whole number"),
    "size.stl": (
        b"\0" * 80 + b"\2\0\0\0" + b"\0" * 50,
        "says 2 triangles in 184 bytes, there are 134",
    ),
    "text.stl": (b"solid a\nfacet normal 0 0 1\nouter loop\nvertex 0 0 0\n", "no line endsolid"),
    "cut.glb": (b"glTF\2\0\0\0\xff\0\0\0", "the header says 255 bytes, there are 12"),
    "json.glb": (b"glTF\2\0\0\0\x10\0\0\0\0\0\0\0", r"broken, or not a \.glb file"),
    "other.txt": (b"", "expected one of .ply .obj"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_get_one_line(name, tmp_path, capfd):
    needs(name)
    content, words = HOSTILE[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=words or None) as caught:
        io.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    assert not hasattr(sys, "pointloss_bomb")


@pytest.mark.parametrize("limit", ["MAX_BYTES", "MAX_POINTS"])
def test_sizes_are_bounded(limit, tmp_path, monkeypatch):
    path = tmp_path / "a.npy"
    path.write_bytes(npy(POINTS))
    monkeypatch.setattr(io, limit, 2)
    with pytest.raises(ValueError, match="more than the 2 that are"):
        io.read(path)


def test_a_mesh_has_its_vertices_and_faces(tmp_path):
    needs("a.ply")
    path = tmp_path / "a.ply"
    path.write_bytes(MESH)
    found = io.read(path)
    np.testing.assert_allclose(found.points, POINTS)  # one each, although a texture has seams
    np.testing.assert_array_equal(found.faces, [[0, 1, 2], [2, 1, 0]])


def test_a_mesh_with_a_comment_in_another_encoding_is_read(tmp_path):
    needs("a.obj")
    path = tmp_path / "a.obj"
    path.write_bytes(OBJ.replace(b"f 1", b"f -3"))
    found = io.read(path)
    np.testing.assert_allclose(found.points, POINTS)
    np.testing.assert_array_equal(found.faces, [[0, 1, 2]])


def test_a_written_cloud_is_read_again(tmp_path):
    needs("a.ply")
    path = tmp_path / "a.ply"
    points = np.float32([[1, 2, 3]] * 2 + [[4, 5, 6.5]])  # two in one place
    with path.open("wb") as file:
        io.write_ply(file, points, spread=np.arange(3.0), red=np.uint8([1, 2, 255]))
    found = io.read(path).points
    np.testing.assert_array_equal(found, points)
    header, body = path.read_bytes().split(b"end_header\n")
    assert header.endswith(b"property float spread\nproperty uchar red\n")
    rows = np.frombuffer(body, np.dtype([("p", "<f4", 4), ("c", "u1")]))
    assert rows["p"][:, 3].tolist() == [0, 1, 2]
    assert rows["c"].tolist() == [1, 2, 255]
    path.write_bytes(header + b"end_header\n" + body[:-4])
    with pytest.raises(ValueError, match=r"a\.ply"):
        io.read(path)
