# SPDX-License-Identifier: MIT
"""Tables of errors by item, of the kinds of problems that are not clouds."""

import json
from pathlib import Path

import pytest
import torch

from models import compare
from models import config as configs
from models.config import Config
from models.networks import NETWORKS
from models.tasks import results

COMMITTED = Path(results.__file__).parents[1] / "results"


def made(shift=0.0):
    """Two groups of items; the bound answers in the second alone."""
    items = [
        {"group": group, "category": category, "object": f"{group}{category}{number}"}
        for group, category, number in (
            *(("one", "a", 0), ("one", "a", 1), ("one", "b", 0)),
            *(("two", "a", 0), ("two", "c", 0)),
        )
    ]
    nan = float("nan")
    values = {
        "own": torch.tensor([[1.0, 0.5], [3.0, 0.5], [6.0, 0.8], [1.0, 0.1], [2.0, 0.3]]) + shift,
        "flat": torch.tensor([[2.0, 0.4], [4.0, 0.4], [5.0, 0.9], [3.0, 0.0], [4.0, 0.2]]),
        "PCA, rig known": torch.tensor([[nan, nan]] * 3 + [[0.0, 1.0]] * 2),
    }
    columns = ["error", "IoU"]
    config = configs.to_dict(Config())
    return results.Results(["A sentence."], columns, items, values, config)


def test_means_are_of_the_categories_and_of_those_who_answer():
    rows = {(r["group"], r["method"], r["category"]): r for r in results.rows(made())}
    assert rows["one", "own", "mean"]["error"] == pytest.approx((2 + 6) / 2)
    assert rows["one", "own", "all images"]["error"] == pytest.approx(10 / 3, rel=1e-4)
    assert rows["one", "own", "mean"]["IoU"] == pytest.approx(0.65)
    assert ("one", "PCA, rig known", "mean") not in rows
    assert rows["two", "PCA, rig known", "mean"]["IoU"] == 1


def test_differences_are_paired():
    rows = {(r["group"], r["method"], r["column"]): r for r in results.differences(made())}
    assert rows["two", "flat", "error"]["mean"] == -2
    assert rows["two", "flat", "error"]["error"] == 0  # the same for every item
    assert rows["one", "flat", "error"]["images"] == pytest.approx(-1 / 3, rel=1e-4)
    assert rows["one", "flat", "error"]["error"] > 0


def test_the_best_is_bold_where_less_or_more_is_better():
    text = results.as_markdown(made())
    two = text[text.index("## two: 2 items") :]
    assert "error ↓" in two
    assert "IoU ↑" in two
    assert "**1.50**" in two  # own error; the bound's 0 does not compete
    assert "own - flat" in two


def test_files_can_be_compared(tmp_path, capsys):
    for name, shift in (("x", 0.0), ("y", 0.5)):
        text = results.write(made(shift), tmp_path / name)
        assert (tmp_path / name / "results.md").read_text() == text
        assert (tmp_path / name / "results.csv").read_text().startswith("# A sentence.")
    record = json.loads((tmp_path / "x" / "results.json").read_text())
    first = record["scores"][0]
    assert first["protocol"] == "one"
    assert first["values"] == [1, 3, 6, None, None]
    assert compare.main([f"x={tmp_path / 'x'}", f"y={tmp_path / 'y'}", "--protocol", "two"]) == 0
    shown = capsys.readouterr().out
    assert "+0.50 ± 0.00" in shown
    best_first = shown[shown.index("IoU ↑") :]
    assert best_first.index("| y") < best_first.index("| x")


def test_the_committed_results_have_todays_settings_and_columns():
    for path in COMMITTED.rglob("results.json"):
        config = configs.load(path.with_name("config.toml"))
        if config.network.name in NETWORKS:
            continue
        record = json.loads(path.read_text(encoding="utf-8"))
        assert configs.update(Config(), record["config"]) == config
        if "columns" not in record:
            continue  # voxels, whose tables have the form of the point networks'
        keys = ["group", "method", "category", "objects", "images", *record["columns"]]
        assert all(list(row) == keys for row in record["rows"])
        assert (path.parent / "results.md").read_text(encoding="utf-8").startswith("# ")
