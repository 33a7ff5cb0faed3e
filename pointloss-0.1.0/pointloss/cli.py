# SPDX-License-Identifier: MIT
"""The command line: what is installed and whether it works here (info), two clouds (compare)."""

from __future__ import annotations

import argparse
import ctypes
import platform
from collections.abc import Callable

import torch

from pointloss import _extension, assign, chamfer, emd, f_score, nearest, reference
from pointloss.compare import command


def main(argv: list[str] | None = None) -> int:
    """Run the command line; 0 if everything works, 1 if something is wrong, 2 for bad usage."""
    parser = argparse.ArgumentParser(prog="pointloss", description=__doc__)
    commands = parser.add_subparsers(dest="command", metavar="info | compare")
    commands.add_parser("info", help="versions, GPUs and a self-check of every op (the default)")
    about = "distances between two clouds or meshes, or between two folders of them"
    compare = commands.add_parser("compare", help=about, description=about)
    command.add_arguments(compare)
    args = parser.parse_args(argv)
    return command.run(args) if args.command == "compare" else info()


def info() -> int:
    """Print the report; the last line is OK, or FAILED with the cures above it."""
    build = _extension.build_info()
    cuda = f"CUDA {build['cuda']} for {build['cuda_archs']}" if build["cuda"] else "no CUDA"
    print(f"pointloss {build['version']}")
    print(f"  built with torch {build['torch']}, compiler {build['compiler']}, {cuda}")
    print(f"  CPU kernels: {build['cpu_variants']}; this CPU runs {build['cpu_in_use']}")
    print(f"Python {platform.python_version()}, torch {torch.__version__}")
    problems = _gpu_problems(build)
    devices = ["cpu"]
    if build["cuda"]:
        devices += [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    for device in devices:
        problems += _self_check(device)
    for problem in problems:
        print(f"PROBLEM {problem}")
    print("FAILED" if problems else "OK")
    return 1 if problems else 0


def _gpu_problems(build: dict[str, str]) -> list[str]:
    """List the GPUs and say what keeps the build from using them."""
    if not torch.cuda.is_available():
        of = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "a CPU build"
        print(f"GPU: none that this torch can use; this torch is {of}")
        return []
    problems = []
    driver = _driver_version()
    print(f"driver: CUDA {driver // 1000}.{driver % 1000 // 10}")
    if build["cuda"] and driver // 1000 < int(build["cuda"].split(".")[0]):
        problems.append(
            f"the driver supports CUDA {driver // 1000}, pointloss was built with {build['cuda']}: "
            "update the driver, or rebuild with an older toolkit (CUDA_HOME)"
        )
    for i in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(i)
        covered = arch_covered((major, minor), build["cuda_archs"])
        state = "covered" if covered else "NOT covered"
        print(
            f"GPU {i}: {torch.cuda.get_device_name(i)}, compute capability {major}.{minor}, {state}"
        )
        if build["cuda"] and not covered:
            problems.append(
                f"GPU {i} needs code for {major}.{minor}: TORCH_CUDA_ARCH_LIST={major}.{minor} "
                "pip install --force-reinstall --no-deps --no-cache-dir --no-build-isolation ."
            )
    if not build["cuda"]:
        problems.append(_extension.cuda_cure())
    return problems


def _driver_version() -> int:
    """Newest CUDA that the driver runs, as 1000 * major + 10 * minor; torch does not tell."""
    version = ctypes.c_int(0)
    ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    return version.value


def arch_covered(capability: tuple[int, int], archs: str) -> bool:
    """Whether code for `archs` ("8.0,9.0+PTX") runs on a GPU of this compute capability.

    Machine code runs on its own major version from its minor version on; PTX on anything later.
    """
    for arch in filter(None, archs.split(",")):
        number, _, ptx = arch.partition("+")
        major, minor = (int(part.rstrip("af")) for part in number.split("."))
        if (major == capability[0] and minor <= capability[1]) or (
            ptx and (major, minor) <= capability
        ):
            return True
    return False


def _self_check(device: str) -> list[str]:
    """Every op against the reference on one device, forward and backward."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 33, 3, generator=generator)
    y = torch.rand(2, 40, 3, generator=generator)
    checks: dict[str, Callable[[], bool]] = {
        "nearest": lambda: _nearest_agrees(x, y, device),
        "nearest backward": lambda: _backward_works(
            lambda a, b: nearest(a, b).dist.mean(), x, y, device
        ),
        "assign": lambda: _assign_agrees(x, y, device),
        "chamfer": lambda: _close(
            chamfer(x.to(device), y.to(device), batch_reduction="none"), reference.chamfer(x, y)
        ),
        "chamfer backward": lambda: _backward_works(chamfer, x, y, device),
        "emd": lambda: _within(
            emd(x.to(device), y.to(device), batch_reduction="none"), reference.optimal_cost(x, y)
        ),
        "emd backward": lambda: _backward_works(emd, x, y, device),
        "f_score": lambda: _close(
            f_score(x.to(device), y.to(device), 0.1).f_score, reference.f_score(x, y, 0.1)
        ),
    }
    problems = []
    for name, check in checks.items():
        try:
            problem = "" if check() else "disagrees with the reference"
        except (RuntimeError, ValueError) as error:  # ValueError: not one-to-one
            problem = str(error).splitlines()[0]
        print(f"{device} {name}: {problem or 'ok'}")
        if problem:
            problems.append(f"{name} on {device}: {problem}; please report it with this output")
    return problems


def _close(value: torch.Tensor, expected: torch.Tensor) -> bool:
    return torch.allclose(value.double().cpu(), expected, rtol=1e-5, atol=1e-7)


def _within(cost: torch.Tensor, optimum: torch.Tensor) -> bool:
    cost = cost.double().cpu()
    return bool(((cost >= optimum * (1 - 1e-6)) & (cost <= optimum * (1.01 + 1e-6))).all())


def _nearest_agrees(x: torch.Tensor, y: torch.Tensor, device: str) -> bool:
    found, expected = nearest(x.to(device), y.to(device)), reference.nearest(x, y)
    return _close(found.dist, expected.dist) and torch.equal(found.idx.cpu(), expected.idx)


def _assign_agrees(x: torch.Tensor, y: torch.Tensor, device: str) -> bool:
    found = assign(x.to(device), y.to(device), rtol=1e-3)
    cost = reference.matching_cost(x, y, found.idx)  # raises unless it is one-to-one
    true_gap = 1 - reference.optimal_cost(x, y) / cost
    gap = found.gap.cpu()
    return bool(_close(found.cost, cost) and ((gap <= 1e-3) & (gap >= true_gap)).all())


def _backward_works(
    loss: Callable[..., torch.Tensor], x: torch.Tensor, y: torch.Tensor, device: str
) -> bool:
    """A small step against the gradient of both clouds lowers the loss."""
    a, b = (t.to(device).requires_grad_() for t in (x, y))
    before = loss(a, b)
    grad_a, grad_b = torch.autograd.grad(before, (a, b))
    with torch.no_grad():
        after = loss(a - 0.1 * grad_a, b - 0.1 * grad_b)
    return bool(after < before)
