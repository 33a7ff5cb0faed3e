# SPDX-License-Identifier: MIT
"""Packages that only some of the library needs."""

from __future__ import annotations

import importlib
from types import ModuleType


def need(package: str, purpose: str) -> ModuleType:
    """An optional package, or ImportError with the purpose and the pip command."""
    try:
        return importlib.import_module(package)
    except ImportError:
        raise ImportError(f"{purpose} needs {package}: pip install {package}") from None
