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


def write_methods(folder, network, scores, **sections):
    """A results.json of one object under `plain`, with a CD of each method."""
    config = configs.update(Config(), {"network": {"name": network}, **sections})
    record = {
        "method": network,
        "objects": [{"object": o, "category": "1", "images": 1} for o in "ab"],
        "scores": [
            {"protocol": "plain", "column": "CD", "method": name, "values": [value, value]}
            for name, value in scores.items()
        ],
        "config": configs.to_dict(config),
    }
    folder.mkdir()
    (folder / "results.json").write_text(report.as_json(record))
    return folder


def test_what_knows_more_stands_apart_and_is_not_the_best(tmp_path, capsys):
    scores = {
        "pointmap": 5.0,
        "nearest pair": 6.0,
        "category's mean depth, true pose": 2.0,
        "PCA, rig known": 1.5,
        "supervised, true depth": 1.7,
        "floor": 1.0,
        "oracle": 3.0,
        "pointmap, best of 4": 4.0,
    }
    run_ = write_methods(tmp_path / "a", "pointmap", scores)
    out = tmp_path / "out"
    text = run(capsys, f"own={run_}", "--out", out)
    names = list(lines_of(text))[2:]
    bounds = [
        "floor",
        "PCA, rig known",
        "supervised, true depth",
        "category's mean depth, true pose",
        "oracle",
    ]
    assert names == ["own", "nearest pair", *(f"*{n}*" for n in [*bounds, "own, best of 4"])]
    assert lines_of(text)["own"][1] == "**5.00** ± 0.00"
    assert "The best baseline: nearest pair." in text
    rows = json.loads((out / "compare.json").read_text())["rows"]
    assert [row["kind"] for row in rows] == ["system", "baseline", *6 * ["bound"]]


def test_baselines_of_one_name_and_two_meanings_are_not_joined(tmp_path, capsys):
    beside = {"mean shape": 7.0, "floor": 1.0}
    clouds = write_methods(tmp_path / "a", "psgn", {"psgn": 3.0, **beside})
    grids = write_methods(tmp_path / "b", "voxel", {"voxel": 4.0, "mean shape": 9.0, "floor": 2.0})
    lines = lines_of(run(capsys, f"points={clouds}", f"grids={grids}"))
    found = {name: line[1].strip("*")[:4] for name, line in lines.items()}
    assert found["mean shape (clouds)"] == "7.00"
    assert found["mean shape (voxel)"] == "9.00"
    assert found["*floor (clouds)*"] == "1.00"
    assert found["*floor (voxel)*"] == "2.00"
    # Of one kind and with equal settings they are one baseline, that of the first run.
    again = write_methods(tmp_path / "c", "psgn", {"psgn": 5.0, "mean shape": 8.0})
    lines = lines_of(run(capsys, f"one={clouds}", f"two={again}"))
    assert lines["mean shape"][1].startswith("7.00")
    # Retrieval may use mirrored images if training does.
    other = write_methods(
        tmp_path / "d", "psgn", {"psgn": 5.0, "mean shape": 8.0}, augment={"mirror": "none"}
    )
    lines = lines_of(run(capsys, f"one={clouds}", f"two={other}"))
    assert lines["mean shape (mirror=x)"][1].startswith("7.00")
    assert lines["mean shape (mirror=none)"][1].startswith("8.00")


def test_a_baseline_that_asks_the_network_is_its_systems_own(tmp_path, capsys):
    runs = [
        write_methods(tmp_path / name, "pointmap", {"pointmap": 1.0, "second view blanked": value})
        for name, value in (("a", 2.0), ("b", 4.0))
    ]
    text = run(capsys, *(f"{path.name}={path}" for path in runs))
    lines = lines_of(text)
    assert lines["a: second view blanked"][1].startswith("2.00")
    assert lines["b: second view blanked"][1].startswith("4.00")
    assert "The best baseline" not in text  # it is no baseline


def test_settings_of_other_kinds_make_no_system(tmp_path):
    one = write_methods(tmp_path / "a", "pointmap", {"pointmap": 1.0}, lifting={"mlp_steps": 7})
    two = write_methods(tmp_path / "b", "pointmap", {"pointmap": 1.0}, loss={"w_kl": 1.0})
    names = [record.system for record in compare.read_all([str(one), str(two)])]
    assert len(set(names)) == 1


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
