# SPDX-License-Identifier: MIT
"""Tables and plots from the JSON that the benchmarks write.

    python -m benchmarks.report FILE [FILE ...] [--plots FOLDER] [--readme FILE] [--front]

The files of one op, machine and commit make one table; --front makes the one short table of the
front page instead. --readme replaces the text between `<!-- benchmarks -->` and
`<!-- /benchmarks -->` in FILE by the tables.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

Row = dict[str, Any]
OPEN, CLOSE = "<!-- benchmarks -->", "<!-- /benchmarks -->"
# Where an assignment's slowest solve took so many times the median, the table says so.
FAR_ABOVE = 3.0


def load(path: Path) -> tuple[str, list[Row]]:
    """A heading (GPU, driver, torch, commit) and one row a benchmark; times are medians."""
    data = json.loads(path.read_text())
    rows = [
        {
            **b["extra_info"],
            "seconds": b["stats"]["median"],
            "slowest": b["stats"]["max"],
            "rounds_timed": b["stats"]["rounds"],
            "spread": b["stats"]["iqr"] / b["stats"]["median"] if b["stats"]["median"] else 0.0,
        }
        for b in data["benchmarks"]
        if "op" in b["extra_info"]
    ]
    m = data.get("machine", {})
    where = m.get("gpu") or f"{m.get('cpu', 'CPU')}, {m.get('cores', '?')} threads"
    heading = (
        f"{where}, driver {m.get('driver') or '-'}, torch {m.get('torch', '?')}, "
        f"pointloss {m.get('pointloss', {}).get('version', '?')}, "
        f"commit {m.get('commit', '?')[:12]}"
    )
    return heading, rows


def duration(seconds: float) -> str:
    """Microseconds below a millisecond, else milliseconds or seconds."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.1f} us"
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def markdown(header: list[str], body: list[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in body])


def size_of(row: Row) -> str:
    return f"{row['batch']} x {row['points']}"


def against_ours(row: Row) -> str:
    """What pointloss took on the same CPU in the same run, and the ratio."""
    ours = row["pointloss_cpu_seconds"]
    return f"ours {duration(ours)}, {row['scipy_seconds'] / ours:.1f}x faster"


def distance_table(rows: list[Row]) -> str:
    """One line a method and kind of cloud, one column a size; peers with their ratio to ours."""
    sizes = list(dict.fromkeys(size_of(r) for r in rows))
    ours = {
        (r["method"].removeprefix("pointloss"), r["kind"], size_of(r)): r["seconds"]
        for r in rows
        if r["method"].startswith("pointloss")
    }
    lines: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for r in rows:
        if "scipy_seconds" in r:
            text = f"{duration(r['scipy_seconds'])} ({against_ours(r)})"
        else:
            text = duration(r["seconds"])
            # A peer stands beside ours of its own kind: "kaolin, eager" beside "pointloss, eager".
            mode = "".join(r["method"].partition(",")[1:])
            place = mode, r["kind"], size_of(r)
            if not r["method"].startswith("pointloss") and place in ours:
                text += f" ({r['seconds'] / ours[place]:.1f}x)"
        lines[r["method"], r["kind"]][size_of(r)] = text
    body = [[m, k, *(cells.get(s, "-") for s in sizes)] for (m, k), cells in lines.items()]
    return markdown(["method", "clouds", *sizes], body)


def scaling_table(rows: list[Row]) -> str:
    """One line a size, one column a method; the memory is what the call needs beyond its input."""
    methods = list(dict.fromkeys(r["method"] for r in rows))
    cells = {(r["points"], r["method"]): r for r in rows}
    body = []
    for points in sorted({r["points"] for r in rows}):
        found = [cells.get((points, m)) for m in methods]
        peak = cells.get((points, "auto"), {}).get("peak_bytes")
        body.append(
            [
                str(points),
                *(duration(r["seconds"]) if r else "-" for r in found),
                f"{peak / 2**20:.1f} MiB" if peak is not None else "-",
            ]
        )
    return markdown(["N = M", *methods, "memory (auto)"], body)


