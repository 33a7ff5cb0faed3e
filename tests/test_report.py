# SPDX-License-Identifier: MIT
import json
import sys

from benchmarks import report


def test_one_plot_of_all_files_of_an_op(tmp_path, monkeypatch, capsys):
    """The plot of the file that came last replaced those before."""
    files = []
    for commit, points in (("1111111", 1024), ("2222222", 8192)):
        facts = {"op": "assign", "method": "pointloss", "kind": "surface", "batch": 8}
        facts |= {"points": points, "rtol": 0.01, "certified_gap": 0.009, "one_to_one": True}
        facts |= {"rounds_max": 9, "us_a_round": 2.5}
        row = {"extra_info": facts, "stats": {"median": 0.001, "max": 0.0011, "rounds": 3}}
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
