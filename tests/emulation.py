# SPDX-License-Identifier: MIT
"""Programs that run CUDA device code on a CPU: see tests/emulator."""

import shutil
import subprocess
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
# What the emulator has in place of instructions that only a GPU has.
REPLACED = {
    "cluster.cuh": "shared/cluster.cuh",
    "launch.cuh": "shared/launch.cuh",
    "assign_instructions.cuh": "assign/instructions.cuh",
}


def compiled(folder: Path, name: str) -> Path:
    """The program tests/emulator/<name>.cpp, whose memory AddressSanitizer watches; or a skip."""
    source = folder / "tests" / "emulator"
    shutil.copytree(TESTS.parent / "csrc", folder / "csrc")
    shutil.copytree(TESTS / "emulator", source)
    for ours, theirs in REPLACED.items():
        shutil.copy(source / ours, folder / "csrc" / "cuda" / theirs)
    # The stacks of its threads are not for a sanitizer to follow.
    command = ["g++", "-std=c++20", "-O1", "-g1", "-fsanitize=address", "--param", "asan-stack=0"]
    (folder / "empty.cpp").write_text("int main() {}")
    try:
        subprocess.run([*command, "empty.cpp", "-o", "empty"], cwd=folder, check=True)
    except (OSError, subprocess.CalledProcessError):
        # Some systems have another compiler, or its library apart; .ci/run asks for both.
        pytest.skip("needs g++ with AddressSanitizer")
    subprocess.run([*command, "-I.", f"{name}.cpp", "-o", name], cwd=source, check=True)
    return source / name


def output(program: Path, numbers, arrays) -> bytes:
    """What the program writes, given numbers on its command line and arrays as its input."""
    done = subprocess.run(
        [program, *(repr(number + 0) for number in numbers)],
        input=b"".join(array.tobytes() for array in arrays),
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    return done.stdout
