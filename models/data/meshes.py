# SPDX-License-Identifier: MIT
"""A folder of meshes, one sub-folder a category, in any format that trimesh reads."""

from __future__ import annotations

import re
from pathlib import Path

from models.data.archives import PrepareError
from models.data.categories import NAMES, SYNSETS
from models.data.licences import Licence, Terms
from models.data.mesh import Item

_Z_UP = (1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, -1.0, 0.0)  # z up, front -y -> y up, front +z


def suffixes() -> set[str]:
    """File name endings that are read: trimesh's formats that hold a mesh itself, and AC3D."""
    from trimesh.exchange.load import mesh_formats

    # Archives inside the folder stay closed; the dictionaries are trimesh's own dumps.
    closed = {"zip", "bz2", "gz", "tar.gz", "tar.bz2", "dict", "dict64", "json"}
    return {f".{name}" for name in mesh_formats() - closed} | {".ac", ".acc"}


def collect(folder: Path, up: str, author: str, licence: str) -> list[Item]:
    """Items of folder/<category>/**/<mesh>; a sub-folder below the category is one family."""
    if not folder.is_dir():
        raise PrepareError(f"{folder}: no such folder")
    read = suffixes()
    items = []
    for home in sorted(path for path in folder.iterdir() if path.is_dir()):
        category = category_name(home.name)
        for path in sorted(p for p in home.rglob("*") if p.suffix.lower() in read and p.is_file()):
            inside = path.relative_to(home)
            model = re.sub(r"[^\w-]", "_", inside.with_suffix("").as_posix())
            items.append(
                Item(
                    category=category,
                    model=model,
                    name=path.stem,
                    source={"folder": folder.name, "file": path.relative_to(folder).as_posix()},
                    container=folder,
                    path=path.relative_to(folder).as_posix(),
                    family=f"{category}/{inside.parent if len(inside.parts) > 1 else model}",
                    rotation=_Z_UP if up == "z" else None,
                    terms=Terms(Licence(licence, ""), author),
                )
            )
    if not items:
        raise PrepareError(f"{folder}: expected <category>/<mesh files>, found no mesh")
    twice = {item.key for item in items if sum(other.key == item.key for other in items) > 1}
    if twice:
        raise PrepareError(f"{folder}: two meshes would both be called {min(twice)}")
    return items


def category_name(folder: str) -> str:
    """Category of a folder: a name or a synset of the 13, else the folder's name made plain."""
    name = folder.lower()
    if name in SYNSETS or name in NAMES:
        return NAMES.get(name, name)
    return re.sub(r"[^\w-]", "_", name)
