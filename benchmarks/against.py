# SPDX-License-Identifier: MIT
"""Two runs side by side: what has become slower by more than the noise of both.

python -m benchmarks.against OLD.json NEW.json       1 if anything is slower
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.report import Row, duration, load, markdown, size_of

# What names a measurement; all else in a row is its result.
KEY = ("op", "method", "kind", "batch", "points", "objects", "rtol")
# A median of few rounds says little, and between two runs a machine is never quite the same.
FEW, NOISE_OF_FEW, LEAST_NOISE = 5, 0.25, 0.05


def _ours(row: Row) -> float | None:
    """What pointloss took; None where the row is a peer's alone."""
    if "pointloss_cpu_seconds" in row:
        return float(row["pointloss_cpu_seconds"])
    return float(row["seconds"]) if row["method"].startswith("pointloss") else None


def noise(row: Row) -> float:
    """By which share a repetition may differ: the quartiles' distance, and never nothing."""
    few = row["rounds_timed"] < FEW or "pointloss_cpu_seconds" in row
    return max(LEAST_NOISE, float(row["spread"]), NOISE_OF_FEW if few else 0.0)


def compare(old: list[Row], new: list[Row]) -> tuple[str, int]:
    """A table of all that both runs measured, the worst ratio first, and how many are slower.

    Slower means: new / old is above 1 + the noise of both. What is faster by that much is told too.
    """
    before = {tuple(row.get(k) for k in KEY): row for row in old}
    found = []
    for row in new:
        other = before.get(tuple(row.get(k) for k in KEY))
        ours, theirs = _ours(row), _ours(other) if other else None
        if other and ours and theirs:
            found.append((ours / theirs, noise(row) + noise(other), theirs, ours, row))
    body, slower = [], 0
    for ratio, limit, theirs, ours, row in sorted(found, key=lambda f: -f[0]):
        slower += ratio > 1 + limit
        verdict = "SLOWER" if ratio > 1 + limit else "faster" if 1 / ratio > 1 + limit else ""
        name = f"{row['op']}, {row['method']}, {row['kind']}"
        name += f", rtol {row['rtol']:g}" if "rtol" in row else ""
        times = [duration(theirs), duration(ours), f"{ratio:.2f}", f"{100 * limit:.0f} %"]
        body.append([name, size_of(row), *times, verdict])
    if not body:
        return "The two runs have no measurement in common.", 0
    header = ["measured", "batch x points", "old", "new", "new / old", "noise of both", ""]
    alone = len(new) - len(body)
    end = f"{len(body)} compared, {slower} slower" + (f"; {alone} have no partner" if alone else "")
    return f"{markdown(header, body)}\n\n{end}", slower


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    args = parser.parse_args()
    (old_heading, old), (new_heading, new) = load(args.old), load(args.new)
    text, slower = compare(old, new)
    print(f"old: {old_heading}\n\nnew: {new_heading}\n\n{text}")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
