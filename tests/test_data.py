# SPDX-License-Identifier: MIT
"""The committed set, and the loader."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.data import contact_sheet, maps
from models.data.camera import FOV, read_metadata
from models.data.categories import SYNSETS
from models.data.dataset import SPLITS, ReconstructionDataset, read_image
from models.data.prepare.licences import FREE
from models.data.prepare.sources import debian

ROOT = Path(__file__).resolve().parents[1] / "models" / "data" / "furniture"
OBJECTS = json.loads((ROOT / "manifest.json").read_text(encoding="utf-8"))["objects"]


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
        known |= {images / "rendering_metadata.txt", images / "lights.txt"}
        known |= {clouds / name for name in r["sha256"]}
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
        cameras = read_metadata((folders(r)[0] / "rendering_metadata.txt").read_text())
        assert len(cameras) == r["views"]
        for view, camera in enumerate(cameras):
            assert 25 <= camera.elevation <= 30
            # One camera in each slice of the circle.
            assert (360 - camera.azimuth) // (360 / r["views"]) == view
            with Image.open(folders(r)[0] / f"{view:02d}.png") as file:
                assert file.mode == "RGBA"
                image = np.asarray(file)
            alpha = image[..., 3]
            assert (alpha > 0).sum() > 40, (r["model"], view)
            assert not np.concatenate([alpha[[0, -1]], alpha[:, [0, -1]].T]).any()
            assert image[alpha == 255][:, :3].max(initial=30) >= 20, (r["model"], view)  # not black
            x, y, back = camera.axes() @ points.T
            depth = (camera.distance - back) * np.tan(np.deg2rad(FOV) / 2)
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
    allowed = set(FREE)
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


def test_the_committed_split_is_the_set_s_own():
    fixed = debian.fixed_split()
    assert all(fixed[f"{r['synset']}/{r['model']}"] == r["split"] for r in OBJECTS)
    assert set(fixed.values()) == {"train", "val", "test"}


def test_validation_holds_a_tenth_of_the_families():
    families = {part: {r["family"] for r in OBJECTS if r["split"] == part} for part in SPLITS}
    whole = set.union(*families.values())
    assert sum(map(len, families.values())) == len(whole)  # none is parted
    assert len(families["val"]) >= 0.1 * len(whole)


def test_137_pixels_are_cut_as_the_compared_papers_cut_them(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (137, 137, 4), dtype=np.uint8)
    values[..., 3] = 255
    Image.fromarray(values).save(tmp_path / "a.png")
    expected = values[4:-5, 4:-5, :3].transpose(2, 0, 1)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", 128)[:3], expected)
    assert read_image(tmp_path / "a.png").shape == (4, 137, 137)
    assert read_image(tmp_path / "a.png", 64).shape == (4, 64, 64)


def test_a_cloud_with_a_flipped_bit_is_an_error(small):
    """The manifest tells the sha256 of every cloud; one without a manifest is read as it is."""
    path = next(small.rglob("pointcloud_2048.npy"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # a sign, say, or a last digit
    path.write_bytes(content)
    assert len(ReconstructionDataset(small, "train")) == 8
    shutil.copy(ROOT / "manifest.json", small)
    with pytest.raises(ValueError, match="pointcloud_2048.npy: damaged: another sha256"):
        ReconstructionDataset(small, "train")


def test_no_flipped_bit_changes_a_picture(small):
    path = next(small.rglob("03.png"))
    expected, whole = read_image(path), path.read_bytes()
    for place in range(0, 8 * len(whole), 8 * len(whole) // 150):
        broken = bytearray(whole)
        broken[place // 8] ^= 1 << place % 8
        path.write_bytes(broken)
        try:
            np.testing.assert_array_equal(read_image(path), expected)
        except ValueError as error:
            assert "not a readable image" in str(error)  # noqa: PT017


@pytest.mark.parametrize("text", ["{", "[1]", "\0"])
def test_a_manifest_that_is_no_json_object_is_named(small, text):
    (small / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match="manifest.json: (not JSON|expected a JSON object)"):
        ReconstructionDataset(small, "train")


@pytest.mark.parametrize(
    "text", ["{}", '{"frame": 1, "objects": 2}', '{"objects": [1, {"model": 3}]}']
)
def test_somebody_elses_manifest_is_left_alone(small, text):
    (small / "manifest.json").write_text(text)
    assert ReconstructionDataset(small, "train").front is None


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.zeros((2048, 3), complex), "expected real numbers, got complex128"),
        (np.full((2048, 3), "1"), "expected real numbers"),
        (np.full((2048, 3), 1e300), "all finite"),
        (np.zeros((2048, 2)), "expected \\[N, 3\\]"),
        (np.zeros((2047, 3)), "2047 points, expected 2048"),
    ],
)
def test_clouds_that_are_none_are_named(small, points, message):
    np.save(next(small.rglob("pointcloud_2048.npy")), points)
    with pytest.raises(ValueError, match=message):
        ReconstructionDataset(small, "train")


@pytest.mark.parametrize("size", [None, 32])
@pytest.mark.parametrize("view", [0, 5])
def test_a_picture_that_is_not_square_is_named(small, size, view):
    Image.new("RGBA", (64, 48)).save(next(small.rglob(f"{view:02d}.png")))
    with pytest.raises(ValueError, match=f"{view:02d}.png: 64 x 48 pixels, expected a square"):
        ReconstructionDataset(small, "train", image_size=size)


@pytest.mark.parametrize("format", ["BMP", "JPEG"])
def test_only_png_is_decoded(small, format):
    Image.new("RGB", (64, 64)).save(next(small.rglob("03.png")), format=format)
    with pytest.raises(ValueError, match="03.png: not a readable image"):
        ReconstructionDataset(small, "train")


@pytest.mark.parametrize("key", ["category", "model", "synset"])
@pytest.mark.parametrize("name", ["../X", "/tmp/X", "a/b", "", None])
def test_a_contact_sheet_stays_in_its_folder(small, capsys, key, name):
    record = {"category": "chair", "model": "m", "synset": "1", "views": 8, "split": "test"}
    manifest = json.dumps({"objects": [record | {key: name}]})
    (small / "manifest.json").write_text(manifest)
    before = set(small.rglob("*"))
    assert contact_sheet.main([str(small), str(small / "sheets" / "here")]) == 1
    assert f"{key} {name!r} is not a plain name" in capsys.readouterr().err
    assert set(small.rglob("*.png")) <= before


def test_a_contact_sheet_shows_each_category(small):
    (small / "manifest.json").write_text(json.dumps({"objects": OBJECTS[:1]}))
    assert contact_sheet.main([str(small), str(small / "sheets")]) == 0
    assert [p.name for p in (small / "sheets").iterdir()] == [f"{OBJECTS[0]['category']}.png"]


def test_images_on_demand_are_the_images_in_memory(small):
    kept = ReconstructionDataset(small, "train", image_size=32)
    read = ReconstructionDataset(small, "train", image_size=32, in_memory=1)
    assert kept.images is not None
    assert read.images is None
    for a, b in zip(kept, read, strict=True):
        assert torch.equal(a.image, b.image)


def test_every_view_has_its_camera_and_none_is_invented(small):
    sample = ReconstructionDataset(small, "train", image_size=32)[3]
    points = torch.cat([sample.points, torch.ones(len(sample.points), 1)], dim=1)
    pixel = points @ (sample.camera.intrinsics @ sample.camera.extrinsics).T
    column, row = (pixel[:, :2] / pixel[:, 2:]).long().T
    assert (sample.image[:, row, column] < 1).any(dim=0).float().mean() > 0.95
    next(small.rglob("rendering_metadata.txt")).unlink()
    camera = ReconstructionDataset(small, "train")[3].camera
    assert all(field.isnan().all() for field in camera)


def test_a_camera_too_few_is_named(small):
    path = next(small.rglob("rendering_metadata.txt"))
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))
    with pytest.raises(ValueError, match="7 cameras for 8 images"):
        ReconstructionDataset(small, "train")


def test_depth_and_normals_come_with_the_image(small):
    with pytest.raises(FileNotFoundError, match="depth/00.png"):
        ReconstructionDataset(small, "train", geometry=True)[0]
    home = next(small.rglob("rendering")).parent
    depth = np.zeros((64, 64))
    depth[16:, :32] = 1.5
    normal = np.dstack([np.zeros((64, 64, 2)), -np.sign(depth)])
    for kind in ("depth", "normal"):
        (home / kind).mkdir()
    for view in range(8):
        maps.write_depth(home / "depth" / f"{view:02d}.png", depth)
        maps.write_normal(home / "normal" / f"{view:02d}.png", normal)
    data = ReconstructionDataset(small, "train", image_size=32, geometry=True)
    batch = next(iter(torch.utils.data.DataLoader(data, batch_size=4)))
    assert (batch.depth.shape, batch.normal.shape) == ((4, 32, 32), (4, 3, 32, 32))
    torch.testing.assert_close(batch.depth[1], torch.from_numpy(depth[::2, ::2]).float())
    torch.testing.assert_close(batch.normal[1, 2], -batch.depth[1].sign())
    maps.write_depth(home / "depth" / "02.png", depth[:, :32])
    with pytest.raises(ValueError, match="depth/02.png: 32 x 64 pixels, its image has 64 a side"):
        data[2]
