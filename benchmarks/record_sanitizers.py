# SPDX-License-Identifier: MIT
"""Run the GPU half of an op's tests under compute-sanitizer and record what it found.

    python -m benchmarks.record_sanitizers nearest --commit $(git rev-parse HEAD) [--out FOLDER]

Writes sanitizers-<op>-<gpu>.json: per tool the commit, the files, the errors, the tests and the
seconds; tools that are not run now stay as they were recorded. The tools run side by side, each
over several equal parts of the tests, without torch's caching of memory, so that a read past the
end of one tensor is not one inside a neighbour. Left out for their time are the tests that compile,
check schemas or difference gradients, the property tests, those where whole methods or devices are
compared, those of the very largest clouds; and those that capture a graph, where memory cannot be
allocated without the cache. "reports" counts what a tool said, also of tests that passed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import describe, slug

TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
TESTS = {
    "nearest": ("nearest", "nearest_backward", "nearest_index"),
    "chamfer": ("chamfer",),
    "assign": ("assign", "assign_rectangular"),
    "emd": ("emd",),
}
SELECT = "(cuda or shared_memory_holds or same_bits_of_many) and not " + " and not ".join(
    ["opcheck", "compile", "graph", "devices_agree", "methods_agree", "every_launch", "invarian"]
    + ["bits_count", "very_many", "test_gradients"]
)
# The tests that take longest, of many sizes each, come last, so that a limit cuts those off.
LONGEST = ("many_points", "shared_memory_holds", "every_layout", "a_thousand", "one_gradient")
LONGEST += ("certified_against", "against_the_optimum", "agrees_with_reference", "same_bits_as")
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")


def collect(tests: list[str], select: str) -> list[str]:
    """The selected tests by name, the longest last."""
    command = [*PYTEST, "--collect-only", "-k", select, *tests]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    names = [line for line in shown.splitlines() if "::" in line]
    return sorted(names, key=lambda name: any(word in name for word in LONGEST))


def start(tool: str, tests: list[str], log: Path, gpu: int) -> subprocess.Popen[bytes]:
    command = ["compute-sanitizer", "--tool", tool, "--target-processes", "all"]
    command += ["--error-exitcode", "99", *PYTEST, *tests]
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    environment |= {"CUDA_VISIBLE_DEVICES": str(gpu), "OMP_NUM_THREADS": "1"}  # a core a process
    return subprocess.Popen(
        command,
        stdout=log.open("wb"),
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,  # so that what the tool starts can be stopped with it
    )


def outcome(log: Path, returncode: int, tests: int) -> dict[str, Any]:
    """What one part of the tests came to."""
    text = log.read_text(errors="replace")
    summaries = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: (.*)", text)
    reports = len(
        re.findall(r"={9} (?:Invalid|Uninit|Error:|Race|Warning|Barrier|Program hit)", text)
    )
    running = re.split(r"^=+ (?:FAILURES|ERRORS) ", text, maxsplit=1, flags=re.M)[0]
    dots = "".join(re.findall(r"^[.FEsx]+", running, re.M))  # what pytest shows while it runs
    none = bool(summaries) and all(re.match("0 (errors|hazards)", found) for found in summaries)
    return {
        "clean": returncode == 0 and none and not reports and dots == "." * tests,
        "good": dots.count("."),
        "not_good": len(dots) - dots.count("."),
        "not_reached": tests - len(dots),
        "reports": reports,
        "summaries": summaries or ["none: the tool did not finish"],
        "returncode": returncode,
    }


def together(parts: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """What the parts of one tool's tests came to."""
    keys = ("good", "not_good", "not_reached", "reports")
    counts = {key: sum(part[key] for part in parts) for key in keys}
    return {
        "clean": all(part["clean"] for part in parts),
        **counts,
        "summaries": sorted({found for part in parts for found in part["summaries"]}),
        "returncodes": sorted({part["returncode"] for part in parts}),
        "seconds": round(seconds, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("op", choices=TESTS, help="whose tests")
    parser.add_argument("--commit", required=True, help="the commit that is being tested")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--select", default=SELECT, help="pytest -k")
    parser.add_argument("--limit", type=float, default=900, help="seconds for all tools together")
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=[*TOOLS])
    parser.add_argument("--parts", type=int, default=4, help="processes a tool; racecheck: thrice")
    parser.add_argument("--gpus", type=int, nargs="+", default=[0], help="the parts take turns")
    args = parser.parse_args()

    args.out.mkdir(parents=True, exist_ok=True)
    files = [f"tests/test_{name}.py" for name in TESTS[args.op]]
    tests = collect(files, args.select)
    shares = {}
    for tool in args.tools:
        parts = min(args.parts * (3 if tool == "racecheck" else 1), len(tests))  # it is the slowest
        shares.update({(tool, part): tests[part::parts] for part in range(parts)})
    begin = time.perf_counter()
    running = {}
    for turn, ((tool, part), share) in enumerate(shares.items()):
        log = args.out / f"{args.op}-{tool}-{part}.log"
        running[tool, part] = start(tool, share, log, args.gpus[turn % len(args.gpus)]), log
    ended: dict[tuple[str, int], float] = {}
    while len(ended) < len(running):
        late = time.perf_counter() - begin > args.limit
        for key, (process, _) in running.items():
            if late and process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            if process.poll() is not None:
                ended.setdefault(key, time.perf_counter() - begin)
        time.sleep(0.5)
    found = {}
    for tool in args.tools:
        parts = [key for key in shares if key[0] == tool]
        outcomes = []
        for key in parts:
            process, log = running[key]
            outcomes.append(outcome(log, process.returncode, len(shares[key])))
            if outcomes[-1]["clean"]:
                log.unlink()
        told = together(outcomes, max(ended[key] for key in parts))
        found[tool] = {"commit": args.commit, "files": files, "selected": args.select, **told}
    machine = describe(args.commit)
    path = args.out / f"sanitizers-{args.op}-{slug(machine)}.json"
    earlier = json.loads(path.read_text())["tools"] if path.exists() else {}
    record = {**machine, "tools": {**earlier, **found}}
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(found, indent=1))
    return 0 if all(tool["clean"] for tool in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
