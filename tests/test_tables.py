# SPDX-License-Identifier: MIT
"""Scores as plain data, and the tables that people read."""

import json

import pytest
import torch

from models import report, tables
from models.report import Results

OBJECTS = [{"object": f"1/{i}", "category": "ab"[i // 2], "images": 2} for i in range(3)]


def test_the_mean_is_over_categories_and_images_are_beside_it():
    scores = torch.tensor([[1.0, 0.1], [3.0, 0.3], [8.0, 0.2]])
    rows = tables.by_category({"net": scores}, ["CD", "gap"], ["a", "a", "b"], [5, 5, 7])
    by_name = {row["category"]: row for row in rows}
    assert by_name["a"]["CD"] == 2
    assert by_name["mean"]["CD"] == 5
    assert by_name["all images"]["CD"] == 4
    assert by_name["mean"]["gap"] == pytest.approx(0.3)  # the largest
    counts = [(row["objects"], row["images"]) for row in rows]
    assert counts == [(1, 2), (1, 1), (2, 3), (2, 3)]
    with pytest.raises(ValueError, match="2 scores for 3 images"):
        tables.by_category({"net": scores[:2]}, ["CD", "gap"], ["a", "a", "b"], [5, 5, 7])


def test_means_by_object():
    scores = torch.tensor([[1.0], [8.0], [3.0]])
    assert tables.by_object(scores, torch.tensor([4, 9, 4])).tolist() == [[2], [8]]


def made_up(own, nearest, gap, error):
    """Results whose means are given; CD alone."""
    means = {"net": own, "nearest image": nearest, "oracle": 3.0, "floor": 1.0}
    rows = [
        {"protocol": "plain", "method": m, "category": c, "objects": 3, "images": 6, "CD": v}
        for m, v in means.items()
        for c in ("a", "mean", "all images")
    ]
    difference = {"mean": gap, "error": error, "images": gap, "images_error": error}
    key = {"protocol": "plain", "method": "nearest image", "column": "CD"}
    return Results(
        "net", ["A header."], {"plain": ["A convention."]}, rows, OBJECTS, [],
        [{**key, **difference}], [], {}, {},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("own", "gap", "error", "word"),
    [(8.5, -1.5, 0.7, "better than"), (8.5, -1.5, 0.8, "level with"), (12, 2, 0.9, "worse than")],
)
def test_the_verdict_comes_first(own, gap, error, word):
    results = made_up(own, 10.0, gap, error)
    text = report.as_markdown(results)
    shown = f"{gap:+.2f} ± {error:.2f}"
    assert text.split("\n")[2].rstrip() == (
        f"By `plain`: **CD {own:.2f}, {word} nearest image's 10.00 (difference {shown}, "
        f"oracle 3.00, floor 1.00).**"
    ).replace(f"{own:.2f}", report.number("CD", own))


def test_the_best_that_sees_no_truth_is_bold_and_arrows_point_to_it():
    text = report.as_markdown(made_up(8.5, 10.0, -1.5, 0.7))
    assert "CD ↓" in text
    assert "| net           | **8.50** |" in text
    assert "**10.00**" not in text
    assert "**3.00**" not in text
    assert report.embolden(["1", "2", "2"], [1.0, 2.0, 2.0], 1) == ["1", "**2**", "**2**"]
    assert report.embolden(["1", "2"], [None, 2.0], -1) == ["1", "2"]  # nothing to beat


def test_a_result_without_baselines_has_a_verdict():
    results = made_up(8.5, 10.0, -1.5, 0.7)
    own = [row for row in results.rows if row["method"] == "net"]
    results = report.replace(results, rows=own, differences=[])
    assert "By `plain`: **CD 8.50.**" in report.as_markdown(results)


def test_json_has_a_line_for_each_entry():
    record = {"a": "x", "b": [{"c": [1, 2]}, {"c": []}], "d": {"e": [3], "f": {}}, "g": [], "h": {}}
    text = report.as_json(record)
    assert json.loads(text) == record
    assert len(text.splitlines()) == 13
