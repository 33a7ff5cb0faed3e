# SPDX-License-Identifier: MIT
"""What counts as clean in a record of compute-sanitizer, by logs of the forms that it writes."""

import json

import pytest

from benchmarks import record_sanitizers
from benchmarks.record_sanitizers import continued, outcome, tally

HEAD = "========= COMPUTE-SANITIZER\n"
SUMMARY = "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n"
GOOD = f"{HEAD}...   [100%]\n3 passed in 1.00s\n{SUMMARY}"
FOUND = SUMMARY.replace("0 hazards", "2 hazards")
CUDA_ERROR = f"{HEAD}.\nRuntimeError: CUDA error: an illegal memory access\n"
NAMES = ["a", "b", "c"]


@pytest.fixture
def ended(tmp_path):
    def make(text, returncode, shared=True):
        log = tmp_path / "log"
        log.write_text(text)
        return {**tally([outcome(log, returncode, NAMES, shared)]), "commit": "x"}

    return make


# Headings of pytest are no reports of the tool.
@pytest.mark.parametrize("more", ["", f"{'=' * 31} warnings summary {'=' * 31}\n"])
def test_all_tests_well_and_summed_up(more, ended):
    told = ended(GOOD.replace(SUMMARY, more + SUMMARY), 0)
    assert told["clean"]
    assert (told["good"], told["not_good"], told["rest"]) == (3, 0, [])


@pytest.mark.parametrize(
    ("text", "returncode"),
    [
        (GOOD, 99),
        (GOOD.replace(SUMMARY, ""), 0),
        (GOOD.replace(SUMMARY, FOUND), 0),
        (GOOD.replace("...", "..s"), 0),
        (GOOD.replace("...", ".F."), 1),
        (GOOD.replace("...", ".."), 0),
        (f"{HEAD}..\n======= FAILURES =======\n.\n{SUMMARY}", 0),  # no dot of a test
        (f"{HEAD}.Fatal Python error: Segmentation fault\n{SUMMARY}", 0),
    ]
    + [
        (GOOD.replace(SUMMARY, f"========= {report}\n{SUMMARY}"), 0)
        for report in ("Error: Race reported between", "ERROR: Race reported", "Warning: Race")
        + ("Race reported", "Invalid __global__ read", "Uninitialized __global__ memory read")
        + ("Barrier error", "Program hit cudaError", "Malloc/Free error", "Leaked 4 bytes")
    ],
)
def test_not_clean(text, returncode, ended):
    assert not ended(text, returncode)["clean"]


@pytest.mark.parametrize(
    ("first", "rest", "clean"),
    [
        ((f"{HEAD}.", -9), ["b", "c"], True),  # cut off
        ((f"{HEAD}.", -11), NAMES, True),  # the tool crashed, without a word of the first test
        ((GOOD.replace(SUMMARY, ""), 0), NAMES, True),
        ((f"{HEAD}.\nFatal Python error: Aborted\n", -6), NAMES, False),
        ((CUDA_ERROR, 1), NAMES, False),
        ((f"{HEAD}.\nFatal Python error: Aborted\n{SUMMARY}", -6), ["b", "c"], False),
        ((f"{HEAD}..\n======= FAILURES =======\n.\n", -9), ["c"], True),
        ((f"{HEAD}F", -9), ["b", "c"], False),
        ((f"{HEAD}.F a word of its own", -9), ["c"], False),
        ((f"{HEAD}.", 1), NAMES, False),
        ((f"{HEAD}.\n{FOUND}", -9), ["b", "c"], False),
        ((f"{HEAD}.\n========= Malloc/Free error", -9), ["b", "c"], False),
    ],
)
def test_a_record_goes_on(first, rest, clean, ended):
    """Clean once the rest has ended well, unless what was wrong before is not undone by that."""
    before = ended(*first)
    assert not before["clean"]
    assert before["rest"] == rest
    after = continued(before, {**ended(GOOD, 0), "commit": "y"}, shared=True)
    assert after["clean"] == clean
    assert after["rest"] == []
    assert after["commit"] == "x, y"
    assert not continued(before, ended(GOOD, 99), shared=True)["clean"]


def test_good_ones_of_processes_that_were_cut_off_are_counted(ended):
    before = ended(f"{HEAD}..", -9)
    assert before["without_summary"] == 2
    assert continued(before, ended(GOOD, 0), shared=True)["without_summary"] == 2


def test_a_fault_under_mps_is_over_once_all_ran_alone(ended):
    before, alone = ended(CUDA_ERROR, 1), ended(GOOD, 0, shared=False)
    assert before["faults"] == 1
    assert ended(CUDA_ERROR, -9)["faults"] == 0  # cut off, as it is told
    assert continued(before, alone, shared=False)["clean"]
    by_itself = ended(CUDA_ERROR, 1, shared=False)  # nobody else's error
    assert by_itself["faults"] == 0
    assert not continued(by_itself, alone, shared=False)["clean"]


def test_what_is_left_out_and_what_is_gone(tmp_path):
    def plan(tests, tools=("racecheck", "memcheck")):
        record = record_sanitizers.Record("x", "cuda", tmp_path, True, True)
        record.plan("emd", list(tools), tests, together=2)
        return record

    record = plan(["test_a", "test_thousands_of_points", "test_b"])
    planned = {share.tool: share.tests for share in record.shares if "test_a" in share.tests}
    assert planned["racecheck"] == ["test_a", "test_b"]
    assert sum(len(share.tests) for share in record.shares) == 5  # memcheck takes all
    assert not record.write("emd", "racecheck")
    told = json.loads(record.path("emd").read_text())["tools"]["racecheck"]
    assert told["left_out"] == ["test_thousands_of_points"]
    assert told["rest"] == ["test_a", "test_b"]
    with pytest.raises(SystemExit, match=r"emd racecheck: not among .*test_b"):
        plan(["test_a"], tools=["racecheck"])
