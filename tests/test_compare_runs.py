# SPDX-License-Identifier: MIT
"""Results beside one another: folds, seeds, and the errors of differences."""

import json

import pytest

from models import compare, report
from models import config as configs
from models.config import Config
from models.paired import bootstrap


def write(folder, cd, fold=-1, seed=0, objects=("1/a", "1/b", "2/c"), **network):
    """A results.json with CD by object under `plain`, and a retrieval that scores 9 everywhere."""
    values = {"data": {"root": "/x/set", "fold": fold}, "optim": {"seed": seed}, "network": network}
    config = configs.update(Config(), values)
    key = {"protocol": "plain", "column": "CD"}
    record = {
        "method": config.network.name,
        "objects": [{"object": o, "category": o[0], "images": 2} for o in objects],
        "scores": [
            {**key, "method": config.network.name, "values": cd},
            {**key, "method": "nearest image", "values": [9.0] * len(cd)},
        ],
        "config": configs.to_dict(config),
    }
    del record["config"]["log"]  # of an older version: the defaults stand in
    folder.mkdir()
    (folder / "results.json").write_text(report.as_json(record))
    return folder


def run(capsys, *words):
    assert compare.main([str(word) for word in words]) == 0
    return capsys.readouterr().out


def lines_of(text):
    rows = [
        [c.strip() for c in line.strip("|").split("|")] for line in text.split("\n") if "|" in line
    ]
    return {row[0]: row[1:] for row in rows}


def test_seeds_are_averaged_and_folds_are_joined(tmp_path, capsys):
    one = write(tmp_path / "a", [1.0, 2.0, 3.0], 0, seed=0)
    two = write(tmp_path / "b", [3.0, 2.0, 3.0], 0, seed=1)
    three = write(tmp_path / "c", [6.0, 7.0, 8.0], 1, objects=("1/d", "1/e", "2/f"))
    other = write(tmp_path / "d", [5.0, 5.0, 5.0], 0, preset="wide-128")
    out = tmp_path / "out"
    text = run(capsys, one, two, three, other, "--out", out)
    lines = lines_of(text)
    assert lines["CD ↓"][:4] == ["objects", "set 0", "set 1", "mean"]
    own = [2.0, 2.0, 3.0, 6.0, 7.0, 8.0]
    expected = bootstrap(own, list("112112"), [2] * 6)
    assert lines["efficient tiny-64"][:3] == ["6", "**2.50**", "**7.25**"]
    record = json.loads((out / "compare.json").read_text())
    assert (out / "compare.md").read_text().strip() in text
    rows = {row["system"]: row for row in record["rows"]}
    mean = rows["efficient tiny-64"]
    assert mean["mean"] == pytest.approx(expected.mean)
    assert mean["error"] == pytest.approx(expected.error)
    # Paired on the objects that both have: those of fold 0.
    wide = rows["efficient wide-128"]
    assert wide["common"] == 3
    paired = bootstrap([3.0, 3.0, 2.0], list("112"), [2] * 3)
    assert wide["difference"] == pytest.approx(paired._asdict())
    assert lines["efficient wide-128"][2] == "-"  # it has no fold 1


def test_runs_are_named_by_what_tells_them_apart(tmp_path):
    paths = [
        write(tmp_path / "a", [1.0] * 3),
        write(tmp_path / "b", [1.0] * 3, out_act="none"),
        write(tmp_path / "c", [1.0] * 3, seed=5),
        write(tmp_path / "d", [1.0] * 3, name="psgn", preset="r2n2", points=1024),
    ]
    assert [record.system for record in compare.read_all([str(path) for path in paths])] == [
        "efficient tiny-64, out_act=tanh",
        "efficient tiny-64, out_act=none",
        "efficient tiny-64, out_act=tanh",
        "psgn r2n2",
    ]
    names = [record.system for record in compare.read_all([f"x={paths[0]}", f"x={paths[1]}"])]
    assert names == ["x", "x"]


def test_retrieval_stands_in_the_table(tmp_path, capsys):
    text = run(capsys, write(tmp_path / "a", [1.0, 2.0, 3.0]), "--protocol", "plain")
    line = lines_of(text)["nearest image"]
    assert line[:2] == ["3", "9.00 ± 0.00"]
    difference = bootstrap([8.0, 7.0, 6.0], list("112"), [2] * 3)
    assert line[2] == f"+{difference.mean:.2f} ± {difference.error:.2f}"


def test_errors_are_one_line(tmp_path, capsys):
    (tmp_path / "old.json").write_text('{"rows": []}')
    path = write(tmp_path / "a", [1.0, 2.0, 3.0])
    for words, message in (
        ([tmp_path / "none"], "no such file; python -m models.evaluate RUN writes it"),
        ([tmp_path / "old.json"], "holds no scores by object; score it again"),
        ([path, "--against", "psgn"], "--against: expected one of efficient tiny-64, nearest"),
        ([path, "--protocol", "lmnet"], "--protocol: expected one of plain, got 'lmnet'"),
    ):
        assert compare.main([str(word) for word in words]) == 2
        assert message in capsys.readouterr().err
