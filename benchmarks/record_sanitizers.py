# SPDX-License-Identifier: MIT
"""Run the GPU half of some ops' tests under compute-sanitizer and record what it found.

    python -m benchmarks.record_sanitizers nearest chamfer --commit $(git rev-parse HEAD) --mps

Writes sanitizers-<op>-<gpu>.json: per tool the commit, the files, the errors, the tests and the
seconds; tools that are not run now stay as they were recorded, and --continue runs only the tests
that were not reached, to be counted with the others. Processes of a few tests each run side by
side. Under memcheck and initcheck they do without torch's caching of memory, so that a read past
the end of one tensor is not one inside a neighbour. Racecheck looks at this project's kernels, not
at torch's; under it a kernel of a block takes thousands of times as long, and kernels of different
processes take turns: --mps lets them run at once (eight took the time of one).

Left out for their time are the tests that compile, check schemas or difference gradients, the
property tests, those where whole methods or devices are compared, those of the very largest clouds;
and those that capture a graph, where memory cannot be allocated without the cache. "reports" counts
what a tool said, also of tests that passed; "faults" counts processes that a CUDA error ended under
MPS: their tests are among the "rest", and clean only once they have been run without --mps;
"left_out" are those that take too long for racecheck, "without_summary" counts good ones of
processes that were cut off before the tool summed up.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.machine import describe, slug

TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
TESTS = {
    "nearest": [f"tests/test_nearest{part}.py" for part in ("", "_backward", "_index")],
    "chamfer": ["tests/test_chamfer.py"],
    "assign": [f"tests/test_assign{part}.py" for part in ("", "_rectangular", "_warm")],
    "emd": ["tests/test_emd.py"],
}
SELECT = "(cuda or shared_memory_holds or same_bits_of_many or batch_of_any_size)" + "".join(
    f" and not {word}"
    for word in ("opcheck", "compile", "graph", "devices_agree", "methods_agree", "every_launch")
    + ("invarian", "bits_count", "very_many", "test_gradients")
)
# The tests that take longest under racecheck: of many sizes, of large clouds, or with millions of
# pairs of points (brute force looks at 3.6 million a second there, on an H200). Each has a process
# to itself, before the others, the last named first, so that a limit cuts off little.
LONGEST = (
    *("certified_against", "against_the_optimum", "shared_memory_holds", "same_bits_as_nearest"),
    *("one_gradient", "conventions", "without_asking", "is_mended", "rounds_after"),
    *("many_points", "test_every_layout", "costs_of_two_scales"),
    *("hundreds_of_points", "same_bits_of_many", "(81, 64)", "(64, 80)"),
)
# Not for racecheck, under which most of these take more than six minutes: solves of 3000 points, or
# of many with equal costs. Smaller sizes of the same tests are, or of tests like them.
TOO_LONG = (
    *("thousands_of_points", "batch_of_any_size", "(200, 500)", "(300, 900)", "duplicates-1024"),
    *("f32-(180, 450)", "f64-(180, 450)", "blob-squared-(180, 450)", "duplicates-plain-(180, 450)"),
    *("duplicates-squared-(180, 450)", "line-plain-(180, 450)", "line-squared-(180, 450)"),
    *("lattice-plain-(180, 450)", "lattice-squared-(180, 450)", "duplicates-squared-(64, 81)"),
    *("surface-700", "lattice-700", "of_many_points[duplicates"),
    *("many_points[cuda-line-sizes0", "many_points[cuda-line-sizes1"),
    *("many_points[cuda-lattice-sizes1", "many_points[cuda-duplicates-sizes0"),
)
# What begins a report of the tool (pytest's headings are in other letters), or tells a crash.
REPORT = re.compile(
    "={9} (Invalid|Uninit|Error:|ERROR:|Race |Warning|Barrier|Program hit|Malloc/Free|Leaked)"
    "|Fatal Python error"
)
COUNTED = ("good", "without_summary", "not_good", "reports")
UNFINISHED = "none: the tool did not finish"
NOTHING_FOUND = re.compile(f"0 (errors|hazards)|{UNFINISHED}")
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")


class Share(NamedTuple):
    """What one process runs."""

    op: str
    tool: str
    tests: list[str]
    length: int = 0  # a rank, from the place in LONGEST


def collect(op: str, select: str) -> list[str]:
    """The selected tests by name."""
    command = [*PYTEST, "--collect-only", "-k", select, *TESTS[op]]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [line for line in shown.splitlines() if "::" in line]


def divide(op: str, tool: str, tests: list[str], together: int) -> list[Share]:
    def rank(test: str) -> int:
        return max(k for k, word in enumerate(("", *LONGEST)) if word in test)

    long = [test for test in tests if tool == "racecheck" and rank(test) > 0]
    short = [test for test in tests if test not in long]
    count = -(-len(short) // together)
    shares = [Share(op, tool, short[k::count]) for k in range(count)]
    return shares + [Share(op, tool, [test], rank(test)) for test in long]


@contextmanager
def multi_process_server(wanted: bool) -> Iterator[dict[str, str]]:
    """NVIDIA's MPS, for the processes that get these variables; none where it is not wanted."""
    if not wanted:
        yield {}
        return
    with tempfile.TemporaryDirectory() as folder:
        variables = {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        environment = {**os.environ, **variables}
        control = "nvidia-cuda-mps-control"
        subprocess.run([control, "-d"], env=environment, check=True)
        try:
            yield variables
        finally:
            subprocess.run([control], input=b"quit -t 5\n", env=environment, timeout=60)


def start(share: Share, log: Path, variables: dict[str, str]) -> subprocess.Popen[bytes]:
    command = ["compute-sanitizer", "--tool", share.tool, "--target-processes", "all"]
    if share.tool == "racecheck":  # its threads wait busily, one for every core
        command += ["--racecheck-num-workers", "1", "--kernel-name", "kns=pointloss"]
    command += ["--error-exitcode", "99", *PYTEST, *share.tests]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}  # a core a process
    if share.tool in ("memcheck", "initcheck"):
        environment["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
    return subprocess.Popen(
        command,
        stdout=log.open("wb"),
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,  # so that what the tool starts can be stopped with it
    )


def run_all(
    shares: list[Share],
    folder: Path,
    slots: list[dict[str, str]],
    shared: bool,
    limit: float,
    ended: Callable[[int, dict[str, Any]], None],
) -> None:
    """Run the shares in their order, one in each slot at a time; a slot's variables say where.

    `shared`: under MPS.
    """
    begin = time.perf_counter()
    drain = False
    running: list[tuple[int, subprocess.Popen[bytes], Path] | None] = [None] * len(slots)
    waiting = list(range(len(shares)))
    while waiting or any(running):
        late = time.perf_counter() - begin > limit
        if late:
            waiting.clear()
        for slot, job in enumerate(running):
            if job is None:
                if waiting and not drain:
                    turn = waiting.pop(0)
                    log = folder / f"{shares[turn].op}-{shares[turn].tool}-{turn}.log"
                    running[slot] = turn, start(shares[turn], log, slots[slot]), log
                continue
            turn, process, log = job
            returncode = process.poll()
            if returncode is None and late:
                os.killpg(process.pid, signal.SIGKILL)  # the driver may keep it for a while
                returncode = -signal.SIGKILL
            if returncode is None:
                continue
            found = outcome(log, returncode, shares[turn].tests, shared)
            ended(turn, {**found, "seconds": time.perf_counter() - begin})
            if found["clean"]:
                log.unlink()
            running[slot] = None
            drain |= found["fault"]  # MPS serves nobody new before all that were hit are gone
        drain &= any(running)
        time.sleep(0.2)


def outcome(
    log: Path | None, returncode: int | None, tests: list[str], shared: bool = False
) -> dict[str, Any]:
    """What one process came to; without a log it did not start. `shared`: under MPS."""
    text = "" if log is None else log.read_text(errors="replace")
    summaries = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: (.*)", text)
    reports = len(REPORT.findall(text))
    running = re.split(r"^=+ (?:FAILURES|ERRORS) ", text, maxsplit=1, flags=re.M)[0]
    dots = "".join(re.findall(r"^(?!Fatal)[.FEsx]+", running, re.M))  # what pytest shows as it runs
    # Under MPS the error of one process ends all that share its GPU: who caused it is not known,
    # and the tests of all are to be run again.
    fault = shared and returncode not in (0, -signal.SIGKILL) and "CUDA error" in text
    cut_off = returncode == -signal.SIGKILL
    if fault or not (summaries or cut_off):  # a tool that crashed says nothing of any test
        dots = ""
    none = bool(summaries) and all(map(NOTHING_FOUND.match, summaries))
    return {
        "clean": returncode == 0 and none and not reports and dots == "." * len(tests),
        "good": dots.count("."),
        "without_summary": 0 if summaries else dots.count("."),
        "not_good": len(dots) - dots.count("."),
        "not_reached": len(tests) - len(dots),
        "rest": tests[len(dots) :],
        "reports": reports,
        "fault": fault,
        "summaries": summaries or [UNFINISHED],
        "returncode": "CUDA error" if fault else str(returncode),
        "seconds": 0.0,
    }


def tally(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """What the processes of one tool came to."""
    counts = {key: sum(part[key] for part in parts) for key in (*COUNTED, "not_reached")}
    return {
        "clean": all(part["clean"] for part in parts),
        **counts,
        "faults": sum(part["fault"] for part in parts),
        "summaries": sorted({found for part in parts for found in part["summaries"]}),
        "returncodes": sorted({part["returncode"] for part in parts}),
        "seconds": round(max((part["seconds"] for part in parts), default=0), 1),
        "rest": [test for part in parts for test in part["rest"]],
    }


def continued(earlier: dict[str, Any], told: dict[str, Any], shared: bool) -> dict[str, Any]:
    """A record of a tool with what has become of the tests that it did not reach."""
    ends = {key: sorted({*earlier[key], *told[key]}) for key in ("summaries", "returncodes")}
    # Any end but 0 is a fault, unless a signal was it: then the process was cut off, or the tool
    # crashed (a crash of the tests is a report), and the rest is run again. A CUDA error under MPS
    # is a fault until all tests that it hit have ended well by themselves.
    ended = set(earlier["returncodes"]) - {"0", "None", "CUDA error"}
    wrong = [code for code in ended if not code.startswith("-")]
    wrong += [found for found in earlier["summaries"] if not NOTHING_FOUND.match(found)]
    faults = told["faults"] + (earlier.get("faults", 0) if shared else 0)
    return {
        **told,
        **ends,
        "commit": ", ".join(dict.fromkeys([*earlier["commit"].split(", "), told["commit"]])),
        **{key: earlier.get(key, 0) + told[key] for key in COUNTED},
        "faults": faults,
        "clean": told["clean"]
        and not (earlier["not_good"] or earlier["reports"] or wrong or faults),
        "seconds": round(earlier["seconds"] + told["seconds"], 1),
    }


class Record:
    """What came of all shares, written whenever one has ended, so that nothing is lost."""

    def __init__(self, commit: str, select: str, folder: Path, go_on: bool, shared: bool):
        self.folder, self.go_on, self.shared = folder, go_on, shared
        self.machine = describe(commit)
        self.told = {"commit": commit, "selected": select}
        self.earlier: dict[str, dict[str, Any]] = {op: self.read(op) for op in TESTS}
        self.left_out: dict[str, list[str]] = {}
        self.shares: list[Share] = []
        self.outcomes: list[dict[str, Any]] = []

    def path(self, op: str) -> Path:
        return self.folder / f"sanitizers-{op}-{slug(self.machine)}.json"

    def read(self, op: str) -> dict[str, Any]:
        tools = json.loads(self.path(op).read_text())["tools"] if self.path(op).exists() else {}
        return dict(tools)

    def to_continue(self, op: str, tool: str) -> dict[str, Any]:
        """The earlier record, if it tells which tests it did not reach."""
        earlier = self.earlier[op].get(tool, {})
        return earlier if self.go_on and "rest" in earlier else {}

    def plan(self, op: str, tools: list[str], tests: list[str], together: int) -> None:
        self.left_out[op] = [test for test in tests if any(word in test for word in TOO_LONG)]
        for tool in tools:
            left = set(self.to_continue(op, tool).get("rest", tests))
            if gone := left.difference(tests):
                raise SystemExit(f"{op} {tool}: not among the tests any more: {sorted(gone)}")
            if tool == "racecheck":
                left -= set(self.left_out[op])
            self.shares += divide(op, tool, [test for test in tests if test in left], together)
        self.shares.sort(key=lambda share: share.length, reverse=True)
        self.outcomes = [outcome(None, None, share.tests) for share in self.shares]

    def ended(self, turn: int, found: dict[str, Any]) -> None:
        self.outcomes[turn] = found
        self.write(self.shares[turn].op, self.shares[turn].tool)

    def write(self, op: str, tool: str) -> bool:
        """Returns whether all tests have run and the tool said nothing."""
        parts = [
            part
            for share, part in zip(self.shares, self.outcomes, strict=True)
            if (share.op, share.tool) == (op, tool)
        ]
        tools = self.read(op)
        tools[tool] = {**self.told, "files": TESTS[op], **tally(parts)}
        if tool == "racecheck":
            tools[tool]["left_out"] = self.left_out[op]
        if earlier := self.to_continue(op, tool):
            tools[tool] = continued(earlier, tools[tool], self.shared)
        self.path(op).write_text(json.dumps({**self.machine, "tools": tools}, indent=1) + "\n")
        return bool(tools[tool]["clean"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ops", nargs="+", choices=TESTS, help="whose tests")
    parser.add_argument("--commit", required=True, help="the commit that is being tested")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--select", default=SELECT, help="pytest -k")
    parser.add_argument("--limit", type=float, default=900, help="seconds for all together")
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=[*TOOLS])
    parser.add_argument("--processes", type=int, default=8, help="at a time, a core each")
    parser.add_argument("--together", type=int, default=4, help="tests of a process")
    parser.add_argument("--gpus", type=int, nargs="+", default=[0], help="they take turns")
    parser.add_argument("--mps", action="store_true", help="let processes share a GPU at once")
    parser.add_argument(
        "--continue", action="store_true", dest="go_on", help="only what --out's records lack"
    )
    args = parser.parse_args()
    for program in ["compute-sanitizer"] + ["nvidia-cuda-mps-control"] * args.mps:
        if shutil.which(program) is None:
            parser.error(f"there is no {program} on the PATH")

    args.out.mkdir(parents=True, exist_ok=True)
    record = Record(args.commit, args.select, args.out, args.go_on, args.mps)
    for op in args.ops:
        record.plan(op, args.tools, collect(op, args.select), args.together)
    with multi_process_server(args.mps) as server:
        gpus = [args.gpus[slot % len(args.gpus)] for slot in range(args.processes)]
        slots = [{"CUDA_VISIBLE_DEVICES": str(gpu), **server} for gpu in gpus]
        run_all(record.shares, args.out, slots, args.mps, args.limit, record.ended)
    clean = {f"{op} {tool}": record.write(op, tool) for op in args.ops for tool in args.tools}
    print(json.dumps(clean, indent=1))
    return 0 if all(clean.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
