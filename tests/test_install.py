# SPDX-License-Identifier: MIT
"""The build's decisions, the doctor, and what a newcomer meets first."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pointloss
from pointloss import cli

ROOT = Path(__file__).parent.parent


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "buildtools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def toolkit():
    return load("toolkit")


@pytest.fixture
def fake_cuda(tmp_path):
    """A folder that looks like a CUDA toolkit."""
    (tmp_path / "bin").mkdir()
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 12.4, V12.4.1'\n")
    nvcc.chmod(0o755)
    (tmp_path / "lib64").mkdir()
    (tmp_path / "lib64" / "libcudart_static.a").touch()
    return tmp_path


@pytest.mark.parametrize("variable", ["CUDA_HOME", "CUDA_PATH"])
def test_toolkit_is_found(toolkit, fake_cuda, variable, monkeypatch):
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.setenv(variable, str(fake_cuda))
    found = toolkit.find_toolkit()
    assert found.home == fake_cuda
    assert found.version_string == "12.4"


def test_a_toolkit_without_runtime_is_passed_over(toolkit, fake_cuda, monkeypatch):
    (fake_cuda / "lib64" / "libcudart_static.a").unlink()
    monkeypatch.setenv("CUDA_HOME", str(fake_cuda))
    found = toolkit.find_toolkit()
    assert found is None or found.home != fake_cuda


def test_a_toolkit_that_is_too_old_is_passed_over(toolkit, fake_cuda, monkeypatch):
    nvcc = fake_cuda / "bin" / "nvcc"
    nvcc.write_text(nvcc.read_text().replace("12.4", "11.8"))
    monkeypatch.setenv("CUDA_HOME", str(fake_cuda))
    found = toolkit.find_toolkit()
    assert found is None or found.home != fake_cuda


def test_the_pip_packages_of_nvcc_are_looked_at(toolkit, tmp_path, monkeypatch):
    (tmp_path / "nvidia" / "cu13" / "bin").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path)
    assert tmp_path / "nvidia" / "cu13" in list(toolkit._homes())


def test_architectures(toolkit, monkeypatch):
    thirteen = toolkit.Toolkit(Path(), (13, 0))
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    assert toolkit.choose_archs(thirteen, [(9, 0), (8, 0), (9, 0)]) == "8.0;9.0"
    assert toolkit.choose_archs(thirteen, []).endswith("+PTX")
    assert "7.0" in toolkit.choose_archs(toolkit.Toolkit(Path(), (12, 8)), [])
    assert "10.0" not in toolkit.choose_archs(toolkit.Toolkit(Path(), (12, 4)), [])
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.6 9.0+PTX")
    assert toolkit.choose_archs(thirteen, [(8, 0)]) == "8.6;9.0+PTX"


def test_backend_asks_for_torch_only_where_there_is_none(monkeypatch, tmp_path):
    backend = load("backend")
    assert backend.get_requires_for_build_wheel() == []
    monkeypatch.setattr(backend.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(backend, "_site_candidates", lambda: iter([str(tmp_path)]))
    assert backend.get_requires_for_build_editable() == ["torch>=2.10"]
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "version.py").touch()
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert backend.get_requires_for_build_wheel() == []
    assert sys.path[-1] == str(tmp_path)


def setup(tmp_path, **environment):
    """Run setup.py far enough to make its decisions, without compiling."""
    return subprocess.run(
        [sys.executable, "setup.py", "--version"],
        cwd=ROOT,
        env={**os.environ, "PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
    )


def test_wishes_that_cannot_be_met_are_errors(tmp_path):
    answer = setup(tmp_path, POINTLOSS_CUDA="yes")
    assert answer.returncode != 0
    assert "POINTLOSS_CUDA must be auto, 0 or 1, got 'yes'" in answer.stderr


def test_a_missing_compiler_is_one_sentence(tmp_path):
    answer = setup(tmp_path, POINTLOSS_CUDA="0", CXX="no-such-compiler -O1")
    assert answer.returncode != 0
    assert answer.stderr.startswith(
        "pointloss: building needs a C++17 compiler, and there is no 'no"
    )


def test_flavour_shows_in_the_version(tmp_path, fake_cuda):
    assert setup(tmp_path, POINTLOSS_CUDA="0").stdout.endswith("0.1.0+cpu\n")
    answer = setup(tmp_path, POINTLOSS_CUDA="1", CUDA_HOME=str(fake_cuda))
    assert answer.stdout.endswith("0.1.0+cu124\n")


def test_a_folder_without_the_compiled_part_says_what_to_do(tmp_path):
    (tmp_path / "pointloss").mkdir()
    for name in ("__init__.py", "_extension.py"):
        (tmp_path / "pointloss" / name).write_text((ROOT / "pointloss" / name).read_text())
    # An editable install's import hook would serve the compiled part of another folder.
    code = (
        "import sys; "
        "sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]; "
        "import pointloss"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=environment
    )
    assert answer.returncode == 1
    assert answer.stderr.splitlines()[-1] == (
        "ImportError: pointloss: the compiled part is missing from this folder; run "
        "`pip install -e .` here, or start Python elsewhere to use an installed pointloss"
    )


def test_an_editable_install_imports_beside_its_checkout(tmp_path):
    """The checkout's folder is called pointloss too, and is no package."""
    checkout, site = tmp_path / "pointloss", tmp_path / "site"
    for package in (ROOT / "pointloss").rglob("__init__.py"):  # without the compiled part
        copy = checkout / package.relative_to(ROOT)
        copy.parent.mkdir(parents=True)
        copy.write_text("chamfer = 1")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    shutil.copytree(ROOT / "buildtools", checkout / "buildtools")
    (checkout / "setup.py").write_text("import setuptools; setuptools.setup(version='1')")
    build = "import sys; from buildtools import backend; "
    build += "print(backend.build_editable(sys.argv[1]))"
    pipes = {"capture_output": True, "text": True}
    wheel = subprocess.run([sys.executable, "-c", build, str(site)], cwd=checkout, **pipes)
    shutil.unpack_archive(site / wheel.stdout.splitlines()[-1], site, "zip")
    script = tmp_path / "script.py"
    script.write_text(f"import site; site.addsitedir({str(site)!r}); from pointloss import chamfer")
    # Without the hooks of another install.
    alone = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    answer = subprocess.run([sys.executable, "-S", str(script)], env=alone, **pipes)
    assert answer.stderr == ""


