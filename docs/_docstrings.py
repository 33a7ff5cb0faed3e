# SPDX-License-Identifier: MIT
"""What mkdocstrings has to be told of this project's docstrings, which it reads without importing.

Named tuples tell their fields by assignments to `Result.field.__doc__`. The examples stand under
"Example:", where griffe looks for "Examples:".
"""

from __future__ import annotations

import ast
import re
from typing import Any

from griffe import Docstring, Extension, Module, Object


class Docstrings(Extension):
    """Completes docstrings between reading and parsing."""

    def on_module_members(self, *, node: Any, mod: Module, **_: Any) -> None:
        """Read `Class.field.__doc__ = "..."` at the top of a module."""
        for line in getattr(node, "body", ()):
            match line:
                case ast.Assign(
                    targets=[
                        ast.Attribute(
                            value=ast.Attribute(value=ast.Name(id=owner), attr=field),
                            attr="__doc__",
                        )
                    ],
                    value=ast.Constant(value=str(text)),
                ):
                    mod[owner][field].docstring = Docstring(text, parent=mod[owner][field])

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Make the examples a section, so that they are shown as code."""
        if obj.docstring:
            obj.docstring.value = re.sub("(?m)^Example:$", "Examples:", obj.docstring.value)
