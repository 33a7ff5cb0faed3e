# SPDX-License-Identifier: MIT
"""Small meshes with known answers, and files that hold them."""

import importlib.util
import io
import tarfile

import numpy as np
import pytest

NEEDED = ("trimesh", "embreex", "mapbox_earcut", "scipy", "tqdm")
needs_renderer = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in NEEDED), reason=f"needs {NEEDED}"
)

BOX_FACES = np.array(
    [[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1],
     [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]]
)  # fmt: skip


def box(width, height, depth):
    """Corners [8, 3] of a box around 0, for BOX_FACES."""
    corner = np.stack(np.meshgrid(*[[-0.5, 0.5]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    return corner * [width, height, depth]


def boxes(count, seed=0):
    """Vertices and faces of boxes that overlap and hide each other, inside the unit box."""
    rng = np.random.default_rng(seed)
    sides, centres = rng.uniform(0.05, 0.5, (count, 3)), rng.uniform(-0.25, 0.25, (count, 3))
    vertices = [box(*side) + centre for side, centre in zip(sides, centres, strict=True)]
    faces = [BOX_FACES + 8 * number for number in range(count)]
    return np.concatenate(vertices), np.concatenate(faces)


def obj(vertices, material=""):
    """A box as an OBJ file."""
    text = "".join(f"v {x} {y} {z}\n" for x, y, z in vertices)
    if material:
        text = f"mtllib {material}.mtl\n{text}usemtl {material}\n"
    return text + "".join(f"f {a} {b} {c}\n" for a, b, c in BOX_FACES + 1)


def ac3d(vertices, extra=""):
    """A red box as an AC3D file, its sides as quadrilaterals; `extra` stands before them."""
    sides = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    lines = ["AC3Db", 'MATERIAL "a b" rgb 1 0 0 amb 1 1 1 emis 0 0 0 spec 0 0 0 shi 0 trans 0',
             "OBJECT world", "kids 1", "OBJECT poly", 'name "box"', *extra.splitlines(),
             f"numvert {len(vertices)}"]  # fmt: skip
    lines += [f"{x} {y} {z}" for x, y, z in vertices] + [f"numsurf {len(sides)}"]
    for side in sides:
        lines += ["SURF 0x20", "mat 0", "refs 4", *(f"{index} 0 0" for index in side)]
    return "\n".join([*lines, "kids 0", ""])


def deb(path, members, packed="xz"):
    """A .deb with the given (name, bytes or tar type) in data.tar.xz; links lead to /etc/passwd."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=f"w:{packed}") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if content not in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = content, "/etc/passwd"
                archive.addfile(info)
    return ar(path, **{"debian-binary": b"2.0", f"data.tar.{packed}".rstrip("."): data.getvalue()})


def ar(path, **members):
    """An ar archive, as a .deb is one."""
    with path.open("wb") as file:
        file.write(b"!<arch>\n")
        for name, content in members.items():
            file.write(f"{name:16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode())
            file.write(content + b"\n" * (len(content) % 2))
    return path
