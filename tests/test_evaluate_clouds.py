# SPDX-License-Identifier: MIT
"""Evaluation of clouds from files, which also shows what a score of known clouds is."""

import json
import re

import numpy as np
import pytest
from objects import make_set
from scores import BARE, rows_of, save_clouds, score_clouds

from models import evaluate
from models.data.dataset import FURNITURE

pytestmark = pytest.mark.usefixtures("one_cpu_thread", "no_pictures")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_set(tmp_path_factory.mktemp("set") / "set")


def test_a_cloud_against_itself_scores_zero(root, tmp_path):
    folder = score_clouds(root, save_clouds(root, tmp_path / "own", 1024), *BARE)
    (mean,) = rows_of(folder, method="own", category="mean")
    assert mean["CD"] == mean["CD to truth"] == mean["EMD"] == 0
    assert 0 < mean["F@1%"] < 1  # against the densest sampling: not the same points


def test_truth_against_another_sampling_is_the_floor(root, tmp_path):
    folder = score_clouds(root, save_clouds(root, tmp_path / "other", 256), *BARE)
    (own,) = rows_of(folder, method="other", category="mean")
    (floor,) = rows_of(folder, method="floor", category="mean")
    assert own["CD"] > 2
    assert floor["CD"] > 2
    assert 0 < floor["F@1%"] < 0.9  # not the very points it is compared with


def test_floor_of_real_furniture_is_that_of_the_survey(tmp_path):
    """Two samplings of 1024 points: CD 3.2 to 5.6, EMD 3.5 to 5.2 on furniture like this."""
    folder = save_clouds(FURNITURE, tmp_path / "truth", 2048)
    words = [*BARE, "--views", "1", "--set", "evaluate.batch_size=64"]
    score_clouds(FURNITURE, folder, *words)
    (mean,) = rows_of(folder, method="truth", category="mean")
    assert 3 < mean["CD"] < 6
    assert 3 < mean["EMD"] < 6


def test_both_clouds_are_scaled(root, tmp_path):
    """Not: the prediction in its own unit box and the truth as it is."""
    folder = save_clouds(root, tmp_path / "big", 1024, change=lambda c: 3 * c + 5)
    (mean,) = rows_of(score_clouds(root, folder, *BARE), method="big", category="mean")
    assert mean["CD"] < 1e-3


def test_clouds_may_differ_in_size(root, tmp_path):
    folder = save_clouds(root, tmp_path / "own", 1024)
    path = next(folder.rglob("*.npy"))
    np.save(path, np.concatenate([np.load(path)] * 2))  # every point twice
    score_clouds(root, folder, *BARE)
    for name in ("chair", "table"):
        (row,) = rows_of(folder, method="own", category=name)
        assert row["CD"] < 4


@pytest.mark.parametrize("name", ["oracle", "floor", "mean shape"])
def test_clouds_never_give_way_to_a_baseline_of_their_name(root, tmp_path, name):
    folder = save_clouds(root, tmp_path / name, 1024)
    score_clouds(root, folder)
    (own,) = rows_of(folder, method=f"{name} (--pred-dir)", category="mean")
    (beside,) = rows_of(folder, method=name, category="mean")
    assert own["CD"] == 0 < beside["CD"]


def test_clouds_of_the_folder_one_stands_in_have_its_name(root, tmp_path, monkeypatch):
    folder = save_clouds(root, tmp_path / "mine", 1024)
    monkeypatch.chdir(folder)
    score_clouds(root, ".", *BARE)
    assert rows_of(folder, method="mine")


def test_one_file_a_view_or_one_an_object(root, tmp_path):
    one = save_clouds(root, tmp_path / "x", 256)
    many = save_clouds(root, tmp_path / "y" / "x", 256, views=2)
    by_object, by_view = (score_clouds(root, folder, *BARE) for folder in (one, many))
    assert rows_of(by_object) == rows_of(by_view)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, r"2 of 4 clouds are missing, .*: \d+/m5 \(views 00, 01\)"),
        (lambda path: np.save(path, np.zeros((0, 3))), "N > 0"),
        (lambda path: np.save(path, np.zeros((5, 2))), "expected an array \\[N, 3\\]"),
        (lambda path: np.save(path, np.full((5, 3), np.nan)), "5 of 5 points are not finite"),
        (lambda path: np.save(path, np.array([{}])), "allow_pickle"),
        (lambda path: np.save(path, np.zeros((5, 3), complex)), "expected real numbers"),
    ],
)
def test_bad_clouds_are_named(root, tmp_path, make, message, capsys):
    folder = save_clouds(root, tmp_path / "p", 64)
    path = next(folder.rglob("*.npy"))
    path.unlink()
    make(path)
    words = ["--pred-dir", str(folder), "--set", f"data.root={json.dumps(str(root))}"]
    assert evaluate.main([*words, *BARE]) == 2
    assert re.search(message, capsys.readouterr().err)
