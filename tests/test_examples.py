# SPDX-License-Identifier: MIT
"""The scripts in examples/, small."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parent.parent / "examples"
pytest.importorskip("matplotlib")


def run(name, out, *options):
    """What main returned, after its picture was written."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = module.main(["--out", str(out), *options])
    assert (out / f"{name}.png").stat().st_size > 10_000
    return found


def test_collapsed(tmp_path):
    reached = run("collapsed", tmp_path, "--points", "24", "--steps", "150")
    assert reached["EMD"] == 24
    assert reached["Chamfer"] < 20


def test_matching(tmp_path):
    match = run("matching", tmp_path, "--points", "50")
    assert match.idx.unique().numel() == 50
    assert match.gap <= 1e-3


@pytest.mark.parametrize("cache", [[], ["--no-cache"]], ids=["cache", "no-cache"])
def test_autoencoder(tmp_path, cache):
    small = ["--points", "24", "--objects", "48", "--epochs", "4"]
    assert 0 < run("autoencoder", tmp_path, *small, *cache).held_out < 0.3


def test_evaluate_folders(tmp_path):
    table = run("evaluate_folders", tmp_path, "--objects", "2")
    assert len(table) == 3
    values = [row["EMD"] for row in table.values()]
    assert values[0] < values[1]  # more noise
    assert values[2] == pytest.approx(np.mean(values[:2]))
    assert (tmp_path / "table.csv").read_text().startswith("file,A to B,B to A,CD,")
    again = run(
        "evaluate_folders", tmp_path, str(tmp_path / "predictions"), str(tmp_path / "truth")
    )
    assert again == table


def test_every_example_is_tested():
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    for script in FOLDER.glob("*.py"):
        assert f"def test_{script.stem}(" in tests or f'"{script.name}"' in tests
