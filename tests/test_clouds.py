# SPDX-License-Identifier: MIT
"""Clouds in files: the formats, what is wrong with a file, what is missing in a folder."""

import numpy as np
import pytest
import torch

from models import clouds
from models.config import ConfigError
from models.predict import write_ply


def needs(name):
    """PLY files are read by trimesh, of the data extra."""
    if name.endswith(".ply"):
        pytest.importorskip("trimesh")


POINTS = np.random.default_rng(0).random((7, 3)).astype(np.float32)
ASCII = "\n".join(" ".join(f"{v:.9g}" for v in [*row, 5, 6]) for row in POINTS) + "\n"
PCD = "# .PCD v0.7\nVERSION 0.7\nFIELDS {f}\nSIZE {s}\nTYPE {t}\nCOUNT {c}\nWIDTH 7\nHEIGHT 1\n"
PCD += "VIEWPOINT 0 0 0 1 0 0 0\nPOINTS {n}\nDATA {d}\n"


def pcd(data, fields="x y z", size="4 4 4", kind="F F F", count="1 1 1", points=7):
    return PCD.format(f=fields, s=size, t=kind, c=count, n=points, d=data).encode()


def padded():
    """Padding before, between and after the coordinates, as PCL writes it."""
    layout = [("a", "<u1", 3), ("x", "<f8"), ("y", "<f8"), ("b", "<u1", 4), ("z", "<f8")]
    table = np.zeros(7, layout)
    table["x"], table["y"], table["z"] = POINTS.T
    return pcd("binary", "_ x y _ z", "1 8 8 1 8", "U F F U F", "3 1 1 4 1") + table.tobytes()


def write_array(path, **arrays):
    np.savez(path, **arrays) if path.suffix == ".npz" else np.save(path, arrays["points"])


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.npy", lambda path: write_array(path, points=POINTS)),
        ("a.npz", lambda path: write_array(path, points=POINTS, spread=np.ones(7))),
        ("b.npz", lambda path: write_array(path, anything=POINTS)),
        ("a.ply", lambda path: write_ply(path, torch.from_numpy(POINTS))),
        ("b.ply", lambda path: __import__("trimesh").PointCloud(POINTS).export(path)),
        ("a.xyz", lambda path: path.write_text("# a comment\n" + ASCII)),
        ("b.xyz", lambda path: path.write_text(ASCII.replace(" ", ", "))),
        ("a.pcd", lambda path: path.write_bytes(pcd("binary") + POINTS.tobytes())),
        ("b.pcd", lambda path: path.write_bytes(padded())),
        (
            "c.pcd",
            lambda path: path.write_bytes(
                pcd("ascii", "x y z rgb", "4 4 4 4", "F F F F", "1 1 1 2") + ASCII.encode()
            ),
        ),
    ],
)
def test_every_format_is_read(tmp_path, name, write):
    needs(name)
    write(tmp_path / name)
    found = clouds.read(tmp_path / name)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, POINTS)


def test_points_in_one_place_stay_apart(tmp_path):
    needs("a.ply")
    write_ply(tmp_path / "a.ply", torch.zeros(5, 3))
    assert clouds.read(tmp_path / "a.ply").shape == (5, 3)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npy", b"no array", "not a readable array"),
        ("a.npz", b"no archive", "not a readable cloud"),
        ("a.ply", b"no ply", "not a readable cloud"),
        ("a.xyz", b"1 2 3\n4 5\n", "not a readable cloud"),
        ("a.xyz", b"1 2 nan\n", "all finite"),
        ("a.pcd", b"no header", "not a readable cloud"),
        ("a.pcd", pcd("binary") + POINTS.tobytes()[:-1], "not a readable cloud"),
        ("a.pcd", pcd("ascii", points=8) + ASCII.encode(), "7 points, its header says 8"),
        ("a.pcd", pcd("binary_compressed"), "DATA ascii or binary, got binary_compressed"),
        ("a.pcd", pcd("binary", kind="O F F") + POINTS.tobytes(), "not a readable cloud"),
    ],
)
def test_a_broken_file_is_named(tmp_path, name, content, message):
    needs(name)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        clouds.read(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_a_truncated_ply_is_an_error(tmp_path):
    write_ply(tmp_path / "a.ply", torch.from_numpy(POINTS))
    (tmp_path / "a.ply").write_bytes((tmp_path / "a.ply").read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"a\.ply"):
        clouds.read(tmp_path / "a.ply")


def test_pickles_are_not_read(tmp_path):
    write_array(tmp_path / "a.npz", points=np.array([{}]))
    with pytest.raises(ValueError, match="allow_pickle"):
        clouds.read(tmp_path / "a.npz")


def test_all_that_is_missing_is_listed(tmp_path):
    for name in ("1/a/00.ply", "1/b.ply"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_ply(tmp_path / name, torch.from_numpy(POINTS))
    wanted = [(key, view) for key in ("1/a", "1/b", "2/c") for view in (0, 1)]
    with pytest.raises(ConfigError, match=r"3 of 6 .* 1/a \(views 01\); 2/c \(views 00, 01\)"):
        clouds.find_all(tmp_path, wanted)
    assert clouds.find_all(tmp_path, wanted[2:4]) == dict.fromkeys(
        wanted[2:4], tmp_path / "1/b.ply"
    )
    (tmp_path / "1/b.xyz").touch()
    with pytest.raises(ConfigError, match=r"b\.ply and b\.xyz are there; expected one"):
        clouds.find(tmp_path, "1/b", 0)
