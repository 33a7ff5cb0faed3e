# SPDX-License-Identifier: MIT
"""Run the GPU half of the ops' tests under compute-sanitizer and record what it found.

    python -m benchmarks.record_sanitizers --commit $(git rev-parse HEAD) [--out FOLDER]

Writes sanitizers-<gpu>.json: per tool the errors, what pytest said and the seconds. The tools run
side by side, without torch's caching of memory, so that a read past the end of one tensor is not
one inside a neighbour. Left out for their time are the tests that compile or check schemas, the
property tests and those of every kind of clouds; and those that capture a graph, where memory
cannot be allocated without the cache.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import describe, slug

TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
TESTS = ("tests/test_nearest.py", "tests/test_nearest_backward.py", "tests/test_assign.py")
SELECT = "cuda and not " + " and not ".join(
    ["opcheck", "compile", "graph", "devices_agree", "methods_agree", "every_launch", "invarian"]
)


def start(tool: str, tests: list[str], select: str, log: Path) -> subprocess.Popen[bytes]:
    command = ["compute-sanitizer", "--tool", tool, "--target-processes", "all"]
    command += ["--error-exitcode", "99"]
    command += [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-k",
        select,
        *tests,
    ]
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    return subprocess.Popen(
        command, stdout=log.open("wb"), stderr=subprocess.STDOUT, env=environment
    )


def outcome(log: Path, returncode: int, seconds: float) -> dict[str, Any]:
    text = log.read_text(errors="replace")
    summary = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: (.*)", text)
    pytest = [line for line in text.splitlines() if re.match(r"\d+ (passed|failed)", line)]
    dots = "".join(re.findall(r"^[.FEsx]+", text, re.M))  # what pytest shows while it runs
    so_far = f"{dots.count('.')} good, {len(dots) - dots.count('.')} not, when it was stopped"
    return {
        "returncode": returncode,
        "summary": summary[-1] if summary else "none: the tool did not finish",
        "tests": pytest[-1] if pytest else so_far,
        "seconds": round(seconds, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--commit", required=True, help="the commit that is being tested")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--select", default=SELECT, help="pytest -k")
    parser.add_argument("--limit", type=float, default=900, help="seconds for all tools together")
    parser.add_argument("tests", nargs="*", default=TESTS)
    args = parser.parse_args()

    args.out.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    logs = {tool: args.out / f"{tool}.log" for tool in TOOLS}
    running = {tool: start(tool, [*args.tests], args.select, logs[tool]) for tool in TOOLS}
    found = {}
    for tool, process in running.items():
        try:
            process.wait(max(1.0, args.limit - (time.perf_counter() - begin)))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        found[tool] = outcome(logs[tool], process.returncode, time.perf_counter() - begin)
    machine = describe(args.commit)
    path = args.out / f"sanitizers-{slug(machine)}.json"
    record = {**machine, "selected": args.select, "tests": [*args.tests], "tools": found}
    path.write_text(json.dumps(record, indent=1) + "\n")
    for log in logs.values():
        if all(tool["returncode"] == 0 for tool in found.values()):
            log.unlink()
    print(json.dumps(found, indent=1))
    clean = all(t["returncode"] == 0 and "passed" in t["tests"] for t in found.values())
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
