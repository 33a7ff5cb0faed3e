# SPDX-License-Identifier: MIT
"""What every record says of the machine, the versions and the commit that it was made with."""

from __future__ import annotations

import platform
import re
import subprocess
from typing import Any

import torch

import pointloss


def describe(commit: str) -> dict[str, Any]:
    """GPU, driver, versions and commit, as JSON-ready values."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "commit": commit,
        "gpu": gpu,
        "driver": _driver() if gpu else None,
        "cpu": _cpu(),
        "cores": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "pointloss": pointloss.build_info(),
    }


def slug(machine: dict[str, Any]) -> str:
    """The GPU's name, or "cpu", as a part of a file name."""
    return re.sub(r"\W+", "-", machine["gpu"] or "cpu").strip("-").lower()


def _driver() -> str:
    answer = subprocess.run(
        ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
        capture_output=True,
        text=True,
    )
    return answer.stdout.split("\n")[0]


def _cpu() -> str:
    with open("/proc/cpuinfo") as lines:
        return next((s.split(":")[1].strip() for s in lines if s.startswith("model name")), "")
