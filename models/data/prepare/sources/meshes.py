# SPDX-License-Identifier: MIT
"""A folder of meshes, one sub-folder per category, in any format that trimesh reads."""

from __future__ import annotations

import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

from models.data.categories import NAMES, SYNSETS
from models.data.prepare.archives import PrepareError
from models.data.prepare.licences import Licence, Terms
from models.data.prepare.mesh import Item

_Z_UP = (1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, -1.0, 0.0)  # z up, front -y -> y up, front +z


def suffixes() -> set[str]:
    """File name endings that are read: trimesh's formats that hold a mesh itself, and AC3D."""
    from trimesh.exchange.load import mesh_formats

    # Archives inside the folder stay closed; the dictionaries are trimesh's own dumps.
    closed = {"zip", "bz2", "gz", "tar.gz", "tar.bz2", "dict", "dict64", "json"}
    return {f".{name}" for name in mesh_formats() - closed} | {".ac", ".acc"}


# Formats of meshes that people have and trimesh does not read (some of them with more packages).
_OTHERS = {
    ".3ds", ".3mf", ".abc", ".blend", ".bz2", ".c4d", ".ctm", ".dae", ".dxf", ".fbx", ".gz",
    ".iges", ".igs", ".lwo", ".ma", ".max", ".mb", ".ms3d", ".skp", ".step", ".stp", ".usd",
    ".usda", ".usdc", ".usdz", ".vrml", ".wrl", ".x3d", ".zip",
}  # fmt: skip


def collect(folder: Path, up: str, author: str, licence: str) -> list[Item]:
    """Items of folder/<category>/**/<mesh>; a sub-folder below the category is one family.

    Links to files and to a category's folder are followed. What cannot be read is named.
    """
    if not folder.is_dir():
        raise PrepareError(f"{folder}: no such folder")
    read = suffixes()
    items, others = [], []
    for home in sorted(path for path in folder.iterdir() if path.is_dir()):
        category = category_name(home.name)
        for path in sorted(p for p in home.rglob("*") if p.is_file()):
            if path.suffix.lower() not in read:
                others += [path] if path.suffix.lower() in _OTHERS else []
                continue
            inside = path.relative_to(home)
            model = _plain(inside.with_suffix("").as_posix())
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
    for suffix, count in sorted(Counter(path.suffix.lower() for path in others).items()):
        first = next(path for path in others if path.suffix.lower() == suffix)
        named = first.relative_to(folder).as_posix()
        print(f"not read: {count} {suffix} (convert to glb or obj): {named} ...", file=sys.stderr)
    if not items:
        raise PrepareError(f"{folder}: expected <category>/<mesh files>, found no mesh")
    return _own_names(items)


def _own_names(items: list[Item]) -> list[Item]:
    """The items; those that would be called alike (a.obj beside a.glb) get their suffix too."""
    alike = defaultdict(list)
    for item in items:
        alike[item.key].append(item)
    result = []
    for same in alike.values():
        if len(same) > 1:
            same = [item._replace(model=_plain(item.path.partition("/")[2])) for item in same]
            print(f"both taken: {', '.join(item.path for item in same)}", file=sys.stderr)
        result += same
    seen: dict[str, Item] = {}
    for item in result:
        if (other := seen.setdefault(item.key, item)) is not item:
            raise PrepareError(
                f"{other.path} and {item.path} would both be called {item.model}; rename one"
            )
    return result


def _plain(name: str) -> str:
    return re.sub(r"[^\w-]", "_", name)


def category_name(folder: str) -> str:
    """Category of a folder: a name or a synset of the 13, else the folder's name made plain."""
    name = folder.lower()
    if name in SYNSETS or name in NAMES:
        return NAMES.get(name, name)
    return _plain(name)
