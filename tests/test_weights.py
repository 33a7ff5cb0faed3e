# SPDX-License-Identifier: MIT
"""Weights that are shared: what is written is what is read, and a damaged file is refused."""

import hashlib
import json
import shutil

import pytest
import torch
from objects import make_set
from runs import make_manifest, make_run

from models import checkpoint, weights
from models import config as configs
from models.config import Config

pytestmark = pytest.mark.usefixtures("one_cpu_thread")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    root = make_set(folder / "set")
    make_manifest(root)
    return make_run(root, folder / "run")


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "FOLDER", tmp_path / "weights")
    return tmp_path / "weights"


def test_written_weights_predict_as_the_run_does(run, shelf):
    out = weights.write(run, "small", shelf)
    exact, rounded = weights.open_weights(str(run)), weights.open_weights("small")
    image = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        first, second = (w.network(image).points for w in (exact, rounded))
    assert (first - second).norm(dim=-1).max() < 1e-3
    assert torch.allclose(exact.mean, rounded.mean, atol=3e-4)
    assert not rounded.network.training
    half = sum(p.numel() for p in exact.network.parameters()) * 2
    assert (out / weights.FILE).stat().st_size < 1.1 * half


def test_the_file_is_the_same_every_time_and_tells_no_path(run, shelf):
    state = checkpoint.load(run / checkpoint.BEST)
    config = configs.update(Config(), state["config"])
    content = weights.encode(config, state)
    assert content == weights.encode(config, state)
    assert str(run.parent).encode() not in content
    card = (weights.write(run, "small", shelf) / weights.CARD).read_text()
    assert str(run.parent) not in card


def test_the_card_tells_data_licence_and_scores(run, shelf):
    out = weights.write(run, "small", shelf)
    card, credits = ((out / name).read_text() for name in (weights.CARD, weights.CREDITS))
    scores = json.loads((run / "results.json").read_text())
    means = [
        row
        for row in scores["rows"]
        if row["category"] == "mean" and row["method"] == scores["method"]
    ]
    for words in ("8 objects", "8 CC0-1.0", "MIT"):
        assert words in card
    assert len(means) == 2  # by the convention that was asked for, and by plain
    for mean in means:
        assert f"{mean['CD']:.2f} | {mean['EMD']:.2f}" in card
        assert scores["conventions"][mean["protocol"]][0] in card
    assert scores["header"][0] in card
    assert "03001627/m0" in credits
    assert "03001627/m5" not in credits  # of the test split
    told = (out / weights.SUMS).read_text().split()
    assert told == [hashlib.sha256((out / weights.FILE).read_bytes()).hexdigest(), weights.FILE]


@pytest.mark.parametrize("at", [0, 40, -1])
def test_a_flipped_bit_is_refused(run, shelf, at):
    path = weights.write(run, "small", shelf) / weights.FILE
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged: another sha256"):
        weights.open_weights("small")


def test_a_file_without_its_sum_or_from_elsewhere_is_refused(run, shelf):
    out = weights.write(run, "small", shelf)
    (out / weights.FILE).write_bytes(b"no safetensors")
    sums = hashlib.sha256(b"no safetensors").hexdigest()
    (out / weights.SUMS).write_text(f"{sums}  {weights.FILE}\n")
    with pytest.raises(ValueError, match="not readable"):
        weights.open_weights("small")
    (out / weights.SUMS).unlink()
    with pytest.raises(ValueError, match="cannot be checked"):
        weights.open_weights("small")


def test_an_unknown_name_lists_those_that_exist(run, shelf):
    with pytest.raises(ValueError, match=r"one of models/weights \(none\)"):
        weights.open_weights("smal")
    weights.write(run, "small", shelf)
    with pytest.raises(ValueError, match=r"'smal' is neither a run nor .*\(small\)"):
        weights.open_weights("smal")


def test_what_is_not_written(run, shelf, tmp_path):
    with pytest.raises(ValueError, match="expected letters"):
        weights.write(run, "../small", shelf)
    (shelf / "small").mkdir(parents=True)
    with pytest.raises(ValueError, match="is there already"):
        weights.write(run, "small", shelf)
    unscored = shutil.copytree(run, tmp_path / "unscored")
    (unscored / "results.json").unlink()
    with pytest.raises(ValueError, match=r"python -m models\.evaluate"):
        weights.write(unscored, "other", shelf)
    assert not (shelf / "other").exists()


def test_objects_without_a_licence_are_not_shared(tmp_path, shelf):
    run = make_run(make_set(tmp_path / "set"), tmp_path / "run")
    with pytest.raises(ValueError, match="no licence of 03001627/m0 and 7 more"):
        weights.write(run, "small", shelf)


def test_a_weight_beyond_16_bits_is_an_error(run):
    state = checkpoint.load(run / checkpoint.BEST)
    key = next(k for k, v in state["network"].items() if v.ndim > 1)
    state["network"][key] = torch.full_like(state["network"][key], 1e5)
    with pytest.raises(ValueError, match=f"{key}: not finite in 16 bits"):
        weights.encode(configs.update(Config(), state["config"]), state)


def test_a_run_of_another_kind_is_named(tmp_path):
    config = configs.to_dict(configs.update(Config(), {"network": {"name": "lifter"}}))
    checkpoint.save(tmp_path / checkpoint.BEST, {"config": config})
    with pytest.raises(ValueError, match="holds a lifter, which gives no cloud for an image"):
        weights.open_run(tmp_path)
