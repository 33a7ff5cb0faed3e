# SPDX-License-Identifier: MIT
"""`pointloss compare`: what it reads, what it measures, and what it says of hostile files."""

import csv
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pointloss import chamfer, cli, f_score, hausdorff, normal_consistency
from pointloss.compare import command, heatmap, measure, sample
from pointloss.protocols import PROTOCOLS

trimesh = pytest.importorskip("trimesh")

ROOT = Path(__file__).parent.parent
TRIANGLES = np.array([[0, 1, 2], [0, 1, 3], [0, 2, 3], [1, 2, 3]])
CORNERS = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
POINTS = np.array([[0.0, 0, 0], [1, 2, 3], [4, 5, 6.5]])


@pytest.mark.parametrize("suffix", ["ply", "obj", "stl", "off", "glb"])
def test_meshes_are_sampled_by_area(suffix, tmp_path):
    path = tmp_path / f"mesh.{suffix}"
    trimesh.Trimesh(CORNERS, TRIANGLES, process=False).export(path)
    found = sample.read(path, 4000, 7)
    points, again = found.points, sample.read(path, 4000, 7).points
    assert np.array_equal(points, again)
    assert not np.array_equal(points, sample.read(path, 4000, 8).points)
    slope = np.isclose(points.sum(1), 1, atol=1e-5)
    share = np.sqrt(3) / (3 + np.sqrt(3))  # the slanted side's area, of four sides
    assert slope.mean() == pytest.approx(share, abs=0.03)
    normals = found.normals / np.linalg.norm(found.normals, axis=1, keepdims=True)
    np.testing.assert_allclose(np.abs(normals[slope].sum(1)), np.sqrt(3), rtol=1e-5)
    assert "4 triangles, 4000 points sampled by area" in found.origin


def test_a_large_cloud_is_thinned(tmp_path):
    np.savez(tmp_path / "a.npz", points=np.arange(60.0).reshape(20, 3), normals=-np.ones((20, 3)))
    found = sample.read(tmp_path / "a.npz", 7, 0)
    assert len(np.unique(found.points, axis=0)) == len(found.normals) == 7
    assert found.origin == "cloud of 20 points, 7 of them chosen at random"


