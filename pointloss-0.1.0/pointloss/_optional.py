# SPDX-License-Identifier: MIT
"""Packages that only some of the library needs."""

from __future__ import annotations

import importlib
from types import ModuleType

EXTRA = "compare"  # of pyproject.toml, which holds them all


def need(package: str, purpose: str) -> ModuleType:
    """An optional package, or ImportError with the purpose, the extra and the pip command."""
    try:
        return importlib.import_module(package)
    except ImportError:
        raise ImportError(
            f"{purpose} needs {package}, which comes with the extra {EXTRA}: "
            f"pip install -e '.[{EXTRA}]' in the checkout, or pip install {package}"
        ) from None
