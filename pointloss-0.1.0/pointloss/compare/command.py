# SPDX-License-Identifier: MIT
"""`pointloss compare A B`: two files, or two folders matched by name."""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pointloss import _extension
from pointloss.compare import heatmap
from pointloss.compare.measure import Options, Pair, Radius, measure
from pointloss.compare.sample import MESH_POINTS, read
from pointloss.io import SUFFIXES
from pointloss.protocols import PROTOCOLS

Row = dict[str, float]
PRINTED = Path("-")  # what --json is without a file


class Table(NamedTuple):
    """What is printed and written."""

    options: Options
    rows: dict[str, Row]  # by the pair's name
    points: dict[str, dict[str, int]]  # by the pair's name: how many of A and of B were compared
    notes: list[str]
    unmatched: list[str]  # files without a partner
    failed: int  # pairs that are not in the table

    def columns(self) -> list[str]:
        """Those of all rows, in the order of the first that has them."""
        return list(dict.fromkeys(name for row in self.rows.values() for name in row))

    def mean(self) -> Row:
        """Of the columns that every pair has: a mean of fewer pairs would not fit beside them."""
        rows = list(self.rows.values())
        return {
            name: math.fsum(row[name] for row in rows) / len(rows)
            for name in self.columns()
            if all(name in row for row in rows)
        }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `pointloss compare`."""
    kinds = " ".join(SUFFIXES)
    add = parser.add_argument
    add("a", type=Path, metavar="A", help=f"a file ({kinds}) or a folder of such: what is judged")
    add("b", type=Path, metavar="B", help="the same, what it is compared with")
    add(
        "--protocol",
        choices=sorted(PROTOCOLS),
        metavar="NAME",
        help=f"a paper's convention: {', '.join(PROTOCOLS)}",
    )
    add("--align", choices=("none", "icp"), help="move A onto B by ICP first (default: none)")
    add(
        "--scale",
        choices=("none", "box", "own-box"),
        help="the longest side of B's box, or of each one's own, as the unit (default: none)",
    )
    add(
        "--radius",
        type=_radius,
        action="append",
        metavar="R",
        help="of the F-score, may be repeated: 0.01 in the data's unit, 1%% of the longest side of "
        "B's box (default: 1%%, 2%% and 5%%)",
    )
    add(
        "--points",
        type=_count,
        metavar="N",
        help=f"points sampled of a mesh (default: {MESH_POINTS}), and at most taken of a cloud "
        "(default: all)",
    )
    add("--seed", type=int, default=0, help="of all sampling (default: 0)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add(
        "--json",
        type=Path,
        nargs="?",
        const=PRINTED,
        metavar="FILE",
        help="write one JSON document; without FILE print it in place of the table (A and B come "
        "before the option)",
    )
    add("--csv", type=Path, metavar="FILE", help="write a row per pair and the mean")
    add(
        "--heatmap",
        type=Path,
        metavar="FILE",
        help="of one pair: a picture of both clouds as they were compared (.png), or A with its "
        "distances to B (.ply); its points lie where they lie in A's file, also with --align and "
        "--scale, its distances are in the unit of the table",
    )


def run(args: argparse.Namespace) -> int:
    """Compare and report; 0, or 2 if anything could not be compared (a line on stderr each)."""
    try:
        return _run(args)
    except (ValueError, OSError, ImportError) as error:
        return _complain(error)


def _run(args: argparse.Namespace) -> int:
    options = _options(args)
    pairs, alone = _pairs(args.a, args.b)
    _check_outputs(args)
    table = Table(options, {}, {}, [], [str(path) for path in alone], 0)
    failed = 0
    for name, a, b in _with_bar(pairs):
        try:
            pair, origins = _compare(a, b, options)
        except (ValueError, OSError) as error:  # the other pairs are still worth something
            failed += 1
            _complain(error)
            continue
        table.rows[name] = pair.values
        table.points[name] = {"A": len(pair.x), "B": len(pair.y)}
        if len(pairs) == 1:
            table.notes.extend([*origins, *pair.notes])
        if args.heatmap:
            heatmap.write(args.heatmap, pair, (f"A, {a.name}", f"B, {b.name}"))
    table = table._replace(failed=failed)
    if table.rows:
        if args.csv:
            _write_csv(args.csv, table)
        if args.json not in (None, PRINTED):
            args.json.write_text(_as_json(table) + "\n", encoding="utf-8")
        print(_as_json(table) if args.json == PRINTED else _as_text(table))
    return 2 if failed else 0


def _check_outputs(args: argparse.Namespace) -> None:
    """Before the work, not after it."""
    if args.heatmap:
        if args.a.is_dir():
            raise ValueError("--heatmap is of two files, not of folders")
        if args.heatmap.suffix.lower() not in heatmap.SUFFIXES:
            raise ValueError(f"--heatmap: expected a .png or .ply file, got {args.heatmap}")
        heatmap.check_needs()
    for name in ("heatmap", "csv", "json"):
        path = getattr(args, name)
        if path and not path.parent.is_dir():
            raise ValueError(f"--{name}: folder {path.parent} does not exist")
        if path and path.is_dir():
            raise ValueError(f"--{name}: expected a file, got the folder {path}")
        if path in (args.a, args.b):
            raise ValueError(f"--{name}: {path} is one of the files to compare")


def _complain(error: Exception) -> int:
    print(f"pointloss compare: {error}", file=sys.stderr)
    return 2


def _options(args: argparse.Namespace) -> Options:
    if args.seed < 0:
        raise ValueError(f"--seed must be at least 0, got {args.seed}")
    given = {name: getattr(args, name) for name in ("align", "scale", "radius")}
    told = [f"--{name}" for name, value in given.items() if value is not None]
    if args.protocol and told:
        raise ValueError(f"--protocol says how to align, scale and count; leave out {told[0]}")
    options = Options(
        protocol=PROTOCOLS[args.protocol] if args.protocol else None,
        align=args.align or "none",
        scale=args.scale or "none",
        points=args.points,
        seed=args.seed,
        device=_device(args.device),
    )
    if args.radius:
        return Options(**{**vars(options), "radii": tuple(args.radius)})
    return options


def _device(wish: str) -> str:
    possible = torch.cuda.is_available() and _extension.HAS_CUDA
    if wish == "auto":
        return "cuda" if possible else "cpu"
    if wish == "cuda" and not possible:
        cure = (
            "there is no GPU that torch can use" if _extension.HAS_CUDA else _extension.cuda_cure()
        )
        raise ValueError(f"--device cuda: {cure}")
    return wish


def _radius(text: str) -> Radius:
    relative = text.endswith("%")
    value = float(text.removesuffix("%")) / (100 if relative else 1)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return Radius(value, relative)


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, got {text}")
    return value


def _pairs(a: Path, b: Path) -> tuple[list[tuple[str, Path, Path]], list[Path]]:
    """(name, file of A, file of B) of each pair, and the files without a partner.

    Two files are a pair; of two folders those of one name are.
    """
    for path in (a, b):
        if not path.exists():
            raise ValueError(f"{path}: there is no such file or folder")
    if a.is_dir() != b.is_dir():
        raise ValueError(f"expected two files or two folders, got {a} and {b}")
    if not a.is_dir():
        return [(a.name, a, b)], []
    files = _files(a), _files(b)
    names = sorted(files[0].keys() & files[1].keys())
    alone = [
        own[name]
        for own, other in (files, files[::-1])
        for name in sorted(own.keys() - other.keys())
    ]
    if not names:
        raise ValueError(f"no file of {a} has the name of one of {b}, apart from the ending")
    if alone:
        more = f" and {len(alone) - 1} more" if len(alone) > 1 else ""
        print(f"pointloss compare: no partner for {alone[0]}{more}", file=sys.stderr)
    return [(name, files[0][name], files[1][name]) for name in names], alone


def _files(folder: Path) -> dict[str, Path]:
    """The files of a folder and below it, by their path in it without the ending."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and path.is_file():
            name = path.relative_to(folder).with_suffix("").as_posix()
            if name in found:
                raise ValueError(f"{found[name]} and {path} have one name; which one is meant?")
            found[name] = path
    return found


