# SPDX-License-Identifier: MIT
"""Build the one wheel of this platform, and check it as a user would meet it.

    python -m buildtools.wheel [--out dist] [--cuda auto|0|1] [--torch REQUIREMENT ...]

1. The sdist, and from the unpacked sdist the wheel: so what is missing from the sdist shows. With
   CUDA code it holds all common architectures (TORCH_CUDA_ARCH_LIST shortens that). Its version
   does not name CUDA: such a wheel serves the CPU too.
2. The wheel gets the oldest manylinux tag that its symbols allow (auditwheel). Torch's libraries
   stay outside: they come with the user's torch.
3. Checks: `twine check`; `torch-abi-audit` (torch's stable ABI and Python's limited API); in a
   fresh environment an install and the self-check `python -m pointloss`. That environment sees the
   torch that runs this script; each --torch (for example torch==2.10.0) adds one with a torch of
   its own, of the interpreter --python.

The tools come with the extra `dev`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
TOOLS = ("build", "auditwheel", "wheel", "twine", "torch-abi-audit")


def is_installed(package: str) -> bool:
    """By its metadata: a folder `build` of the checkout would pass for the module of that name."""
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def call(*command: str | Path, cwd: Path | None = None, **more: str) -> str:
    """Run a command, show it and what it says, and return that; end with its exit status."""
    print("$", *command, flush=True)
    environment = {**os.environ, **more}
    answer = subprocess.run(
        [str(part) for part in command],
        env=environment,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    print(answer.stdout, flush=True)
    if answer.returncode:
        sys.exit(answer.returncode)
    return answer.stdout


def build(work: Path, cuda: str) -> tuple[Path, Path]:
    """The sdist, and the wheel that its unpacked sources make."""
    call(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", work, ROOT)
    (sdist,) = work.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(work, filter="data")
    archs = {} if "TORCH_CUDA_ARCH_LIST" in os.environ else {"CUDA_VISIBLE_DEVICES": ""}
    sources = work / sdist.name.removesuffix(".tar.gz")
    command = ["-m", "build", "--wheel", "--no-isolation", "--outdir", work, sources]
    call(sys.executable, *command, POINTLOSS_CUDA=cuda, **archs)
    (wheel,) = work.glob("*.whl")
    return sdist, wheel


def tag(wheel: Path) -> Path:
    """The wheel under the oldest manylinux tag that its versioned symbols allow."""
    text = call(sys.executable, "-m", "auditwheel", "show", wheel)
    # Torch's libraries keep auditwheel from granting a tag; it still tells what the symbols need.
    found = re.search(r'constrains the platform tag to\s+"(manylinux_\w+)"', text)
    if found is None:
        sys.exit("buildtools.wheel: auditwheel did not tell the manylinux tag")
    command = ["-m", "wheel", "tags", "--remove", "--platform-tag", found[1], wheel]
    name = call(sys.executable, *command).split()[-1]
    return wheel.with_name(name)


def check_contents(wheel: Path) -> None:
    """Any Python, the library of the ops inside, nothing of the user's torch."""
    if "-py3-none-manylinux" not in wheel.name:
        sys.exit(f"buildtools.wheel: {wheel.name} is not tagged for every Python")
    with zipfile.ZipFile(wheel) as archive:
        libraries = [name for name in archive.namelist() if ".so" in name]
    print("libraries:", *libraries)
    if "pointloss/_ops.so" not in libraries or any("torch" in name for name in libraries):
        sys.exit(f"buildtools.wheel: expected pointloss/_ops.so and no torch, got {libraries}")


def check_installed(
    wheel: Path, folder: Path, *, cuda: bool, torch: str | None = None, python: str = sys.executable
) -> None:
    """Install into a fresh environment and run the self-check there, away from the checkout."""
    call(python, "-m", "venv", folder)
    inside = folder / "bin" / "python"
    if torch:
        call(inside, "-m", "pip", "install", "--quiet", torch, "numpy", "scipy")
    else:  # this environment's packages, behind the fresh one's own
        paths = [path for path in sys.path if path.endswith("-packages")]
        (site,) = folder.glob("lib/python*/site-packages")
        (site / "outside.pth").write_text("\n".join(paths))
    call(inside, "-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall", wheel)
    where = "import pointloss; print(pointloss.__file__, bool(pointloss.build_info()['cuda']))"
    told = call(inside, "-c", where, cwd=folder).split()
    if not told[0].startswith(str(folder)) or (cuda and told[1] == "False"):
        sys.exit("buildtools.wheel: another pointloss was imported, or it has no CUDA code")
    call(inside, "-m", "pointloss", cwd=folder)
    if not torch:
        installed = next(folder.glob("lib/python*/site-packages/pointloss"))
        library = installed / "_ops.so"
        audit = Path(sys.executable).with_name("torch-abi-audit")
        call(audit, "--check", "both", "--verbose", library)


def main(argv: Sequence[str] | None = None) -> int:
    """Build, tag, check; the files lie in --out only if all checks pass."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("dist"))
    parser.add_argument("--cuda", choices=("auto", "0", "1"), default="auto")
    parser.add_argument("--torch", action="append", default=[], metavar="REQUIREMENT")
    parser.add_argument("--python", default=sys.executable, help="for the environments of --torch")
    args = parser.parse_args(argv)
    missing = [package for package in TOOLS if not is_installed(package)]
    if missing:
        cure = f"pip install -e '.[dev]', or pip install {' '.join(missing)}"
        sys.exit(f"buildtools.wheel: needs {', '.join(missing)}, of the extra dev: {cure}")
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary).resolve()
        sdist, wheel = build(work, args.cuda)
        wheel = tag(wheel)
        check_contents(wheel)
        call(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel)
        cuda = args.cuda == "1"
        check_installed(wheel, work / "here", cuda=cuda)
        for number, requirement in enumerate(args.torch):
            folder = work / f"torch{number}"
            check_installed(wheel, folder, cuda=cuda, torch=requirement, python=args.python)
        args.out.mkdir(parents=True, exist_ok=True)
        for path in (sdist, wheel):
            (args.out / path.name).write_bytes(path.read_bytes())
            print(f"wrote {args.out / path.name}, {path.stat().st_size / 2**20:.1f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
