# SPDX-License-Identifier: MIT
import json
import sys

import pytest

from benchmarks import __main__ as everything
from benchmarks import against, report


def test_one_plot_of_all_files_of_an_op(tmp_path, monkeypatch, capsys):
    """The plot of the file that came last replaced those before."""
    files = []
    for commit, points in (("1111111", 1024), ("2222222", 8192)):
        facts = {"op": "assign", "method": "pointloss", "kind": "surface", "batch": 8}
        facts |= {"points": points, "rtol": 0.01, "certified_gap": 0.009, "one_to_one": True}
        facts |= {"rounds_max": 9, "us_a_round": 2.5}
        row = {
            "extra_info": facts,
            "stats": {"median": 0.001, "max": 0.0011, "rounds": 3, "iqr": 0.0},
        }
        files.append(tmp_path / f"{commit}.json")
        told = {"machine": {"gpu": "a GPU", "commit": commit}, "benchmarks": [row]}
        files[-1].write_text(json.dumps(told))
    drawn = []
    monkeypatch.setattr(report, "plot", lambda op, rows, folder: drawn.append((op, rows)))
    command = ["report", *map(str, files), "--plots", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", command)
    assert report.main() == 0
    assert [(op, [row["points"] for row in rows]) for op, rows in drawn] == [
        ("assign", [1024, 8192])
    ]
    assert capsys.readouterr().out.count("**assign**") == 2  # a table for each commit


def test_a_median_does_not_hide_a_slow_solve():
    facts = {"op": "assign", "method": "pointloss", "kind": "surface", "batch": 8, "points": 9}
    facts |= {"rtol": 0.01, "certified_gap": 0.009, "one_to_one": True}
    facts |= {"rounds_max": 9, "us_a_round": 2.5, "seconds": 0.001}
    assert "slowest" not in report.assignment_table([{**facts, "slowest": 0.002}])
    assert "slowest 25 s" in report.assignment_table([{**facts, "slowest": 25.0}])


def measured(seconds, spread=0.0, rounds=30, **more):
    facts = {"op": "nearest", "method": "pointloss", "kind": "surface", "batch": 8, "points": 9}
    return {**facts, "seconds": seconds, "spread": spread, "rounds_timed": rounds, **more}


@pytest.mark.parametrize(
    ("old", "new", "slower"),
    [
        (measured(1.0), measured(1.09), 0),  # 5 % of noise in each
        (measured(1.0), measured(1.2), 1),
        (measured(1.0, spread=0.2), measured(1.2), 0),
        (measured(1.0, rounds=3), measured(1.2), 0),
        (measured(1.0), measured(0.5), 0),
        (measured(1.0), measured(9.0, kind="blob"), 0),  # another measurement
        (measured(1.0, method="kaolin"), measured(9.0, method="kaolin"), 0),  # not ours
        (measured(1.0, pointloss_cpu_seconds=1.0), measured(1.0, pointloss_cpu_seconds=2.0), 1),
    ],
)
def test_what_became_slower_beyond_noise(old, new, slower):
    text, found = against.compare([old], [new])
    assert found == slower
    assert ("SLOWER" in text) == bool(slower)


def test_all_benchmarks_run_tables_and_comparison(tmp_path, monkeypatch, capsys):
    """What `python -m benchmarks nearest --against OLD` does beside measuring."""
    facts = {"op": "nearest", "method": "pointloss", "kind": "surface", "batch": 8, "points": 9}
    stats = {"median": 0.002, "max": 0.002, "rounds": 30, "iqr": 0.0}
    new = {"benchmarks": [{"extra_info": facts, "stats": stats}]}
    old = {"benchmarks": [{"extra_info": facts, "stats": {**stats, "median": 0.001}}]}
    (tmp_path / "old.json").write_text(json.dumps(old))
    monkeypatch.setattr(everything, "run", lambda op, file, _: file.write_text(json.dumps(new)))
    command = ["nearest", "--out", str(tmp_path)]
    assert everything.main(command) == 0
    assert everything.main([*command, "--against", str(tmp_path / "old.json")]) == 1
    printed = capsys.readouterr().out
    assert "| pointloss | surface | 2 ms |" in printed
    assert "| 1 ms | 2 ms | 2.00 | 10 % | SLOWER |" in printed
