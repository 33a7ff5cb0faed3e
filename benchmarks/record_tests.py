# SPDX-License-Identifier: MIT
"""Run the doctor and the whole test suite here and record what ran.

    python -m benchmarks.record_tests --commit $(git rev-parse HEAD) [-- PYTEST ARGUMENTS]

Writes tests-<gpu>.json: GPU, driver, CUDA, torch, commit, the doctor's report and the counts.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.machine import describe, slug

RESULTS = Path(__file__).parent / "results"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--commit", required=True, help="the commit that is being tested")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the record")
    parser.add_argument("pytest", nargs="*", help="arguments for pytest")
    args = parser.parse_args()

    doctor = subprocess.run([sys.executable, "-m", "pointloss"], capture_output=True, text=True)
    print(doctor.stdout, doctor.stderr)
    start = time.perf_counter()
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-rfs", *args.pytest], capture_output=True, text=True
    )
    seconds = time.perf_counter() - start
    print(tests.stdout[-6000:], tests.stderr[-2000:])
    counts = {
        word: int(number)
        for number, word in re.findall(
            r"(\d+) (passed|failed|skipped|errors?|xfailed)", tests.stdout.splitlines()[-1]
        )
    }
    machine = describe(args.commit)
    record = {
        **machine,
        "doctor": {"returncode": doctor.returncode, "output": doctor.stdout.splitlines()},
        "tests": {
            "arguments": args.pytest,
            "returncode": tests.returncode,
            "counts": counts,
            "seconds": round(seconds, 1),
            "failures": [line for line in tests.stdout.splitlines() if line.startswith("FAILED")],
            "skips": [line for line in tests.stdout.splitlines() if line.startswith("SKIPPED")],
        },
    }
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"tests-{slug(machine)}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"wrote {path.name}: {counts}")
    return doctor.returncode or tests.returncode


if __name__ == "__main__":
    sys.exit(main())
