# SPDX-License-Identifier: MIT
"""Write machine, versions and commit into every benchmark's JSON; commit from POINTLOSS_COMMIT."""

import os
import subprocess

from benchmarks.machine import describe


def _commit() -> str:
    if given := os.environ.get("POINTLOSS_COMMIT"):
        return given
    answer = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    return answer.stdout.strip() or "unknown"


def pytest_benchmark_update_json(config, benchmarks, output_json):
    output_json["machine"] = describe(_commit())
    output_json.pop("machine_info", None)  # host names and the like say nothing to a reader
    output_json.pop("commit_info", None)
    for b in output_json["benchmarks"]:
        b["stats"].pop("data", None)
        b.pop("params", None)  # functions, which JSON has no word for; extra_info says it
