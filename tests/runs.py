# SPDX-License-Identifier: MIT
"""Runs of seconds: without pictures, or of an untrained network; licences for their objects."""

import json
import shutil

import pytest
import torch

from models import checkpoint, evaluate
from models import config as configs
from models.build import build_network
from models.config import Config


def without_pictures(monkeypatch):
    """Let the pictures of training and evaluation be empty files."""
    from models import plots

    monkeypatch.setattr(plots, "reconstructions", lambda path, pictures: path.touch())
    monkeypatch.setattr(plots, "loss_curves", lambda metrics, path: path.touch())


def make_run(root, folder, points=64):
    """A run folder with an untrained network on the set at `root`, scored."""
    values = {
        "data": {"root": str(root), "image_size": 32},
        "network": {"points": points},
        "evaluate": {"baselines": False, "protocol": "pix3d"},
    }
    config = configs.update(Config(), values)
    torch.manual_seed(0)
    network = build_network(config)
    mean = torch.rand(points, 3) - 0.5
    network.start_from(mean)
    state = {"network": network.state_dict(), "mean_shape": mean, "history": []}
    folder.mkdir()
    checkpoint.save(folder / checkpoint.BEST, {"config": configs.to_dict(config), **state})
    shutil.copy(folder / checkpoint.BEST, folder / checkpoint.NAME)
    with pytest.MonkeyPatch.context() as patch:
        without_pictures(patch)
        assert evaluate.main([str(folder), "--device", "cpu"]) == 0
    return folder


def make_manifest(root):
    """A licence for each object of objects.make_set."""
    records = [
        {
            "synset": key.parent.name, "model": key.name, "category": "chair", "name": key.name,
            "title": "", "author": "nobody", "url": "", "licence": "CC0-1.0", "licence_url": "",
            "source": {"file": "made.obj"},
        }
        for key in sorted((root / "ShapeNetRendering").glob("*/*"))
    ]  # fmt: skip
    (root / "manifest.json").write_text(json.dumps({"objects": records}))
