# SPDX-License-Identifier: MIT
import hashlib
import importlib.util
import io
import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.data import contact_sheet, prepare
from models.data.categories import SYNSETS, category_of
from models.data.dataset import ReconstructionDataset
from models.data.debian import LIBRARIES, PrepareError, find_deb, parse_catalogue, unpack_deb
from models.data.licences import Licence, terms_of
from models.data.render import Camera, Renderer, fitting_distance, orbit
from models.data.sample import sample_surface, unit_box
from models.data.splits import families, near_duplicates, split

ROOT = Path(__file__).resolve().parents[1] / "models" / "data" / "furniture"
OBJECTS = json.loads((ROOT / "manifest.json").read_text(encoding="utf-8"))["objects"]

BOX_FACES = np.array(
    [[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1],
     [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]]
)  # fmt: skip

NEEDED = ("trimesh", "embreex", "scipy", "tqdm")
needs_renderer = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in NEEDED), reason=f"needs {NEEDED}"
)


def box(width, height, depth):
    corner = np.stack(np.meshgrid(*[[-0.5, 0.5]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    return corner * [width, height, depth]


def folders(record):
    where = f"{record['synset']}/{record['model']}"
    return ROOT / "ShapeNetRendering" / where / "rendering", ROOT / "ShapeNet_pointclouds" / where


def test_the_set_is_as_large_as_promised_and_holds_what_the_manifest_says():
    assert len(OBJECTS) >= 60
    assert len({r["category"] for r in OBJECTS}) >= 5
    assert min(r["views"] for r in OBJECTS) >= 8
    known = {ROOT / "manifest.json", ROOT / "CREDITS.md"}
    known |= {ROOT / "splits" / f"{part}_models.json" for part in ("train", "val", "test")}
    for r in OBJECTS:
        images, clouds = folders(r)
        known |= {images / f"{view:02d}.png" for view in range(r["views"])}
        known |= {images / "rendering_metadata.txt"} | {clouds / name for name in r["sha256"]}
        for name, digest in r["sha256"].items():
            assert hashlib.sha256((clouds / name).read_bytes()).hexdigest() == digest, clouds / name
    files = {path for path in ROOT.rglob("*") if path.is_file()}
    assert files == known
    assert sum(path.stat().st_size for path in files) <= 8_000_000


def test_clouds_fill_the_unit_box():
    for r in OBJECTS:
        for count in (1024, 2048):
            points = np.load(folders(r)[1] / f"pointcloud_{count}.npy", allow_pickle=False)
            assert points.shape == (count, 3)
            assert np.abs(points).max() <= 0.5
            assert 0.9 < np.ptp(points.astype(float), axis=0).max() <= 1, r["model"]


def test_proportions_agree_with_the_catalogue():
    # The catalogue states width, height and depth of the piece as it stands: x, y and z here.
    wrong = []
    for r in OBJECTS:
        extent = np.ptp(np.load(folders(r)[1] / "pointcloud_2048.npy").astype(float), axis=0)
        size = np.array([r["size_cm"][side] for side in ("width", "height", "depth")])
        if np.abs(extent / extent.max() - size / size.max()).max() > 0.2:
            wrong.append(r["model"])
    assert len(wrong) <= 0.05 * len(OBJECTS), wrong


def test_views_show_the_object_where_its_points_are():
    # Ties image, camera line and cloud together: a wrong frame or azimuth would show here.
    inside = []
    for r in OBJECTS:
        points = np.load(folders(r)[1] / "pointcloud_2048.npy").astype(np.float64)
        lines = (folders(r)[0] / "rendering_metadata.txt").read_text().splitlines()
        assert len(lines) == r["views"]
        for view, line in enumerate(lines):
            azimuth, elevation, _, distance, fov = map(float, line.split())
            assert 25 <= elevation <= 30
            assert azimuth // (360 / r["views"]) == view  # one camera in each slice of the circle
            with Image.open(folders(r)[0] / f"{view:02d}.png") as file:
                assert file.mode == "RGBA"
                image = np.asarray(file)
            alpha = image[..., 3]
            assert (alpha > 0).sum() > 40, (r["model"], view)
            assert not np.concatenate([alpha[[0, -1]], alpha[:, [0, -1]].T]).any()
            assert image[alpha == 255][:, :3].max(initial=30) >= 20, (r["model"], view)  # not black
            x, y, back = Camera(azimuth, elevation, distance, fov).axes() @ points.T
            depth = (distance - back) * np.tan(np.deg2rad(fov) / 2)
            column = ((x / depth + 1) / 2 * len(alpha)).astype(int)
            row = ((1 - y / depth) / 2 * len(alpha)).astype(int)
            inside.append((alpha[row, column] > 0).mean())
    # Wires thinner than a ray's step are missed here and there; everything else is hit.
    assert min(inside) > 0.7
    assert np.median(inside) > 0.99


def test_splits_part_no_family():
    part_of = {}
    for r in OBJECTS:
        assert part_of.setdefault(r["family"], r["split"]) == r["split"]
    train = {r["category"] for r in OBJECTS if r["split"] == "train"}
    test = {r["category"] for r in OBJECTS if r["split"] == "test"}
    assert test == train
    share = sum(r["split"] == "test" for r in OBJECTS) / len(OBJECTS)
    assert 0.15 < share < 0.25
    listed = []
    for part in ("train", "val", "test"):
        table = json.loads((ROOT / "splits" / f"{part}_models.json").read_text())
        keys = [key for keys in table.values() for key in keys]
        assert set(keys) == {f"{r['synset']}/{r['model']}" for r in OBJECTS if r["split"] == part}
        listed += keys
    assert len(listed) == len(set(listed)) == len(OBJECTS)


def test_every_licence_allows_passing_on_and_is_credited():
    allowed = {licence.value for licence in Licence}
    text = (ROOT / "CREDITS.md").read_text(encoding="utf-8")
    for r in OBJECTS:
        assert (r["licence"], r["licence_url"]) in allowed
        assert r["author"] or not r["licence"].startswith("CC-BY")
        row = next(line for line in text.splitlines() if f"{r['synset']}/{r['model']} |" in line)
        assert r["author"] in row
        assert r["licence_url"] in text


def test_dataset_shapes_and_types():
    data = ReconstructionDataset(ROOT, "test")
    assert len(data) == 8 * len(data.objects)
    sample = data[9]
    assert sample.image.shape == (3, 64, 64)
    assert sample.image.dtype == sample.points.dtype == torch.float32
    assert 0 <= sample.image.min() < sample.image.max() == 1  # the background is white
    assert sample.points.shape == (2048, 3)
    assert (sample.sample, sample.object, sample.view) == (9, 1, 1)
    assert data.objects[1].split("/")[0] == data.synsets[sample.category]
    assert SYNSETS[data.categories[sample.category]] == data.synsets[sample.category]
    assert data[-1].sample == len(data) - 1
    with pytest.raises(IndexError):
        data[len(data)]
    val = ReconstructionDataset(ROOT, "val", image_size=32, points=1024)
    assert val.categories == data.categories  # one numbering for all splits
    batch = next(iter(torch.utils.data.DataLoader(val, batch_size=3)))
    assert (batch.image.shape, batch.points.shape) == ((3, 3, 32, 32), (3, 1024, 3))
    assert batch.view.tolist() == [0, 1, 2]


@pytest.fixture
def small(tmp_path):
    """A copy of the set with one object in its train split."""
    key = f"{OBJECTS[0]['synset']}/{OBJECTS[0]['model']}"
    for top in ("ShapeNetRendering", "ShapeNet_pointclouds"):
        shutil.copytree(ROOT / top / key, tmp_path / top / key)
    (tmp_path / "splits").mkdir()
    table = json.dumps({OBJECTS[0]["synset"]: [key]})
    (tmp_path / "splits" / "train_models.json").write_text(table)
    return tmp_path


@pytest.mark.parametrize("name", ["rendering/03.png", "pointcloud_2048.npy"])
def test_a_missing_file_is_named(small, name):
    assert len(ReconstructionDataset(small, "train")) == 8
    next(small.rglob(name)).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        ReconstructionDataset(small, "train")


def test_bad_trees_and_arguments(small):
    root = small
    with pytest.raises(ValueError, match="split must be one of"):
        ReconstructionDataset(root, "dev")
    with pytest.raises(FileNotFoundError, match="test_models.json"):
        ReconstructionDataset(root, "test")
    with pytest.raises(FileNotFoundError, match="no folder"):
        ReconstructionDataset(root / "nowhere", "train")
    np.save(next(root.rglob("*_2048.npy")), np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="not a readable array"):  # and never unpickled
        ReconstructionDataset(root, "train")
    (root / "splits" / "train_models.json").write_text('{"03001627": ["03001627/../../x"]}')
    with pytest.raises(ValueError, match="not of the form"):
        ReconstructionDataset(root, "train")


def deb(path, members):
    """A .deb with the given (name, bytes or link target) in data.tar.xz."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = tarfile.SYMTYPE, content
                archive.addfile(info)
    with path.open("wb") as file:
        file.write(b"!<arch>\n")
        for name, content in (("debian-binary", b"2.0"), ("data.tar.xz", data.getvalue())):
            file.write(f"{name:16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode())
            file.write(content + b"\n" * (len(content) % 2))
    return path


@pytest.mark.parametrize("name", ["../evil.sh3f", "/evil.sh3f", "a/../../evil.sh3f", "..\\e.sh3f"])
def test_unpack_refuses_to_leave_the_target(tmp_path, name):
    package = deb(tmp_path / "a.deb", [(name, b"evil")])
    with pytest.raises(PrepareError, match="would leave"):
        unpack_deb(package, tmp_path / "in" / "out", ".sh3f")
    assert not list(tmp_path.rglob("*.sh3f"))


def test_unpack_refuses_links_and_rubbish(tmp_path):
    with pytest.raises(PrepareError, match="link or a device"):
        unpack_deb(deb(tmp_path / "a.deb", [("a.sh3f", "/etc/passwd")]), tmp_path / "o", ".sh3f")
    (tmp_path / "b.deb").write_bytes(b"rubbish")
    with pytest.raises(PrepareError, match="no ar header"):
        unpack_deb(tmp_path / "b.deb", tmp_path / "o", ".sh3f")
    with pytest.raises(PrepareError, match="no sweethome3d-furniture"):
        find_deb(tmp_path)


def test_catalogue_and_categories():
    text = "# note\nid=x\nname#2=Chair\nname#1=Table lamp\\u20ac\nmodel#1=/a/b.obj\n"
    assert parse_catalogue(text) == [
        {"name": "Table lamp\u20ac", "model": "/a/b.obj"}, {"name": "Chair"}
    ]  # fmt: skip
    names = ["Table lamp", "Bedside table", "Table tennis", "Wheelchair", "Corner sofa", "Spoon"]
    found = [category_of(name) for name in names]
    assert found == ["lamp", "cabinet", None, None, "sofa", None]


def test_a_models_own_licence_overrules_the_library():
    texts = {
        "Released under\nCreative Commons Zero (Public Domain)": Licence.CC0,
        "Released under Creative Commons Attribution 3.0": Licence.CC_BY,
        "Creative Commons Attribution-ShareAlike 3.0": None,
        "https://creativecommons.org/licenses/by-nc/3.0/": None,
        "nothing of note": Licence.CC0,
    }
    for text, expected in texts.items():
        with zipfile.ZipFile(io.BytesIO(), "w") as archive:
            archive.writestr("lib/a/LICENSE.TXT", text)
            archive.writestr("lib/LICENSE.TXT", "licenses/by-nc/3.0")  # another folder's
            assert terms_of(archive, "lib/a/a.obj", "Me", Licence.CC0).licence is expected


def test_sampling_is_uniform_over_the_area():
    # Two triangles of area 1 and 3, the larger again cut in four quarters of equal area.
    vertices = np.array([[0, 0, 0], [2, 0, 0], [0, 1, 0], [10, 0, 0], [12, 0, 0], [10, 3, 0.0]])
    count, faces = 40_000, np.array([[0, 1, 2], [3, 4, 5]])
    points = sample_surface(vertices, faces, count, np.random.default_rng(0))
    large = points[points[:, 0] >= 5] - [10, 0, 0]
    u, v = large[:, 0] / 2, large[:, 1] / 3
    assert (u + v).max() <= 1
    seen = np.array([count - len(large), (u > 0.5).sum(), (v > 0.5).sum(),
                     ((u < 0.5) & (v < 0.5) & (u + v < 0.5)).sum(),
                     ((u < 0.5) & (v < 0.5) & (u + v >= 0.5)).sum()])  # fmt: skip
    expected = count * np.array([4, 3, 3, 3, 3]) / 16
    assert ((seen - expected) ** 2 / expected).sum() < 18.5  # chi-square, 4 degrees, p = 0.001


def test_sampling_skips_faces_without_area_and_rejects_none():
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0.0]])
    faces = np.array([[0, 0, 0], [0, 1, 2], [1, 1, 2]])
    points = sample_surface(vertices, faces, 500, np.random.default_rng(1))
    assert np.isfinite(points).all()
    assert np.ptp(points[:, 0]) > 0.5
    with pytest.raises(ValueError, match="no surface"):
        sample_surface(vertices, np.array([[0, 0, 1]]), 5, np.random.default_rng(1))
    with pytest.raises(ValueError, match="not finite"):
        unit_box(vertices * np.nan)


@needs_renderer
def test_near_duplicates_are_found():
    shapes = {}
    for name, size in {"a": (1, 0.5, 0.5), "b": (1, 0.505, 0.5), "c": (1, 0.56, 0.5)}.items():
        dense = sample_surface(box(*size), BOX_FACES, 32768, np.random.default_rng(len(shapes)))
        shapes[name] = (dense[::16], dense)
    assert near_duplicates(shapes) == [("a", "b")]


def test_split_keeps_families_whole_and_trains_every_category():
    names = {"a": "x", "b": "y", "c": "y", "d": "z"}
    assert families(names, [("a", "b")]) == {"a": "x", "b": "x", "c": "x", "d": "z"}
    family = {f"{i}": f"f{i // 3}" for i in range(120)} | {"only": "one"}
    category = dict.fromkeys(family, "chair") | {"only": "bench"}
    parts = split(family, category)
    assert parts == split(dict(reversed(family.items())), category)
    assert parts["only"] == "train"
    assert all(parts[f"{3 * i}"] == parts[f"{3 * i + 2}"] for i in range(40))
    assert list(parts.values()).count("test") == pytest.approx(24, abs=3)
    assert list(parts.values()).count("val") == pytest.approx(6, abs=3)


def test_cameras_follow_the_r2n2_frame_and_fit_the_object():
    side = [[0, 0, -1], [0, 1, 0], [1, 0, 0]]
    np.testing.assert_allclose(Camera(0, 0, 1).axes(), side, atol=1e-12)
    np.testing.assert_allclose(Camera(270, 0, 1).axes(), np.eye(3), atol=1e-12)
    vertices = box(1, 0.2, 0.7)
    for camera in orbit(vertices, 12, np.random.default_rng(5)):
        assert 1.05 <= camera.distance / fitting_distance(vertices, camera) <= 1.2


def slab_test(camera, half, size):
    """Which pixel centres see the box [-half, half]: rays against three slabs, [size, size]."""
    right, up, back = camera.axes()
    reach = np.tan(np.deg2rad(camera.fov) / 2)
    grid = ((np.arange(size) + 0.5) / size * 2 - 1) * reach
    ray = grid[None, :, None] * right - grid[:, None, None] * up - back
    near, far = np.sort([(sign * half - camera.distance * back) / ray for sign in (-1, 1)], axis=0)
    return near.max(axis=-1) <= far.min(axis=-1)


@needs_renderer
def test_the_silhouette_of_a_box_is_exact():
    half = np.array([0.5, 0.25, 0.35])
    renderer = Renderer(box(*2 * half), BOX_FACES, np.tile([0.8, 0.2, 0.1], (12, 1)))
    for camera in orbit(box(*2 * half), 8, np.random.default_rng(0)):
        seen, expected = renderer.hits(camera, 64) >= 0, slab_test(camera, half, 64)
        assert (seen != expected).mean() < 5e-4  # rays that graze an edge may go either way
        image = renderer.render(camera, 32, supersample=2)
        assert image.shape == (32, 32, 4)
        coverage = expected.reshape(32, 2, 32, 2).mean(axis=(1, 3))
        assert np.abs(image[..., 3] / 255 - coverage).mean() < 1e-3
        inside = image[image[..., 3] == 255]
        assert (inside[:, 0] > inside[:, 1]).all()
        assert (image[image[..., 3] == 0] == 0).all()


@needs_renderer
def test_bad_arguments_get_one_line(tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    (tmp_path / "file").touch()
    cases = [
        ([str(tmp_path / "full")], "was not made by this command"),
        ([str(tmp_path / "file")], "is a file"),
        ([str(tmp_path / "new"), "--debs", str(tmp_path / "none")], "no such folder"),
        ([str(tmp_path / "new"), "--debs", str(tmp_path / "full")], "no sweethome3d-furniture"),
        ([str(tmp_path / "new"), "--views", "100"], "at most 99"),
    ]
    for words, message in cases:
        assert prepare.main(["debian", *words]) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1, error
    with pytest.raises(SystemExit):
        prepare.main(["debian", str(tmp_path / "new"), "--views", "0"])
    assert (tmp_path / "full" / "letter.txt").exists()


@needs_renderer
def test_a_package_is_prepared_and_a_broken_mesh_skipped(tmp_path, capsys):
    lines = []
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for number, name in enumerate(("good", "broken", "red"), 1):
            lines += [f"name#{number}=Table", f"model#{number}=/lib/{name}/{name}.obj",
                      f"creator#{number}={name}", f"width#{number}=1"]  # fmt: skip
            vertices = box(1, 0.5, 0.2 * number) * 100 + 7
            text = "mtllib m.mtl\n" + "".join(f"v {x} {y} {z}\n" for x, y, z in vertices)
            text += "usemtl m\n" + "".join(f"f {a} {b} {c}\n" for a, b, c in BOX_FACES + 1)
            archive.writestr(f"lib/{name}/{name}.obj", "v 1 2" if name == "broken" else text)
            archive.writestr(f"lib/{name}/m.mtl", "newmtl m\nKd 1 0 0\n")
        archive.writestr("PluginFurnitureCatalog.properties", "\n".join(lines))
    empty = io.BytesIO()
    with zipfile.ZipFile(empty, "w") as archive:
        archive.writestr("PluginFurnitureCatalog.properties", "")
    libraries = [(f"./usr/{name}.sh3f", empty.getvalue()) for name in LIBRARIES[1:]]
    libraries.append((f"./usr/{LIBRARIES[0]}.sh3f", data.getvalue()))
    deb(tmp_path / "sweethome3d-furniture_9-1_all.deb", libraries)
    trees = []
    for out in (tmp_path / "one", tmp_path / "two"):
        words = [str(out), "--debs", str(tmp_path), "--size", "16", "--quiet"]
        assert prepare.main(["debian", *words]) == 0
        assert "broken.obj" in capsys.readouterr().err
        files = [path for path in out.rglob("*") if path.is_file()]
        trees.append({path.relative_to(out): path.read_bytes() for path in files})
    assert trees[0] == trees[1]
    train = ReconstructionDataset(tmp_path / "one", "train")
    assert len(train.objects) == 1  # of two tables, one is kept for the test
    assert (train[0].image[0] > train[0].image[1]).any()  # the material's red arrived
    assert contact_sheet.contact_sheet(tmp_path / "one").size[0] > 16
