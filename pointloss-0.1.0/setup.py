# SPDX-License-Identifier: MIT
"""The compiled part; everything else about the package is in pyproject.toml.

pointloss/_ops.so holds the ops. It uses torch's stable ABI and of Python only the limited API, so
one file runs on every Python from 3.10 and every torch from TORCH_TARGET on, and the wheel is
tagged so. pointloss/_C is a small pybind11 module for build_info, of the Python that built it;
others do without.

Environment: POINTLOSS_CUDA=auto|0|1, TORCH_CUDA_ARCH_LIST, MAX_JOBS, CUDA_HOME; docs/install.md
tells of each.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import zlib
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT))
from buildtools.toolkit import Toolkit, choose_archs, find_toolkit  # noqa: E402

VERSION = "0.1.0"
# The oldest torch whose stable ABI the extension may use: one build runs on it and all later ones.
TORCH_TARGET = "0x020a000000000000"
OPS = "pointloss._ops"


def cuda_toolkit(torch_cuda: str | None) -> Toolkit | None:
    """The toolkit to build CUDA code with, or None for a build without it."""
    wish = os.environ.get("POINTLOSS_CUDA", "auto")
    if wish not in {"auto", "0", "1"}:
        sys.exit(f"pointloss: POINTLOSS_CUDA must be auto, 0 or 1, got {wish!r}")
    if wish == "0" or (wish == "auto" and torch_cuda is None):
        return None
    toolkit = find_toolkit()
    if toolkit is None and wish == "1":
        sys.exit(
            "pointloss: POINTLOSS_CUDA=1, but no nvcc >= 12 with its static runtime in CUDA_HOME, "
            "CUDA_PATH, PATH, /usr/local/cuda or site-packages; install a CUDA toolkit, or "
            "pip install nvidia-cuda-nvcc nvidia-cuda-runtime nvidia-cuda-cccl nvidia-nvvm "
            "nvidia-cuda-crt, and set CUDA_HOME if it lies elsewhere"
        )
    return toolkit


def check_compiler() -> None:
    """One sentence, where a failed build would print pages."""
    compiler = shlex.split(os.environ.get("CXX", "c++"))[0]
    if shutil.which(compiler) is None:
        sys.exit(
            f"pointloss: building needs a C++17 compiler, and there is no {compiler!r}; "
            "install one (Debian, Ubuntu: apt install g++), or set CXX"
        )


def local_version(toolkit: Toolkit | None) -> str:
    """VERSION with the build flavour, so that pip's last line shows what was built.

    An unpacked sdist keeps the plain version, because pip holds a wheel against its sdist's name.
    """
    if (ROOT / "PKG-INFO").is_file():
        return VERSION
    return VERSION + ("+cu" + toolkit.version_string.replace(".", "") if toolkit else "+cpu")


def make_extensions(toolkit: Toolkit | None, version: str):
    """The library of the ops, and the pybind11 module of build_info."""
    import torch
    from torch.utils import cpp_extension

    sources = ["csrc/bindings.cpp", *map(str, sorted(Path("csrc/cpu").glob("*.cpp")))]
    facts = [f"-DPOINTLOSS_VERSION={version}", f"-DPOINTLOSS_TORCH={torch.__version__}"]
    common = ["-O3", f"-DTORCH_TARGET_VERSION={TORCH_TARGET}", "-DTORCH_STABLE_ONLY"]
    nvcc, nvcc_link = [], []
    if toolkit:
        visible = [torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())]
        archs = choose_archs(toolkit, visible)
        os.environ["TORCH_CUDA_ARCH_LIST"] = archs
        sources += map(str, sorted(Path("csrc/cuda").glob("*.cu")))
        facts += ["-DPOINTLOSS_WITH_CUDA", f"-DPOINTLOSS_CUDA_TOOLKIT={toolkit.version_string}"]
        facts += [f"-DPOINTLOSS_CUDA_ARCHS={archs.replace(';', ',')}"]
        # The architectures of a source side by side: each of assign.cu takes a minute.
        nvcc = [*common, "-Xcompiler", "-fvisibility=hidden", "--threads=4"]
        if toolkit.version >= (12, 8):
            nvcc += ["--compress-mode=size"]
        if torch.version.cuda is None:
            # A CPU-only torch lets ninja watch no header of a .cu file; a changed flag rebuilds it.
            headers = sorted(Path("csrc").rglob("*.*h"))
            nvcc += [f"-DPOINTLOSS_HEADERS={zlib.crc32(b''.join(h.read_bytes() for h in headers))}"]
        # Static cudart: the torch beside it may bring another CUDA major version, or none.
        nvcc_link = [f"-L{toolkit.library_dir}", "-lcudart_static", "-lrt", "-ldl", "-lpthread"]
        # torch looks for nvcc only in its CUDA builds, and insists on its own CUDA version;
        # the stable ABI and the static runtime need neither.
        cpp_extension.CUDA_HOME = str(toolkit.home)
        cpp_extension._check_cuda_version = lambda *unused: None
    # Contraction off: where a distance uses fma it says so, and CPU and CUDA agree bit for bit.
    cxx = [*common, *facts, "-ffp-contract=off", "-fvisibility=hidden", "-Wall"]
    # libtorch must stay in the needed list: the op registration has no other tie to it.
    link = ["-Wl,--no-as-needed", "-ltorch", "-Wl,--as-needed", "-Wl,--exclude-libs,ALL"]
    ops = cpp_extension.CppExtension(
        OPS,
        sources,
        extra_compile_args={"cxx": cxx, "nvcc": nvcc},
        extra_link_args=link + nvcc_link,
        py_limited_api=True,  # and without libtorch_python
    )
    module = Extension(
        "pointloss._C",
        ["csrc/build_info.cpp"],
        include_dirs=pybind11_include(),
        extra_compile_args=[*facts, "-fvisibility=hidden", "-Wall", "-std=c++17"],
    )
    return [ops, module]


def pybind11_include() -> list[str]:
    """pybind11's own headers where it is installed; otherwise torch's include folder has a copy."""
    try:
        import pybind11
    except ImportError:
        from torch.utils import cpp_extension

        return cpp_extension.include_paths()
    return [pybind11.get_include()]


class OneWheel(bdist_wheel):
    """Tags the wheel for any Python 3 of this platform; requires-python says from which on."""

    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


if "sdist" in sys.argv:
    setup(version=VERSION)
else:
    try:
        import torch
        from torch.utils.cpp_extension import BuildExtension
    except ImportError as error:
        sys.exit(f"pointloss: building needs torch >= 2.10 in this environment ({error})")
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 10):
        sys.exit(f"pointloss: needs torch >= 2.10, found {torch.__version__}; upgrade torch first")

    class Build(BuildExtension):
        """torch's, with a plain name for the library that is no Python module."""

        def get_ext_filename(self, ext_name):
            if ext_name in {OPS, OPS.rpartition(".")[2]}:
                return ext_name.replace(".", os.sep) + ".so"
            return super().get_ext_filename(ext_name)

        def build_extension(self, ext):
            """In a folder of its own: ninja forgets there what its last file does not name."""
            everything = self.build_temp
            self.build_temp = os.path.join(everything, ext.name)
            super().build_extension(ext)
            self.build_temp = everything

    check_compiler()
    found = cuda_toolkit(torch.version.cuda)
    flavour = local_version(found)
    print(f"pointloss {flavour}: torch {torch.__version__}, CUDA toolkit {found or 'not used'}")
    setup(
        version=flavour,
        ext_modules=make_extensions(found, flavour),
        cmdclass={"build_ext": Build, "bdist_wheel": OneWheel},
        # setuptools compares only dates of sources; ninja knows headers and flags, so it decides.
        options={"build_ext": {"force": True}},
    )
