# SPDX-License-Identifier: MIT
"""Prediction from somebody's picture: what it writes, and that it is what evaluation sees."""

import re
import shutil

import numpy as np
import pytest
import torch
from objects import make_set
from pages import check_alone, data_of
from PIL import Image
from runs import make_manifest, make_run

from models import checkpoint, predict, score, weights
from models import config as configs
from models.build import build_network, open_split
from models.config import Config
from models.data.dataset import FURNITURE
from models.turntable import FRAMES

pytestmark = pytest.mark.usefixtures("one_cpu_thread")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predict")
    root = make_set(folder / "set")
    make_manifest(root)
    return make_run(root, folder / "run")


@pytest.fixture(scope="module")
def picture(run):
    return run.parent / "set" / "ShapeNetRendering" / "03001627" / "m5" / "rendering" / "00.png"


@pytest.fixture
def ask(monkeypatch, capsys):
    """Run the command; its exit code, what it printed, and what it complained about."""
    monkeypatch.setattr(predict, "pick_device", lambda name: "cpu")

    def command(*words):
        code = predict.main([str(word) for word in words])
        return code, *capsys.readouterr()

    return command


@pytest.fixture(scope="module")
def written(run, picture, tmp_path_factory):
    out = tmp_path_factory.mktemp("written")
    words = [picture, "--weights", run, "--out", out, "--samples", 3, "--device", "cpu"]
    assert predict.main([str(word) for word in words]) == 0
    return out


def test_a_rendering_is_predicted_as_evaluation_does(tmp_path, ask):
    """A test image of the committed set, as it is, and as a picture somebody else has framed."""
    config = configs.update(Config(), {"network": {"points": 256}})
    torch.manual_seed(0)
    network = build_network(config)
    network.start_from(torch.rand(256, 3) - 0.5)
    state = {"network": network.state_dict(), "mean_shape": torch.zeros(256, 3), "history": []}
    checkpoint.save(tmp_path / "run.pt", {"config": configs.to_dict(config), **state})
    options = configs.update(Config(), {"network": {"points": 2048}})
    data = open_split(options, "test", images=False)
    index = data.samples.index((4, 3))
    batch = data[index]._replace(image=data[index].image[None])
    expected = score.network_predictor(network, config, "cpu")(batch)[0]

    path = FURNITURE / "ShapeNetRendering" / data.objects[4] / "rendering" / "03.png"
    with Image.open(path) as image:
        large = image.resize((256, 256), Image.Resampling.NEAREST)
        canvas = Image.new("RGB", (700, 500), (250, 250, 252))
        canvas.paste(large, (300, 120), large)
    large.save(tmp_path / "large.png")
    canvas.save(tmp_path / "canvas.png")
    shutil.copy(path, tmp_path / "own.png")
    names = ("own", "large", "canvas")
    images = [tmp_path / f"{name}.png" for name in names]
    code, told, _ = ask(*images, "--weights", tmp_path / "run.pt", "--out", tmp_path)
    assert code == 0
    assert told.count("framed as in training") == 2
    assert told.count("cropped around it") == 1
    assert len(re.findall(r"; spread 0\.\d+ of the longest side$", told, re.MULTILINE)) == 3
    own, large, canvas = (np.load(tmp_path / f"{name}.npz") for name in names)
    assert np.array_equal(own["points"], expected)
    assert np.array_equal(own["image"], (batch.image[0] * 255).round().byte())

    def move(points):
        return np.linalg.norm(points - own["points"], axis=1).mean()

    other = predict.predict(weights.open_weights(str(tmp_path / "run.pt")), data[0].image, 0)
    assert move(large["points"]) < 0.2 * move(other.points.numpy())
    # Cropped with the mean margin in place of its own: another image, but of the same object.
    assert move(canvas["points"]) < 0.5 * move(other.points.numpy())


def test_the_ply_is_read_back(written):
    trimesh = pytest.importorskip("trimesh")
    cloud = trimesh.load(written / "00.ply")
    found = np.load(written / "00.npz")
    assert np.array_equal(cloud.vertices.astype(np.float32), found["points"])
    spread = cloud.metadata["_ply_raw"]["vertex"]["data"]["spread"]
    assert np.array_equal(np.ravel(spread).astype(np.float32), found["spread"])


