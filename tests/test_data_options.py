# SPDX-License-Identifier: MIT
"""What a set may be made with: visible points, stretched copies, cameras, light, background."""

import json

import numpy as np
import pytest
from meshes import BOX_FACES, box, needs_renderer, obj
from PIL import Image

from models.data.camera import read_metadata
from models.data.dataset import ReconstructionDataset
from models.data.prepare import __main__ as prepare
from models.data.prepare.render import Renderer
from models.data.prepare.rig import Rig, fitting_distance, lamp, lights, on_background, orbit
from models.data.prepare.sample import sample_surface
from models.data.prepare.visible import directions, sample_seen, seen_from_outside

GREY = np.full((12, 3), 0.5)


def two_boxes():
    """A box in the middle of a closed one: the inner one has a ninth of the outer one's area."""
    vertices = np.concatenate([box(0.9, 0.9, 0.9), box(0.3, 0.3, 0.3)])
    return vertices, np.concatenate([BOX_FACES, BOX_FACES + 8])


def caster(vertices, faces):
    return Renderer(vertices, faces, np.full((len(faces), 3), 0.5)).caster


@needs_renderer
def test_points_are_where_an_outside_ray_arrives():
    vertices, faces = two_boxes()
    rng = np.random.default_rng(0)
    seen = seen_from_outside(caster(vertices, faces))
    points = sample_seen(vertices, faces, 2000, rng, seen)
    assert points.shape == (2000, 3)
    np.testing.assert_allclose(np.abs(points).max(axis=1), 0.45)
    assert (np.bincount(np.abs(points).argmax(axis=1), minlength=3) > 560).all()  # all sides alike
    everything = sample_surface(vertices, faces, 4000, rng)
    np.testing.assert_array_equal(seen(everything), np.abs(everything).max(axis=1) > 0.4)


@needs_renderer
def test_a_window_shows_what_lies_inside():
    vertices, faces = two_boxes()
    open_box = faces[2:]  # without one of six sides
    seen = seen_from_outside(caster(vertices, open_box))
    everything = sample_surface(vertices, open_box, 4000, np.random.default_rng(0))
    inner = np.abs(everything).max(axis=1) < 0.4
    assert 0.15 < seen(everything)[inner].mean() < 0.95
    assert seen(everything)[~inner].all()


@needs_renderer
def test_a_surface_that_nobody_sees_is_an_error():
    vertices, faces = two_boxes()
    with pytest.raises(ValueError, match="less than 1%"):
        sample_seen(vertices, faces, 9, np.random.default_rng(0), lambda p: np.zeros(len(p), bool))


def test_directions_are_spread_over_the_sphere():
    vectors = directions()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1)
    cosine = vectors @ vectors.T - 2 * np.eye(len(vectors))
    assert np.degrees(np.arccos(cosine.max(axis=1))).min() > 14  # 96 caps of 11.7 degrees fill it
    assert np.abs(vectors.mean(axis=0)).max() < 0.01


def test_cameras_stand_where_they_are_asked_to():
    rig, vertices = Rig(azimuth=(60, 120), elevation=(-5, 20), fov=15), box(1, 0.5, 0.7)
    cameras = orbit(vertices, 30, np.random.default_rng(0), rig)
    angles = np.array([camera[:2] for camera in cameras])
    assert (angles.min(axis=0) >= [60, -5]).all()
    assert (angles.max(axis=0) <= [120, 20]).all()
    assert np.ptp(angles, axis=0) == pytest.approx([60, 25], abs=3)
    assert all(1.05 <= c.distance / fitting_distance(vertices, c, 15) <= 1.2 for c in cameras)


def test_a_random_light_shines_on_the_side_that_is_seen():
    cameras = orbit(box(1, 1, 1), 200, np.random.default_rng(0))
    random = lights(cameras, np.random.default_rng(1), Rig(light="random"))
    cosine = [light @ camera.axes()[2] for light, camera in zip(random, cameras, strict=True)]
    assert 0.5 <= min(cosine) < 0.55 < 0.95 < max(cosine) <= 1
    assert lights(cameras[:1], np.random.default_rng(1)) == pytest.approx(lamp(cameras[0])[None])