def assignment_table(rows: list[Row]) -> str:
    """One line a kind and size, one column a target; gap and rounds are the batch's largest."""
    targets = sorted({r["rtol"] for r in rows}, reverse=True)
    lines: dict[tuple[str, str, str], dict[float, str]] = defaultdict(dict)
    one_to_one: dict[tuple[str, str, str], bool] = defaultdict(lambda: True)
    for r in rows:
        line = r["method"], r["kind"], size_of(r)
        if "scipy_seconds" in r:
            text = f"{duration(r['scipy_seconds'])} ({against_ours(r)})"
        else:
            true = f", true {r['true_error']:.1e}" if "true_error" in r else ""
            judged = (
                f", by our bound {r['gap_to_our_bound']:.1e}" if "gap_to_our_bound" in r else ""
            )
            text = f"{duration(r['seconds'])} (no certificate{judged}{true})"
            if "certified_gap" in r:
                rounds = f"{r['rounds_max']} rounds"
                if r["rounds_max"] > 0:
                    rounds += f" of {duration(r['us_a_round'] * 1e-6)}"
                told = f"gap {r['certified_gap']:.1e}{true}"
                # An emd's time is not its matching's alone.
                told += f"; {rounds}" if r["op"] == "assign" else ""
                if r["slowest"] > FAR_ABOVE * r["seconds"]:
                    told += f"; slowest {duration(r['slowest'])}"
                text = f"{duration(r['seconds'])} ({told})"
            one_to_one[line] &= r["one_to_one"]
        lines[line][r["rtol"]] = text
    body = [
        [*line, *(cells.get(t, "-") for t in targets), "yes" if one_to_one[line] else "NO"]
        for line, cells in lines.items()
    ]
    header = ["method", "clouds", "B x N", *(f"rtol {t:g}" for t in targets), "one-to-one"]
    return markdown(header, body)


