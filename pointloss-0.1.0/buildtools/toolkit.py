# SPDX-License-Identifier: MIT
"""Find the CUDA toolkit and choose the GPU architectures to build for."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Architectures that one toolkit release can compile, with the first release that has all of them.
# Code for 8.0 runs on 8.6 and 8.9 too. The last entry keeps PTX, so that a GPU newer than the
# toolkit still runs.
_DEFAULT_ARCHS = (
    ((13, 0), "7.5;8.0;9.0;10.0;12.0+PTX"),
    ((12, 8), "7.0;7.5;8.0;9.0;10.0;12.0+PTX"),
    ((12, 0), "7.0;7.5;8.0;9.0+PTX"),
)


OLDEST = (12, 0)  # has the three-input integer minimum that the kernels use


@dataclass(frozen=True)
class Toolkit:
    """A CUDA toolkit: its root folder and its release."""

    home: Path
    version: tuple[int, int]

    @property
    def version_string(self) -> str:
        """The release as text, for example `13.0`."""
        return f"{self.version[0]}.{self.version[1]}"

    @property
    def library_dir(self) -> Path | None:
        """Folder of libcudart_static.a: lib64 in the installer's layout, lib in pip's."""
        for name in ("lib64", "lib", "targets/x86_64-linux/lib"):
            if (self.home / name / "libcudart_static.a").is_file():
                return self.home / name
        return None


def _homes() -> Iterator[Path]:
    """Folders that may be a CUDA toolkit, most explicit first."""
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if value := os.environ.get(variable):
            yield Path(value)
    if nvcc := shutil.which("nvcc"):
        yield Path(nvcc).resolve().parent.parent
    yield Path("/usr/local/cuda")
    for site in sys.path:  # the pip packages of nvcc
        nvidia = Path(site) / "nvidia"
        if nvidia.is_dir():
            yield from sorted(nvidia.glob("cu[0-9]*"), reverse=True)
            yield nvidia / "cuda_nvcc"


def find_toolkit() -> Toolkit | None:
    """The first usable CUDA toolkit (nvcc 12 or later, static runtime beside it), or None.

    An nvcc on PATH may be a wrapper far from its toolkit, so one without a runtime is passed over.
    """
    for home in _homes():
        nvcc = home / "bin" / "nvcc"
        if not nvcc.is_file():
            continue
        answer = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False)
        found = re.search(r"release (\d+)\.(\d+)", answer.stdout)
        if found is None:
            continue
        toolkit = Toolkit(home, (int(found[1]), int(found[2])))
        if toolkit.version >= OLDEST and toolkit.library_dir is not None:
            return toolkit
    return None


def choose_archs(toolkit: Toolkit, visible: list[tuple[int, int]]) -> str:
    """TORCH_CUDA_ARCH_LIST if set, else the visible GPUs, else what the toolkit can compile."""
    if chosen := os.environ.get("TORCH_CUDA_ARCH_LIST"):
        return re.sub(r"[ ,]+", ";", chosen.strip())
    if visible:
        return ";".join(f"{major}.{minor}" for major, minor in sorted(set(visible)))
    return next(archs for first, archs in _DEFAULT_ARCHS if toolkit.version >= first)
