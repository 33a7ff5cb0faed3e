# SPDX-License-Identifier: MIT
"""What counts as clean in a record of compute-sanitizer, by logs of the forms that it writes."""

import pytest

from benchmarks.record_sanitizers import continued, outcome, tally

HEAD = "========= COMPUTE-SANITIZER\n"
SUMMARY = "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n"
GOOD = f"{HEAD}...   [100%]\n3 passed in 1.00s\n{SUMMARY}"
NAMES = ["a", "b", "c"]


@pytest.fixture
def ended(tmp_path):
    def make(text, returncode, shared=True):
        log = tmp_path / "log"
        log.write_text(text)
        return outcome(log, returncode, NAMES, shared)

    return make


def test_all_tests_well_and_summed_up(ended):
    told = ended(GOOD, 0)
    assert told["clean"]
    assert (told["good"], told["not_good"], told["rest"]) == (3, 0, [])


@pytest.mark.parametrize(
    ("text", "returncode"),
    [
        (GOOD, 99),
        (GOOD.replace(SUMMARY, ""), 0),
        (GOOD.replace("0 hazards", "2 hazards"), 0),
        (GOOD.replace("...", "..s"), 0),
        (GOOD.replace("...", ".F."), 1),
        (GOOD.replace("...", "..."[:2]), 0),
        (GOOD.replace(SUMMARY, "========= Error: Race reported\n" + SUMMARY), 0),
        (f"{HEAD}.Fatal Python error: Segmentation fault\n{SUMMARY}", 0),
    ],
)
def test_not_clean(text, returncode, ended):
    assert not ended(text, returncode)["clean"]


@pytest.mark.parametrize(
    ("first", "rest", "clean"),
    [
        ((f"{HEAD}.", -9), ["b", "c"], True),  # cut off
        ((HEAD, -11), NAMES, True),  # the tool crashed before a first test
        ((f"{HEAD}.\nFatal Python error: Aborted\n", -6), ["b", "c"], False),
        ((f"{HEAD}.\nRuntimeError: CUDA error: an illegal memory access", 1), NAMES, False),
        ((f"{HEAD}F", -9), ["b", "c"], False),
        ((f"{HEAD}.", 1), ["b", "c"], False),
    ],
)
def test_a_record_goes_on(first, rest, clean, ended):
    """Clean once the rest has ended well, unless what was wrong before is not undone by that."""
    before = {**tally([ended(*first)]), "commit": "x"}
    assert not before["clean"]
    assert before["rest"] == rest
    after = continued(before, {**tally([ended(GOOD, 0)]), "commit": "y"}, shared=True)
    assert after["clean"] == clean
    assert after["rest"] == []
    assert after["commit"] == "x, y"


def test_a_fault_under_mps_is_over_once_all_ran_alone(ended):
    fault = ended(f"{HEAD}.\nRuntimeError: CUDA error: unspecified launch failure", 1)
    before = {**tally([fault]), "commit": "x"}
    assert before["faults"] == 1
    alone = {**tally([ended(GOOD, 0, shared=False)]), "commit": "x"}
    assert continued(before, alone, shared=False)["clean"]
