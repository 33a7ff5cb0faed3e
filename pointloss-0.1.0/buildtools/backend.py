# SPDX-License-Identifier: MIT
"""PEP 517 backend: setuptools, built against the torch that the environment already has.

A build front end puts the build into an isolated environment, where an ordinary
`requires = ["torch"]` downloads a second, different torch of several GB and links against that
one. This backend looks for the torch of the *target* environment first and asks for a download
only where there is none. Everything else is setuptools.build_meta, unchanged.
"""

from __future__ import annotations

import glob
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterator
from typing import Any

from setuptools import build_meta as _setuptools

TORCH_REQUIREMENT = "torch>=2.10"


def _site_candidates() -> Iterator[str]:
    """Folders where the target environment may keep its packages, most explicit first."""
    if explicit := os.environ.get("POINTLOSS_TORCH_SITE"):
        yield explicit
    # pip runs the hooks with the target's own interpreter, so its prefix is still the target's.
    yield sysconfig.get_path("platlib")
    yield sysconfig.get_path("purelib")
    # uv replaces the prefix; an activated environment is still first on PATH.
    # Only that one: a torch further down belongs to somebody else.
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        if os.path.exists(os.path.join(folder, "python")):
            yield from glob.glob(os.path.join(folder, "..", "lib", python, "site-packages"))
            break
    yield from glob.glob(os.path.join(os.getcwd(), ".venv", "lib", python, "site-packages"))


def _use_installed_torch() -> bool:
    """Make the target environment's torch importable here; False where there is none."""
    if importlib.util.find_spec("torch") is not None:
        return True
    for site in _site_candidates():
        if os.path.isfile(os.path.join(site, "torch", "version.py")):
            # Appended, never prepended: the build environment's own setuptools goes first.
            sys.path.append(os.path.abspath(site))
            importlib.invalidate_caches()
            return True
    return False


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    """What an isolated build must install: torch, and only where the target has none."""
    return [] if _use_installed_torch() else [TORCH_REQUIREMENT]


def get_requires_for_build_sdist(config_settings: Any = None) -> list[str]:
    """Packing the sources compiles nothing."""
    return []


def prepare_metadata_for_build_wheel(
    metadata_directory: str, config_settings: Any = None, **kwargs: Any
) -> str:
    """Metadata of the wheel; its version names the torch flavour, so torch is needed here too."""
    _use_installed_torch()
    return _setuptools.prepare_metadata_for_build_wheel(
        metadata_directory, config_settings, **kwargs
    )


def build_wheel(
    wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None
) -> str:
    """Build a wheel against the target environment's torch."""
    _use_installed_torch()
    return _setuptools.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(
    wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None
) -> str:
    """Build in place against the target environment's torch."""
    _use_installed_torch()
    return _setuptools.build_editable(wheel_directory, config_settings, metadata_directory)


def build_sdist(sdist_directory: str, config_settings: Any = None) -> str:
    """Pack the sources."""
    return _setuptools.build_sdist(sdist_directory, config_settings)


get_requires_for_build_editable = get_requires_for_build_wheel
prepare_metadata_for_build_editable = prepare_metadata_for_build_wheel
