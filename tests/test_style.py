# SPDX-License-Identifier: MIT
"""The rules of the house that a linter does not know."""

import doctest
import importlib
import inspect
import re
from pathlib import Path

import pytest
import torch

import pointloss

ROOT = Path(__file__).parent.parent
PUBLIC = [n for n in pointloss.__all__ if not n.startswith("__")]


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_documented_and_tested(name):
    assert inspect.getdoc(getattr(pointloss, name))
    if hasattr(getattr(pointloss, name), "_fields"):
        return  # a result type is tested with the function that returns it
    tests = "".join(p.read_text() for p in (ROOT / "tests").glob("test_*.py"))
    assert re.search(rf"\b{name}\b", tests)


RESULTS = [n for n in PUBLIC if hasattr(getattr(pointloss, n), "_fields")]


@pytest.mark.parametrize("name", RESULTS)
def test_fields_of_results_are_documented(name):
    """What help() shows, in place of namedtuple's "Alias for field number 0"."""
    result = getattr(pointloss, name)
    for field in result._fields:
        text = getattr(result, field).__doc__
        assert text.endswith(".")
        assert not text.startswith("Alias")


FUNCTIONS = [n for n in PUBLIC if inspect.isfunction(getattr(pointloss, n)) and n != "build_info"]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_functions_tell_their_contract(name):
    text = inspect.getdoc(getattr(pointloss, name))
    assert all(f"{p}:" in text for p in inspect.signature(getattr(pointloss, name)).parameters)
    for part in ("Args:", "Returns:", "Raises:", "Determinism:", "Example:"):
        assert part in text


MODULES = sorted(
    ".".join(p.relative_to(ROOT).with_suffix("").parts)
    for folder in ("ops", "geometry", "losses", "metrics")
    for p in (ROOT / "pointloss" / folder).glob("[a-z]*.py")
)


@pytest.mark.parametrize("module", MODULES)
def test_examples_run(module):
    result = doctest.testmod(importlib.import_module(module), extraglobs={"torch": torch})
    assert result.attempted > 0
    assert result.failed == 0


def test_only_ops_call_the_dispatcher():
    for path in (ROOT / "pointloss").rglob("*.py"):
        if path.parent.name != "ops" and path.name != "_extension.py":  # which loads them
            assert "torch.ops.pointloss" not in path.read_text(), path


def test_tests_share_by_modules_and_not_from_one_another():
    for path in (ROOT / "tests").glob("*.py"):
        assert not re.search(r"^(from|import) (tests\.)?test_", path.read_text(), re.MULTILINE), (
            path
        )


def test_device_code_stays_in_its_room():
    """A file of csrc includes csrc/common, its device's shared tools, and its own room below that.

    The entries csrc/<device>/<op>.* open the rooms; csrc/cuda/shared opens none.
    """
    sources = ROOT / "csrc"
    for path in sources.rglob("*"):
        if path.suffix not in {".cpp", ".cu", ".h", ".cuh"}:
            continue
        device, *rooms = path.relative_to(sources).parent.parts or ("",)
        for included in re.findall(r'#include "(.*)"', path.read_text()):
            target = (path.parent / included).resolve().relative_to(sources)
            assert (sources / target).is_file(), (path, included)
            home, *inner = target.parent.parts or ("",)
            entry = path.suffix in {".cpp", ".cu"} or not rooms
            own = inner[:1] in ([], ["shared"], rooms[:1]) or entry
            assert home == "common" or (home == device and own), (path, included)


def test_no_bar_is_drawn_into_a_log_file():
    """Each tqdm says `disable`: None leaves it out where stderr is no terminal."""
    for folder in ("pointloss", "models", "benchmarks", "examples"):
        for path in (ROOT / folder).rglob("*.py"):
            calls = re.findall(r"\btqdm\((?:[^()]|\([^()]*\))*\)", path.read_text())
            assert all("disable=" in call for call in calls), path


def test_readme_lines_of_library_use_run():
    """The README's python block is a program that runs as it stands."""
    block = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    exec(compile(block[1], "README.md", "exec"), {})


def test_the_citation_has_the_version():
    told = re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert f'VERSION = "{told[1]}"' in (ROOT / "setup.py").read_text()