def _with_bar(pairs: Sequence[tuple[str, Path, Path]]) -> Iterable[tuple[str, Path, Path]]:
    """The pairs, under a progress bar on a terminal if there are several and tqdm is installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        return pairs
    bar: Iterable[tuple[str, Path, Path]] = tqdm(
        pairs, unit="pair", disable=None if len(pairs) > 1 else True
    )
    return bar


def _compare(a: Path, b: Path, options: Options) -> tuple[Pair, list[str]]:
    # Two seeds: two samplings of one mesh must not be the same points.
    clouds = [read(p, options.points, 2 * options.seed + i) for i, p in enumerate((a, b))]
    origins = [f"{label}: {path}, {cloud.origin}"
               for label, path, cloud in zip("AB", (a, b), clouds, strict=True)]  # fmt: skip
    return measure(clouds[0], clouds[1], options), origins


def _as_text(table: Table) -> str:
    lines = [*table.notes, ""] if table.notes else []
    legend = [*table.options.describe(), f"Seed {table.options.seed}."]
    if any(name not in table.mean() for name in table.columns()):
        legend.append("The mean is of the columns that every pair has.")
    legend = ["", *(textwrap.fill(line, 100) for line in legend)]
    rows, columns = table.rows, table.columns()
    if len(rows) == 1 and not table.failed:
        width = max(map(len, columns))
        (row,) = rows.values()
        lines += [f"{name:<{width}}  {row[name]:.6g}" for name in columns]
        return "\n".join(lines + legend)
    mean = f"mean of {len(rows)}"
    if table.failed:
        mean += f", {table.failed} failed"
    cells = [["", *columns]]
    for name, row in [*rows.items(), (mean, table.mean())]:
        cells.append([name, *(f"{row[c]:.4g}" if c in row else "" for c in columns)])
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    for line in cells:
        padded = [c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True)]
        lines.append("  ".join([line[0].ljust(widths[0]), *padded]).rstrip())
    return "\n".join(lines + legend)


def _as_json(table: Table) -> str:
    options = table.options
    document: dict[str, Any] = {
        "protocol": asdict(options.protocol) if options.protocol else None,
        "align": options.align,
        "scale": options.scale,
        "radii": None if options.protocol else [str(radius) for radius in options.radii],
        "points": options.points,
        "seed": options.seed,
        "columns": options.describe(),
        "notes": table.notes,
        "points_compared": table.points,
        "unmatched": table.unmatched,
        "pairs": {name: _finite(row) for name, row in table.rows.items()},
        "mean": _finite(table.mean()),
        "failed": table.failed,
    }
    return json.dumps(document, indent=2)


def _finite(row: Row) -> dict[str, float | None]:
    """JSON has neither NaN nor infinity."""
    return {name: value if math.isfinite(value) else None for name, value in row.items()}


def _write_csv(path: Path, table: Table) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["pair", *table.columns()])
        writer.writeheader()
        for name, row in [*table.rows.items(), ("mean", table.mean())]:
            writer.writerow({"pair": name, **row})
