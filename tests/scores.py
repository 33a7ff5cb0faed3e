# SPDX-License-Identifier: MIT
"""Clouds in a folder, scored by models.evaluate, and the rows that come of it."""

import json

import numpy as np

from models import config as configs
from models import evaluate
from models.build import open_split
from models.config import Config

BARE = ("--set", "evaluate.baselines=false")


def rows_of(folder, protocol="lmnet", **chosen):
    chosen = {"protocol": protocol, **chosen}
    rows = json.loads((folder / "results.json").read_text())["rows"]
    return [row for row in rows if all(row[key] == value for key, value in chosen.items())]


def save_clouds(root, folder, points, views=None, change=lambda cloud: cloud):
    """The true test clouds as predictions, one file for each object or for each view."""
    data = open_split(configs.update(Config(), {"data": {"root": str(root)}}), "test")
    for key, cloud in zip(data.objects, data.clouds(points), strict=True):
        names = [f"{key}.npy"] if views is None else [f"{key}/{v:02d}.npy" for v in range(views)]
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            np.save(folder / name, change(cloud).numpy())
    return folder


def score_clouds(root, folder, *words):
    base = ["--out", str(folder), "--set", f"data.root={json.dumps(str(root))}"]
    assert evaluate.main(["--pred-dir", str(folder), *base, *words]) == 0
    return folder
