# SPDX-License-Identifier: MIT
"""Run the GPU half of the ops' tests under compute-sanitizer and record what it found.

    python -m benchmarks.record_sanitizers --commit $(git rev-parse HEAD) [--out FOLDER]

Writes sanitizers-<gpu>.json: per tool the errors, what pytest said and the seconds. The tools run
side by side. Left out are the tests that compile a model or compare many kinds of inputs without a
kernel of ours: under the sanitizer they cost minutes and show nothing new.
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

TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
TESTS = ("tests/test_nearest.py", "tests/test_nearest_backward.py", "tests/test_assign.py")
SELECT = "cuda and not opcheck and not compile and not devices_agree and not invariances"


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
    return subprocess.Popen(command, stdout=log.open("wb"), stderr=subprocess.STDOUT)


def outcome(log: Path, returncode: int, seconds: float) -> dict[str, object]:
    text = log.read_text(errors="replace")
    summary = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: (.*)", text)
    pytest = [line for line in text.splitlines() if re.match(r"\d+ (passed|failed)", line)]
    return {
        "returncode": returncode,
        "summary": summary[-1:] or ["none: the tool did not finish"],
        "tests": pytest[-1:] or ["none"],
        "seconds": round(seconds, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--commit", required=True, help="the commit that is being tested")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--select", default=SELECT, help="pytest -k")
    parser.add_argument("--limit", type=float, default=240, help="seconds for all tools together")
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
    return max(abs(tool["returncode"]) for tool in found.values())  # type: ignore[type-var]


if __name__ == "__main__":
    sys.exit(main())