def plot(op: str, rows: list[Row], folder: Path) -> None:
    """Sizes against time, one line a method and kind; for assign gap against time, too."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    rows = [r for r in rows if "scipy_seconds" not in r]
    if op in ("assign", "emd"):  # other M than N is another problem, and so are costs
        rows = [r for r in rows if r.get("objects") == r["points"]]
    # By the points of a cloud, since clouds of a batch run at once.
    sized = sorted(rows, key=lambda r: (r["points"], r["batch"]))
    sizes = list(dict.fromkeys(size_of(r) for r in sized))
    pictures = [("points", "batch x points", lambda r: sizes.index(size_of(r)))]
    if op == "assign":
        pictures.append(("gap", "certified gap", lambda r: r.get("certified_gap")))
    for name, label, key in pictures:
        lines: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for r in rows:
            if (at := key(r)) is not None:
                rtol = f", rtol {r['rtol']:g}" if op == "assign" and name == "points" else ""
                size = f", {size_of(r)}" if name == "gap" else ""
                lines[f"{r['method']}, {r['kind']}{rtol}{size}"].append((at, r["seconds"]))
        drawn = {line: points for line, points in lines.items() if len(points) > 1}
        if not drawn:  # single points are in the table
            continue
        figure, axes = plt.subplots(figsize=(9, 5.5))
        axes.set_prop_cycle(color=plt.get_cmap("tab20").colors)
        for line, points in drawn.items():
            axes.plot(*zip(*sorted(points), strict=True), marker="o", label=line, markersize=3)
        axes.set(yscale="log", xlabel=label, ylabel="seconds (batch)", title=op)
        if name == "points":
            axes.set_xticks(range(len(sizes)), sizes, rotation=45, ha="right", fontsize=7)
        else:
            axes.set_xscale("log")
        axes.legend(fontsize=6, loc="upper left", bbox_to_anchor=(1, 1))
        axes.grid(True, which="both", linewidth=0.3)
        figure.tight_layout()
        figure.savefig(folder / f"{op}-{name}.png", dpi=130)
        plt.close(figure)


# The rows of the front page: what is measured, and which record tells it.
FRONT: tuple[tuple[str, Row], ...] = (
    (
        "`nearest`, both directions",
        {"op": "nearest", "method": "pointloss", "kind": "surface", "batch": 32, "points": 2048},
    ),
    (
        "`nearest`, both directions",
        {"op": "nearest", "method": "pointloss", "kind": "surface", "batch": 1, "points": 16384},
    ),
    (
        "`nearest`, both directions",
        {"op": "nearest", "method": "pointloss", "kind": "surface", "batch": 1, "points": 1048576},
    ),
    (
        "`chamfer`, forward and backward, eager",
        {"op": "chamfer", "method": "pointloss, eager", "kind": "surface", "batch": 32}
        | {"points": 2048},
    ),
    (
        "`assign`, certified at 1 %",
        {"op": "assign", "method": "pointloss", "kind": "surface", "batch": 32, "points": 2048}
        | {"rtol": 1e-2},
    ),
    (
        "`emd`, certified at 1 %, forward and backward",
        {"op": "emd", "method": "pointloss", "kind": "noisy", "batch": 32, "points": 2048}
        | {"rtol": 1e-2},
    ),
    (
        "`nearest`, both directions, on the CPU",
        {"op": "nearest", "method": "scipy", "kind": "surface", "batch": 32, "points": 2048},
    ),
    (
        "`assign`, certified at 0.1 %, on the CPU",
        {"op": "assign", "method": "scipy", "kind": "surface", "batch": 8, "points": 2048}
        | {"rtol": 1e-3},
    ),
)
# What the peers of an op are called in its records, and on the front page.
_NEAREST = {name: name for name in ("pytorch3d", "kaolin", "ChamferDistancePytorch")}
_NEAREST["torch"] = "torch.cdist"
PEERS = {
    "nearest": _NEAREST | {"scipy": "scipy cKDTree"},
    "chamfer": {f"{method}, eager": name for method, name in _NEAREST.items()},
    "assign": {"MSN emd": "MSN, not one-to-one", "scipy": "scipy linear_sum_assignment"}
    | {"lapx": "lapx", "POT": "POT"},
    "emd": {},
}


def fastest_peer(row: Row, record: list[Row]) -> tuple[float, str] | None:
    """Seconds and name of the fastest peer for a row, beside it or elsewhere in its record."""
    names = PEERS[row["op"]]
    same = {key: row[key] for key in ("op", "kind", "batch", "points")}
    rows = [each for each in record if each["method"] in names and same.items() <= each.items()]
    times = [(each["seconds"], names[each["method"]]) for each in rows if each["method"] != "scipy"]
    if "scipy_seconds" in row:
        times.append((row["scipy_seconds"], names["scipy"]))
    return min(times, default=None)


def front_table(found: list[tuple[str, Row]]) -> str:
    """The short table of FRONT, and below it the machines and commits of its rows."""
    body, where = [], []
    for title, wanted in FRONT:
        pair = next((pair for pair in found if wanted.items() <= pair[1].items()), None)
        if pair is None:
            raise SystemExit(f"report: no record of {wanted}")
        heading, row = pair
        if heading not in where:
            where.append(heading)
        ours = row.get("pointloss_cpu_seconds", row["seconds"])
        peer = fastest_peer(row, [each for place, each in found if place == heading])
        body.append(
            [
                title,
                size_of(row),
                duration(ours),
                f"{duration(peer[0])} ({peer[1]})" if peer else "-",
                f"{peer[0] / ours:,.{1 if peer[0] < 100 * ours else 0}f}x" if peer else "-",
                str(where.index(heading) + 1),
            ]
        )
    header = ["", "batch x points", "pointloss", "fastest peer in the same run", "ratio", "machine"]
    machines = "\n".join(f"{k}. {heading}" for k, heading in enumerate(where, 1))
    return f"{markdown(header, body)}\n\n{machines}"


TABLES = {"assign": assignment_table, "emd": assignment_table, "scaling": scaling_table}


def by_op(files: list[Path]) -> dict[tuple[str, str], list[Row]]:
    """The rows of all files by op and heading."""
    found: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for path in files:
        heading, rows = load(path)
        for row in rows:
            found[row["op"], heading].append(row)
    return found


def tables(found: dict[tuple[str, str], list[Row]]) -> str:
    """A table for each op, machine and commit."""
    return "\n\n".join(
        f"**{op}** ({heading})\n\n{TABLES.get(op, distance_table)(rows)}"
        for (op, heading), rows in found.items()
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--plots", type=Path, help="folder for PNG plots")
    parser.add_argument("--readme", type=Path, help="file whose tables are to be replaced")
    parser.add_argument("--front", action="store_true", help="the short table of the front page")
    args = parser.parse_args()
    found = by_op(args.files)
    if args.front:
        text = front_table([(key[1], row) for key, rows in found.items() for row in rows])
    else:
        text = tables(found)
        if args.plots:  # one of all the files in which an op was measured on its first machine
            args.plots.mkdir(parents=True, exist_ok=True)
            for op in dict.fromkeys(op for op, _ in found):
                records = {where: rows for (of, where), rows in found.items() if of == op}
                machine = next(iter(records)).partition(", driver")[0]
                rows = [row for where in records for row in records[where] if machine in where]
                plot(op, rows, args.plots)
    print(text)
    if args.readme:
        readme = args.readme.read_text()
        if OPEN not in readme or CLOSE not in readme:
            sys.exit(f"report: {args.readme} has no {OPEN} ... {CLOSE}")
        before, after = readme.split(OPEN)[0], readme.split(CLOSE)[1]
        args.readme.write_text(f"{before}{OPEN}\n{text}\n{CLOSE}{after}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