def test_doctor_says_ok(capsys):
    assert cli.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "OK"
    assert any(line.startswith("cpu assign: ok") for line in lines)
    if torch.cuda.is_available():
        assert "cuda:0 emd backward: ok" in lines


@pytest.mark.parametrize(
    ("built", "words"), [(None, "a CPU build"), ("13.0", "built for CUDA 13.0")]
)
def test_doctor_says_which_torch_sees_no_gpu(built, words, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built)
    assert cli._gpu_problems({"cuda": ""}) == []
    expected = f"GPU: none that this torch can use; this torch is {words}\n"
    assert capsys.readouterr().out == expected


def test_doctor_names_what_is_wrong(capsys, monkeypatch):
    monkeypatch.setattr(cli, "_nearest_agrees", lambda *unused: False)
    assert cli.main(["info"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "FAILED"
    assert any("PROBLEM nearest on cpu: disagrees with the reference" in line for line in lines)


def test_module_runs():
    answer = subprocess.run([sys.executable, "-m", "pointloss"], capture_output=True, text=True)
    assert answer.returncode == 0
    assert answer.stdout.endswith("OK\n")


@pytest.mark.parametrize(
    ("capability", "archs", "covered"),
    [
        ((9, 0), "9.0", True),
        ((8, 6), "8.0", True),
        ((8, 0), "8.6", False),
        ((12, 0), "9.0", False),
        ((12, 1), "8.0,9.0+PTX", True),
        ((7, 5), "8.0+PTX", False),
        ((9, 0), "9.0a", True),
        ((9, 0), "", False),
    ],
)
def test_arch_covered(capability, archs, covered):
    assert cli.arch_covered(capability, archs) is covered


def test_cuda_tensor_in_a_build_without_cuda(monkeypatch):
    from pointloss import _checks

    monkeypatch.setattr(_checks, "HAS_CUDA", False)
    x = torch.empty(1, 2, 3, device="meta")
    monkeypatch.setattr(torch.Tensor, "device", torch.device("cuda"), raising=False)
    with pytest.raises(RuntimeError, match="nearest: this pointloss .* was built without CUDA"):
        pointloss.nearest(x, x)


def test_build_info():
    info = pointloss.build_info()
    assert info["version"] == pointloss.__version__
    assert info["cpu_in_use"] in info["cpu_variants"]


def test_build_info_of_a_wheel_for_another_python(monkeypatch):
    """One wheel serves all versions of Python; the pybind11 module is of the one that built it."""
    told = pointloss.build_info()
    monkeypatch.delattr(pointloss, "_C", raising=False)
    monkeypatch.setitem(sys.modules, "pointloss._C", None)
    assert pointloss.build_info() == told


def test_the_ops_ask_nothing_of_one_python():
    """Nor anything of an interpreter that is not there: all of its functions are weak."""
    library = Path(pointloss.__file__).with_name("_ops.so")
    command = ["nm", "--dynamic", "--undefined-only", library]
    symbols = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    python = re.findall(r"([Uw]) _?Py(\w+)", symbols)
    assert python
    assert {kind for kind, _ in python} == {"w"}
    needed = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True)
    assert not re.search("python|pybind", needed.stdout)