@needs_renderer
def test_the_light_and_the_field_of_view_reach_the_picture():
    (camera,) = orbit(box(1, 1, 1), 1, np.random.default_rng(0), Rig(fov=20))
    renderer = Renderer(box(1, 1, 1), BOX_FACES, GREY, fov=20)
    front, side = (renderer.render(camera, 16, light).image for light in camera.axes()[[2, 0]])
    assert front[..., :3].max() > side[..., :3].min()
    assert (front[..., 3] == side[..., 3]).all()
    # The same share of the picture as through a wider lens from nearer by, not a dot.
    assert 0.3 < (front[..., 3] > 0).mean() < 0.9


def test_backgrounds_are_opaque():
    image = np.array([[[200, 100, 0, 255], [200, 100, 0, 51], [0, 0, 0, 0]]], dtype=np.uint8)
    rng = np.random.default_rng(0)
    assert on_background(image, rng, "none") is image
    white = [[[200, 100, 0], [244, 224, 204], [255, 255, 255]]]
    np.testing.assert_array_equal(on_background(image, rng, "white"), white)
    one, other = (on_background(image, rng, "random")[0, 2] for _ in range(2))
    assert (one != other).any()


@pytest.fixture
def folder(tmp_path):
    """Five tables of one family each."""
    for number in range(5):
        home = tmp_path / "in" / "table"
        home.mkdir(parents=True, exist_ok=True)
        sides = (1, 0.2 + 0.15 * number, 0.5)
        (home / f"t{number}.obj").write_text(obj(box(*sides)))
    return tmp_path


@needs_renderer
def test_stretched_copies_train_only(folder):
    out = folder / "out"
    words = ["--stretch", "3", "--views", "2", "--size", "16", "--points", "512", "--no-geometry"]
    more = ["--fov", "30", "--light", "random", "--background", "black", "--quiet", "--jobs", "1"]
    assert prepare.main(["meshes", str(folder / "in"), str(out), *words, *more]) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    objects = {r["model"]: r for r in manifest["objects"]}
    originals = {name for name in objects if "stretched" not in name}
    train = {name for name in originals if objects[name]["split"] == "train"}
    copies = set(objects) - originals
    assert {objects[name]["split"] for name in originals} == {"train", "val", "test"}
    # A copy that is a test table again is left out; most stay.
    assert len(train) * 3 - 2 <= len(copies) <= len(train) * 3
    for name in copies:
        original = objects[name.partition("-stretched")[0]]
        assert (objects[name]["split"], objects[name]["family"]) == ("train", original["family"])
        points = np.load(out / "ShapeNet_pointclouds" / "04379243" / name / "pointcloud_512.npy")
        sides = np.array([1, 0.2 + 0.15 * int(name[1]), 0.5]) * objects[name]["stretch"]
        np.testing.assert_allclose(np.ptp(points.astype(float), axis=0), sides / sides.max(),
                                   atol=0.05)  # fmt: skip
    assert (manifest["image"]["fov"], manifest["image"]["mode"]) == (30, "RGB on black")
    assert manifest["points"]["surface"] == "visible"
    views = out / "ShapeNetRendering" / "04379243" / min(copies) / "rendering"
    assert Image.open(views / "00.png").mode == "RGB"
    light = np.loadtxt(views / "lights.txt")
    (camera, _) = read_metadata((views / "rendering_metadata.txt").read_text())
    np.testing.assert_allclose(np.linalg.norm(light, axis=1), 1, atol=1e-5)
    assert light[0] @ camera.axes()[2] > 0.49
    data = ReconstructionDataset(out, "train", points=512)
    assert len(data.objects) == len(train) + len(copies)
    focal = data[0].camera.intrinsics[0, 0].item()
    assert focal == pytest.approx(8 / np.tan(np.deg2rad(15)), rel=1e-5)  # 16 pixels, 30 degrees


@needs_renderer
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--fov", "180"], "--fov 180.0: expected 5 <= LOW"),
        (["--elevation", "30", "20"], "--elevation [30.0, 20.0]: expected -89 <= LOW"),
        (["--azimuth", "0", "500"], "HIGH <= 360"),
        (["--stretch", "-1"], "--stretch -1"),
    ],
)
def test_angles_are_checked(folder, words, message, capsys):
    assert prepare.main(["meshes", str(folder / "in"), str(folder / "out"), *words]) == 1
    assert message in capsys.readouterr().err