def test_spread_is_over_the_draws(written, run):
    found = np.load(written / "00.npz")
    assert found["samples"].shape == (3, 64, 3)
    expected = np.sqrt(found["samples"].astype(np.float64).var(axis=0).sum(axis=-1))
    np.testing.assert_allclose(found["spread"], expected, rtol=1e-4)
    assert (found["spread"] > 0).all()
    loaded = weights.open_weights(str(run))
    image = torch.from_numpy(found["image"]).float() / 255
    none = predict.predict(loaded, image, 0)
    assert none.spread is None
    assert none.samples is None
    assert np.array_equal(none.points, found["points"])


def test_the_gif_turns_once(written):
    with Image.open(written / "00.gif") as gif:
        assert gif.n_frames == FRAMES
        assert gif.info["loop"] == 0
        first = np.asarray(gif.convert("RGB")).astype(int)
        gif.seek(FRAMES // 2)
        half = np.asarray(gif.convert("RGB")).astype(int)
    left = first.shape[1] // 2
    assert np.array_equal(first[:, :left], half[:, :left])  # the input stands still
    assert np.abs(first - half).max() > 100
    assert (written / "00.gif").stat().st_size < 1e6


def test_the_page_shows_the_image_and_its_cloud(written):
    html = (written / predict.PAGE).read_text()
    check_alone(html)
    data = data_of(html)
    (shown,) = data["objects"]
    assert shown["name"] == "00.png"
    assert shown["truth"] is None
    assert list(data["limits"]) == ["spread"]


def test_the_same_image_gives_the_same_files(written, run, picture, tmp_path, ask):
    assert ask(picture, "--weights", run, "--out", tmp_path, "--samples", 3)[0] == 0
    for path in written.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name


def test_the_default_is_the_weights_that_ship(run, picture, tmp_path, ask, monkeypatch):
    monkeypatch.setattr(weights, "FOLDER", tmp_path / "weights")
    code, _, told = ask(picture, "--out", tmp_path / "out")
    assert code == 2
    assert re.search(r"'furniture' is neither a run nor one of models/weights \(none\)", told)
    weights.write(run, weights.DEFAULT, tmp_path / "weights")
    code, told, _ = ask(picture, "--out", tmp_path / "out", "--samples", 0)
    assert code == 0
    assert (tmp_path / "out" / predict.PAGE).is_file()
    assert b"spread" not in (tmp_path / "out" / "00.ply").read_bytes()


def test_masks_go_with_images(run, picture, tmp_path, ask):
    rng = np.random.default_rng(0)
    photo, mask = tmp_path / "photo.png", tmp_path / "mask.png"
    Image.fromarray(rng.integers(0, 256, (80, 60, 3), dtype=np.uint8)).save(photo)
    Image.new("L", (60, 80), 255).save(mask)
    words = ("--weights", run, "--out", tmp_path / "out", "--samples", 0)
    code, _, told = ask(photo, *words)
    assert code == 2
    assert "--mask FILE" in told
    assert not (tmp_path / "out").exists()  # nothing is written if one image is refused
    assert ask(photo, "--mask", mask, *words)[0] == 0
    code, _, told = ask(photo, picture, "--mask", mask, *words)
    assert code == 2
    assert "--mask: expected one for each of 2 images" in told
    code, _, told = ask(photo, tmp_path / "more" / "photo.jpg", *words)
    assert code == 2
    assert "two images are called photo" in told


def test_a_network_without_a_latent_or_that_reads_the_cloud(run, picture, tmp_path, ask):
    for name, preset, words, message in (
        ("psgn", "tiny-64", ("--samples", 2), "no latent to draw"),
        ("lmnet-autoencoder", "tiny-64", (), "reads the true cloud"),
    ):
        values = {"network": {"name": name, "preset": preset}}
        config = configs.update(Config(), values)
        network = build_network(config)
        state = {"network": network.state_dict(), "mean_shape": torch.zeros(2048, 3), "history": []}
        path = tmp_path / f"{name}.pt"
        checkpoint.save(path, {"config": configs.to_dict(config), **state})
        code, _, told = ask(picture, "--weights", path, "--out", tmp_path / "out", *words)
        assert code == 2
        assert message in told
