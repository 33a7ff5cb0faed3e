# SPDX-License-Identifier: MIT
"""Load the compiled ops: the one place that knows that they may be missing, and says the cure."""

from __future__ import annotations

from pathlib import Path

import torch

_LIBRARY = Path(__file__).with_name("_ops.so")
if not _LIBRARY.is_file():
    raise ImportError(
        "pointloss: the compiled part is missing from this folder; run `pip install -e .` "
        "here, or start Python elsewhere to use an installed pointloss"
    )
try:
    torch.ops.load_library(_LIBRARY)
except OSError as error:
    raise ImportError(
        f"pointloss: the compiled part does not load with torch {torch.__version__} ({error}); "
        "rebuild it with `pip install --force-reinstall --no-deps --no-cache-dir .`"
    ) from error


def build_info() -> dict[str, str]:
    """Facts about the build.

    Returns:
        A dict of strings: `version`, `torch` (built with; any torch >= 2.10 loads it), `compiler`,
        `cuda` (toolkit release, empty in a build without CUDA), `cuda_archs`, `cpu_variants` and
        `cpu_in_use` (instruction sets compiled in, and the one this CPU runs).
    """
    try:
        from pointloss import _C
    except ImportError:  # it is made for the Python that built the wheel
        lines: str = torch.ops.pointloss.build_info()
        return dict(line.split("=", 1) for line in lines.splitlines())
    return dict(_C.build_info())


__version__: str = build_info()["version"]
# Read once: torch.compile cannot look into the extension.
HAS_CUDA = build_info()["cuda"] != ""


def cuda_cure() -> str:
    """What to do about a CUDA tensor in a build without CUDA."""
    return (
        f"this pointloss ({__version__}) was built without CUDA; with an nvcc installed run "
        "`POINTLOSS_CUDA=1 pip install --force-reinstall --no-deps --no-cache-dir "
        "--no-build-isolation .` in its source folder"
    )
