# SPDX-License-Identifier: MIT
"""Clouds to be scored: what a file may be, and what is missing in a folder."""

import sys

import numpy as np
import pytest

from models import clouds
from models.config import ConfigError
from pointloss.io import write_ply

POINTS = np.random.default_rng(0).random((7, 3)).astype(np.float32)
TEXT = "\n".join(" ".join(f"{v:.9g}" for v in [*row, 5, 6]) for row in POINTS) + "\n"
PCD = "FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nPOINTS 7\nDATA binary\n"


def save(path, points=POINTS):
    if path.suffix == ".npz":
        np.savez(path, points=points, spread=np.ones(7))
    elif path.suffix == ".npy":
        np.save(path, points)
    elif path.suffix == ".ply":
        with path.open("wb") as file:
            write_ply(file, points)
    else:
        path.write_bytes(
            PCD.encode() + points.tobytes() if path.suffix == ".pcd" else TEXT.encode()
        )


@pytest.mark.parametrize("ending", clouds.FORMATS)
def test_every_format_is_read(tmp_path, ending):
    if ending == ".ply":
        pytest.importorskip("trimesh")
    save(tmp_path / f"a{ending}")
    found = clouds.read(tmp_path / f"a{ending}")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, POINTS)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npy", b"no array", "does not begin with NUMPY"),
        ("a.npz", b"no archive", "is not an npz file"),
        ("a.xyz", b"1 2 3\n4 5\n", "row 2: expected 3 numbers"),
        ("a.xyz", b"1 2 nan\n", "1 of 1 points are not finite"),
        ("a.xyz", b"1 2 1e39\n", "all finite"),  # not in float32
        ("a.pcd", PCD.encode() + POINTS.tobytes()[:-1], "ends early"),
    ],
)
def test_a_broken_file_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        clouds.read(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_what_a_format_needs_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trimesh", None)
    save(tmp_path / "a.ply")
    with pytest.raises(ConfigError, match=r"a\.ply: reading \.ply needs trimesh.*pip install"):
        clouds.read(tmp_path / "a.ply")


def test_all_that_is_missing_is_listed(tmp_path):
    for name in ("1/a/00.ply", "1/b.ply"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        save(tmp_path / name)
    wanted = [(key, view) for key in ("1/a", "1/b", "2/c") for view in (0, 1)]
    with pytest.raises(ConfigError, match=r"3 of 6 .* 1/a \(views 01\); 2/c \(views 00, 01\)"):
        clouds.find_all(tmp_path, wanted)
    assert clouds.find_all(tmp_path, wanted[2:4]) == dict.fromkeys(
        wanted[2:4], tmp_path / "1/b.ply"
    )
    (tmp_path / "1/b.xyz").touch()
    with pytest.raises(ConfigError, match=r"b\.ply and b\.xyz are there; expected one"):
        clouds.find(tmp_path, "1/b", 0)
