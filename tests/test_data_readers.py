# SPDX-License-Identifier: MIT
"""Polygons of every format become triangles that cover what the polygon covers."""

import numpy as np
import pytest
from meshes import needs_renderer

from models.data.prepare.mesh import Item, load_mesh
from models.data.prepare.polygons import obj_in_triangles, triangulate
from models.data.prepare.sources import meshes

# Outlines in the plane, longest side 4, with their areas.
OUTLINES = {
    "square": ([(0, 0), (4, 0), (4, 4), (0, 4)], 16),
    "L": ([(0, 0), (4, 0), (4, 1), (1, 1), (1, 4), (0, 4)], 7),
    "U": ([(0, 0), (4, 0), (4, 4), (3, 4), (3, 1), (1, 1), (1, 4), (0, 4)], 10),
    "arrow": ([(0, 0), (4, 2), (0, 4), (1, 2)], 6),
    # Corners on a line, a corner three times, the first one again at the end.
    "U with more corners": ([(0, 0), (1, 0), (2, 0), (4, 0), (4, 2), (4, 4), (3, 4), (3, 1), (3, 1),
                             (3, 1), (2, 1), (1, 1), (1, 4), (0.5, 4), (0, 4), (0, 0)], 10),
    # A hole, reached by a cut that is gone along twice.
    "frame": ([(0, 0), (4, 0), (4, 4), (0, 4), (0, 0), (1, 1), (1, 3), (3, 3), (3, 1), (1, 1)], 12),
}  # fmt: skip
FLAT = np.eye(3)
TURN = np.linalg.qr(np.array([[1, 2, 3], [-1, 4, 2], [0.5, 1, -1]]))[0]  # no axis stays one


def area(vertices, faces):
    corner = np.asarray(vertices, dtype=np.float64)[faces]
    normals = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    return np.linalg.norm(normals, axis=1).sum() / 2


def solid(name, turn=FLAT):
    """Corners [n, 3] of an outline, the other way round and turned for variety."""
    corners = np.array(OUTLINES[name][0], dtype=np.float64)
    return np.column_stack([corners, np.full(len(corners), 7.0)]) @ turn.T


@pytest.mark.parametrize("turn", [FLAT, TURN, -TURN[[1, 2, 0]]], ids=["flat", "turned", "back"])
@pytest.mark.parametrize("name", OUTLINES)
def test_triangles_cover_the_polygon_once(name, turn):
    pytest.importorskip("mapbox_earcut")
    corners = solid(name, turn)
    for polygon in (corners, corners[::-1], np.roll(corners, 3, axis=0)):
        _, triangles, _ = triangulate([polygon[:3], polygon, polygon[:2]])
        assert area(polygon, triangles) == pytest.approx(OUTLINES[name][1])


def obj_file(corners):
    head = "mtllib none.mtl\n" + "".join(f"v {x} {y} {z}\n" for x, y, z in corners)
    return f"{head}vt 0 0\nf {' '.join(f'{i}/1' for i in range(1, len(corners) + 1))} # one\n"


def relative_obj_file(corners):
    """The polygon last but one, counted back from there, over two lines; v follows."""
    head = "v 9 9 9\n" + "".join(f"v {x} {y} {z}\n" for x, y, z in corners)
    back = [str(-i) for i in range(1, len(corners) + 1)]
    return f"{head}f {' '.join(back[:2])} \\\n{' '.join(back[2:])}\nv 8 8 8\n"


def off_file(corners):
    rows = "".join(f"{x} {y} {z}\n" for x, y, z in corners)
    face = f"{len(corners)} {' '.join(map(str, range(len(corners))))} 255 0 0"
    return f"OFF # a comment\n{len(corners)} 1 0\n\n{rows}{face}\n"


def ply_file(corners, faces=1):
    rows = "".join(f"{x} {y} {z}\n" for x, y, z in corners)
    face = f"{len(corners)} {' '.join(map(str, range(len(corners))))} 255 0 51\n3 0 0 0 0 0 0\n"
    return (
        f"ply\nformat ascii 1.0\nelement vertex {len(corners)}\nproperty double x\n"
        f"property double y\nproperty double z\nelement face {faces}\n"
        "property list uchar int vertex_indices\nproperty uchar red\nproperty uchar green\n"
        f"property uchar blue\nend_header\n{rows}{''.join(face.splitlines(True)[:faces])}"
    )


def mixed_ply_file(corners):
    return ply_file(corners, faces=2)


def binary_ply_file(corners):
    head = ply_file(corners).partition("end_header")[0].replace("ascii", "binary_little_endian")
    head = head.partition("property uchar red")[0] + "end_header\n"
    index = np.arange(len(corners), dtype="<i4").tobytes()
    return head.encode() + corners.astype("<f8").tobytes() + bytes([len(corners)]) + index


def ac_file(corners):
    rows = "".join(f"{x} {y} {z}\n" for x, y, z in corners)
    refs = "".join(f"{i} 0 0\n" for i in range(len(corners)))
    surface = f"numsurf 1\nSURF 0x10\nmat 0\nrefs {len(corners)}\n{refs}"
    return f"AC3Db\nOBJECT poly\nnumvert {len(corners)}\n{rows}{surface}kids 0\n"


FILES = {
    "obj": [obj_file, relative_obj_file],
    "off": [off_file],
    "ply": [ply_file, mixed_ply_file, binary_ply_file],
    "ac": [ac_file],
}


@needs_renderer
@pytest.mark.parametrize(
    ("suffix", "make"), [(suffix, make) for suffix, makes in FILES.items() for make in makes]
)
def test_no_reader_invents_surface(tmp_path, suffix, make):
    for name, (_, expected) in OUTLINES.items():
        text = make(solid(name))
        path = tmp_path / f"a.{suffix}"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        mesh = load_mesh(Item("x", "a", "a", {}, tmp_path, path.name, "a"))
        assert area(mesh.vertices, mesh.faces) * 16 == pytest.approx(expected), name
        if make is ply_file:
            np.testing.assert_allclose(mesh.colours, np.tile([1, 0, 0.2], (len(mesh.faces), 1)))


@needs_renderer
def test_every_format_of_trimesh_has_its_polygons_tested():
    triangles_only = {".glb", ".gltf", ".stl", ".stl_ascii", ".xyz", ".acc"}
    assert meshes.suffixes() - triangles_only <= {f".{suffix}" for suffix in FILES}


def test_obj_without_polygons_stays_as_it_is():
    data = b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"
    assert obj_in_triangles(data) is data
    with pytest.raises(ValueError, match="line 4: vertex number out of range"):
        obj_in_triangles(data.replace(b"1 2 3", b"1 2 3 9"))
