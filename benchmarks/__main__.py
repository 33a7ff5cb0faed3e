# SPDX-License-Identifier: MIT
"""Run the benchmarks, print their tables, and compare with an earlier run.

    python -m benchmarks [OP ...] [--out FOLDER] [-k EXPRESSION] [--against OLD.json ...]

OP is nearest, chamfer, assign or emd; all of them unless some are named. Each writes
OP-<machine>.json into --out. Every result is verified before it is timed, and every peer that can
be imported here is measured beside it; the tables have the ratios. --against OLD.json marks what
has become slower by more than the noise of both runs; then the exit status is 1. -k is pytest's:
-k "surface and 2048" keeps it short.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import against, machine, report

FOLDER = Path(__file__).parent
OPS = ("nearest", "chamfer", "assign", "emd")


def run(op: str, file: Path, expression: str | None) -> None:
    """One benchmark file into one JSON file; ends with pytest's status if that fails."""
    command = [sys.executable, "-m", "pytest", "-rs", "-q", str(FOLDER / f"bench_{op}.py")]
    command += ["--benchmark-only", f"--benchmark-json={file.resolve()}", "--benchmark-columns"]
    command += ["median,iqr,rounds", *(["-k", expression] if expression else [])]
    status = subprocess.run(command, cwd=FOLDER.parent).returncode
    if status == 5:  # none of this op was chosen
        file.unlink(missing_ok=True)
    elif status:
        sys.exit(status)


def main(argv: Sequence[str] | None = None) -> int:
    """Run, print, compare; 1 if anything has become slower."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ops", nargs="*", metavar="OP", help=f"of {', '.join(OPS)} (default: all)")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the JSON files")
    parser.add_argument("-k", dest="expression", help="which benchmarks, as pytest's -k")
    parser.add_argument("--against", type=Path, action="append", default=[], metavar="OLD.json")
    args = parser.parse_args(argv)
    if unknown := [op for op in args.ops if op not in OPS]:
        parser.error(f"expected ops of {', '.join(OPS)}, got {unknown[0]}")
    args.out.mkdir(parents=True, exist_ok=True)
    files = []
    for op in args.ops or OPS:
        file = args.out / f"{op}-{machine.slug(machine.describe('here'))}.json"
        run(op, file, args.expression)
        if file.is_file():
            files.append(file)
    if not files:
        sys.exit(f"benchmarks: nothing to run for -k {args.expression!r}")
    print("\n" + report.tables(report.by_op(files)))
    if not args.against:
        return 0
    old, new = (
        [row for f in group for row in report.load(f)[1]] for group in (args.against, files)
    )
    text, slower = against.compare(old, new)
    print(f"\nAgainst {', '.join(report.load(file)[0] for file in args.against)}\n\n{text}")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