HOSTILE = {
    "zero.npy": (b"", ""),
    "zero.xyz": (b"# nothing", "it holds no points"),
    "index.obj": (b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n", "a face names vertex 9, there are 3"),
    "line.obj": (b"v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n", "no surface area"),
    "other.txt": (b"", "expected one of .ply .obj"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_get_one_line(name, tmp_path, capfd):
    content, words = HOSTILE[name]
    bad, good = tmp_path / name, tmp_path / "good.npy"
    bad.write_bytes(content)
    np.save(good, POINTS)
    for pair in ([bad, good], [good, bad]):
        assert cli.main(["compare", *map(str, pair)]) == 2
        out, err = capfd.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        assert err.startswith(f"pointloss compare: {bad}: ")
        assert re.search(words, err)


NEEDING = {"a.ply b.npy": ("reading .ply", "trimesh"), "b.npy b.npy": ("--heatmap", "matplotlib")}


@pytest.mark.parametrize("files", NEEDING)
def test_a_missing_library_is_one_sentence_with_the_extra(files, tmp_path, monkeypatch, capsys):
    purpose, package = NEEDING[files]
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / "a.ply").write_bytes(b"ply")
    np.save(tmp_path / "b.npy", POINTS)
    words = [*(str(tmp_path / name) for name in files.split()), "--csv", str(tmp_path / "out.csv")]
    if purpose == "--heatmap":
        words += ["--heatmap", str(tmp_path / "out.png")]
    assert cli.main(["compare", *words]) == 2
    assert capsys.readouterr().err == (
        f"pointloss compare: {purpose} needs {package}, which comes with the extra compare: "
        f"pip install -e '.[compare]' in the checkout, or pip install {package}\n"
    )
    extra = re.search(r"^compare = (.*)$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert f'"{package}>=' in extra[1]
    assert not (tmp_path / "out.csv").exists()  # told before the work


def cloud(points, normals=None):
    return sample.Cloud(np.asarray(points, np.float64), normals, "by hand")


def test_values_are_those_of_the_library(device):
    rng = np.random.default_rng(0)
    a, b = rng.random((60, 3)), rng.random((50, 3))
    na, nb = rng.normal(size=(60, 3)), rng.normal(size=(50, 3))
    radii = (measure.Radius(0.1, False), measure.Radius(0.2, True))
    options = measure.Options(device=str(device), radii=radii)
    found = measure.measure(cloud(a, na), cloud(b, nb), options).values
    x, y, nx, ny = (torch.tensor(t, device=device) for t in (a, b, na, nb))
    side = (y.amax(0) - y.amin(0)).max().item()
    expected = {
        "A to B": chamfer(x, y, squared=False, direction="x_to_y"),
        "B to A": chamfer(x, y, squared=False, direction="y_to_x"),
        "CD": chamfer(x, y, squared=False),
        "CD squared": chamfer(x, y),
        "Hausdorff": hausdorff(x, y),
        "HD95": hausdorff(x, y, percentile=95),
        "F@0.1": f_score(x, y, 0.1).f_score,
        "F@20%": f_score(x, y, 0.2 * side).f_score,
        "normals": normal_consistency(x, y, nx, ny),
    }
    for name, value in expected.items():
        assert found.pop(name) == pytest.approx(value.item(), rel=1e-5), name
    assert set(found) == {"EMD", "gap"}
    assert 0 <= found["gap"] <= 0.01


def test_far_from_the_origin_nothing_is_lost():
    """UTM coordinates: float32 has steps of half a metre at five million metres."""
    a = np.array([[5e6, 4e5, 0], [5e6 + 1, 4e5, 0]])
    found = measure.measure(cloud(a + [0.125, 0, 0]), cloud(a), measure.Options())
    assert found.values["A to B"] == 0.125


def test_alignment_and_scale(device):
    rng = np.random.default_rng(0)
    b = rng.random((500, 3)) * [2, 1, 0.5]
    turn = trimesh.transformations.rotation_matrix(0.1, [1, 2, 3])[:3, :3]
    a, normals = b @ turn.T + 0.02, rng.normal(size=(500, 3))
    options = measure.Options(align="icp", device=str(device))
    pair = measure.measure(cloud(a, normals @ turn.T), cloud(b, normals), options)
    assert pair.values["Hausdorff"] < 1e-4
    assert pair.values["normals"] == pytest.approx(1)  # they turn with the points
    assert "rounds" in pair.notes[0]
    box = measure.measure(cloud(3 * b), cloud(b), measure.Options(scale="own-box"))
    assert box.values["CD"] < 1e-6
    side = np.ptp(b, axis=0).max()
    moved = measure.measure(cloud(b + [9, 0, 0]), cloud(b), measure.Options(scale="box"))
    assert moved.values["EMD"] == pytest.approx(9 / side, rel=1e-2)


def test_emd_is_on_subsets_of_large_clouds_and_says_so(monkeypatch, device):
    monkeypatch.setattr(measure, "EMD_POINTS", 30)
    points = np.random.default_rng(0).random((200, 3))
    pair = measure.measure(cloud(points), cloud(points), measure.Options(device=str(device)))
    assert pair.notes == ["EMD on 30 points of each, chosen at random of 200 and 200."]
    assert 0 < pair.values["EMD"] < 2 * pair.values["EMD floor"]
    assert pair.values["CD"] == 0


@pytest.fixture
def folders(tmp_path):
    rng = np.random.default_rng(0)
    for side in "AB":
        for name in ("chair/1", "chair/2", "3"):
            path = tmp_path / side / f"{name}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, rng.random((40, 3)))
    (tmp_path / "B" / "3.npy").rename(tmp_path / "B" / "3.xyz")
    np.savetxt(tmp_path / "B" / "3.xyz", rng.random((40, 3)))
    np.save(tmp_path / "A" / "alone.npy", POINTS)
    (tmp_path / "A" / "notes.txt").write_text("not a cloud")
    return tmp_path


def test_folders_are_matched_by_name(folders, capsys):
    out = folders / "out.csv"
    words = ["compare", str(folders / "A"), str(folders / "B"), "--device", "cpu"]
    assert cli.main([*words, "--csv", str(out), "--json"]) == 0
    text, err = capsys.readouterr()
    assert err == f"pointloss compare: no partner for {folders / 'A' / 'alone.npy'}\n"
    document = json.loads(text)
    assert list(document["pairs"]) == ["3", "chair/1", "chair/2"]
    assert document["unmatched"] == [str(folders / "A" / "alone.npy")]
    with open(out, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["pair"] for row in rows] == ["3", "chair/1", "chair/2", "mean"]
    for name, value in document["mean"].items():
        values = [pair[name] for pair in document["pairs"].values()]
        assert value == pytest.approx(np.mean(values))
        assert float(rows[-1][name]) == value
    assert cli.main(words) == 0
    assert "mean of 3" in capsys.readouterr().out


def test_a_mean_is_of_all_pairs_or_left_out(folders, capsys):
    """Normals are in one pair only: their mean would be of other pairs than its neighbours."""
    rng = np.random.default_rng(0)
    for side in "AB":
        (folders / side / "chair" / "2.npy").unlink()
        path = folders / side / "chair" / "2.npz"
        np.savez(path, points=rng.random((40, 3)), normals=rng.random((40, 3)))
    out = folders / "out.csv"
    words = ["compare", str(folders / "A"), str(folders / "B"), "--csv", str(out)]
    assert cli.main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert "normals" in document["pairs"]["chair/2"]
    assert document["mean"].keys() == document["pairs"]["3"].keys()
    with open(out, newline="") as file:
        assert [row["normals"] for row in csv.DictReader(file)][:2] == ["", ""]
    assert out.read_text().splitlines()[-1].endswith(",")
    assert cli.main(words) == 0
    text = capsys.readouterr().out
    (mean,) = (line for line in text.splitlines() if line.startswith("mean of 3"))
    (pair,) = (line for line in text.splitlines() if line.startswith("chair/2"))
    assert len(mean) < len(pair)  # the last column is normals
    assert "The mean is of the columns that every pair has." in text


def test_json_goes_into_a_file_and_says_what_was_compared(tmp_path, capsys):
    trimesh.Trimesh(CORNERS, TRIANGLES, process=False).export(tmp_path / "a.ply")
    np.save(tmp_path / "b.npy", POINTS)
    out = tmp_path / "out.json"
    words = ["compare", str(tmp_path / "a.ply"), str(tmp_path / "b.npy"), "--points", "50"]
    assert cli.main([*words, "--radius", "2%", "--radius", "0.5", "--json", str(out)]) == 0
    assert "F@0.5" in capsys.readouterr().out  # the table is printed all the same
    document = json.loads(out.read_text())
    assert document["radii"] == ["2%", "0.5"]
    assert document["points_compared"] == {"a.ply": {"A": 50, "B": 3}}
    assert document["unmatched"] == []


def test_one_bad_pair_does_not_lose_the_others(folders, capsys):
    (folders / "A" / "3.npy").write_bytes(b"")
    assert cli.main(["compare", str(folders / "A"), str(folders / "B")]) == 2
    text, err = capsys.readouterr()
    assert "mean of 2, 1 failed" in text
    assert err.count("\n") == 2


def test_a_protocol_gives_its_numbers(tmp_path, capsys):
    for name, points in (("a", POINTS), ("b", POINTS + [0, 3, 4])):
        np.save(tmp_path / f"{name}.npy", points)
    words = ["compare", str(tmp_path / "a.npy"), str(tmp_path / "b.npy"), "--json"]
    assert cli.main([*words, "--protocol", "pointr-cd-l1"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["protocol"]["factor"] == 1000
    by_hand = PROTOCOLS["pointr-cd-l1"].score(
        torch.tensor(POINTS).float(), torch.tensor(POINTS + [0, 3, 4]).float()
    )
    assert document["mean"]["CD"] == pytest.approx(by_hand["CD"].item())
    assert "x1000" in document["columns"][0]


def test_a_heatmap_is_drawn(tmp_path):
    Image = pytest.importorskip("PIL.Image")
    pytest.importorskip("matplotlib")
    np.save(tmp_path / "a.npy", np.c_[np.zeros((5, 2)), np.arange(5.0)])
    np.save(tmp_path / "b.npy", np.zeros((5, 3)))
    out = tmp_path / "out.png"
    words = ["compare", str(tmp_path / "a.npy"), str(tmp_path / "b.npy"), "--heatmap", str(out)]
    assert cli.main(words) == 0
    with Image.open(out) as picture:
        colours = np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)
    assert len(colours) > 50


def test_views_are_not_mirrored():
    for across, up, near in heatmap.VIEWS.values():
        sides = [heatmap._along(np.eye(3, dtype=np.float32), axis) for axis in (across, up, near)]
        np.testing.assert_array_equal(np.cross(sides[0], sides[1]), sides[2])


@pytest.mark.parametrize("more", ["", "--scale own-box", "--scale box", "--align icp"])
def test_a_heatmap_in_ply_lies_over_the_file_of_a(more, tmp_path):
    """Far from the origin, where float32 would round by half a metre."""
    pytest.importorskip("matplotlib")
    rng = np.random.default_rng(0)
    b = rng.random((50, 3)) * [2, 1, 0.5] + [5e6, 4e5, 7]
    a = b + [0.0, 0.25, 0.0]
    for name, points in (("a", a), ("b", b)):
        np.save(tmp_path / f"{name}.npy", points)
    out = tmp_path / "out.ply"
    words = ["compare", *(str(tmp_path / f"{n}.npy") for n in "ab"), "--heatmap", str(out)]
    assert cli.main([*words, *more.split()]) == 0
    header, body = out.read_bytes().split(b"end_header\n")
    assert b"element vertex 50\n" in header
    rows = np.frombuffer(body, np.dtype([("p", "<f8", 3), ("d", "<f4"), ("c", "u1", 3)]))
    np.testing.assert_array_equal(rows["p"], a)
    np.testing.assert_array_equal(sample.read(out, None, 0).points, a)
    if not more:
        nearest = np.linalg.norm(a[:, None] - b, axis=-1).min(1)
        np.testing.assert_allclose(rows["d"], nearest, rtol=1e-4)
    if more in ("--scale own-box", "--align icp"):
        assert rows["d"].max() < 1e-3  # as compared: A lies on B then


WRONG = {
    "{a} {missing}": "missing.npy: there is no such file or folder",
    "{a} {folder}": "expected two files or two folders",
    "{folder} {empty}": "no file of",
    "{a} {a} --protocol pcn --align icp": "leave out --align",
    "{a} {a} --heatmap x.jpg": "expected a .png or .ply file",
    "{folder} {folder} --heatmap x.png": "--heatmap is of two files",
    "{a} {a} --heatmap nodir/x.png": "--heatmap: folder nodir does not exist",
    "{a} {a} --csv nodir/deep/x.csv": "--csv: folder nodir/deep does not exist",
    "{a} {a} --json nodir/x.json": "--json: folder nodir does not exist",
    "{a} {a} --csv {folder}": "--csv: expected a file, got the folder",
    "{a} {a} --json {a}": "is one of the files to compare",
    "{a} {a} --seed -1": "--seed must be at least 0",
    "{twice} {twice}": "have one name",
}


@pytest.mark.parametrize("words", WRONG)
def test_wrong_use_is_one_line(words, tmp_path, capsys):
    names = {name: tmp_path / name for name in ("folder", "empty", "twice")}
    for path in names.values():
        path.mkdir()
    for path in ("a.npy", "folder/a.npy", "twice/a.npy", "twice/a.npz"):
        (tmp_path / path).touch()
    names |= {"a": tmp_path / "a.npy", "missing": tmp_path / "missing.npy"}
    assert cli.main(["compare", *words.format(**names).split()]) == 2
    text, err = capsys.readouterr()
    assert (text, err.count("\n")) == ("", 1)
    assert WRONG[words] in err


@pytest.mark.parametrize("radius", ["0", "-1", "x", "nan", "inf%"])
def test_a_radius_is_a_number_above_0(radius, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["compare", "a", "b", f"--radius={radius}"])
    assert "--radius" in capsys.readouterr().err


def test_radii_and_device_by_choice(monkeypatch):
    assert command._radius("2%") == measure.Radius(0.02, True)
    assert command._radius("0.5").name() == "F@0.5"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command._device("auto") == "cpu"
    with pytest.raises(ValueError, match="--device cuda: "):
        command._device("cuda")
