# SPDX-License-Identifier: MIT
"""The written record of a set: manifest.json and CREDITS.md."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from models import files

FORMAT = 2  # raised when the meaning of a written file changes
CAMERAS = (
    "azimuth elevation inplane distance/1.75 25, as 3D-R2N2: degrees, object units; lens 35/32"
)


def write_json(path: Path, content: Any) -> None:
    """Indented, key order kept, replaced in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_manifest(root: Path) -> dict[str, Any]:
    """The content of the set's manifest.json; empty if there is none, as in ShapeNet's download.

    Raises:
        ValueError: it is not JSON, or no JSON object.
    """
    path = root / "manifest.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def is_plain(name: Any) -> bool:
    """Whether `name` may become a part of a path: letters, digits, "_" and "-" alone."""
    return isinstance(name, str) and re.fullmatch(r"[\w-]+", name) is not None


def credits_text(records: list[dict[str, Any]]) -> str:
    """CREDITS.md: one line per object, grouped by licence, as CC BY asks for it."""
    lines = [
        "# Credits",
        "",
        "Made from `manifest.json` by `python -m models.data.prepare`. Every image and point cloud",
        "here is derived from the 3-D model named below: scaled to a unit box, drawn with flat",
        "colours, sampled at random. Furniture of Sweet Home 3D's libraries was converted to OBJ",
        "by Emmanuel Puybaret / eTeks; the licence of each model is its author's.",
    ]
    for licence, url in sorted({(r["licence"], r["licence_url"]) for r in records}):
        chosen = [r for r in records if r["licence"] == licence]
        lines += ["", f"## {licence} ({len(chosen)} objects)", ""] + [f"<{url}>", ""] * bool(url)
        lines += ["| object | model | author | source |", "|---|---|---|---|"]
        for r in sorted(chosen, key=lambda r: (r["author"].lower(), r["synset"], r["model"])):
            title = f"{r['name']} (“{r['title']}”)" if r["title"] else r["name"]
            title += f", <{r['url']}>" if r["url"] else ""
            source = r["source"].get("library") or r["source"]["file"]
            if "package" in r["source"]:
                source = f"{r['source']['package']} {r['source']['version']}, {source}"
            row = [f"{r['synset']}/{r['model']}", title, r["author"], source]
            lines.append("| " + " | ".join(word.replace("|", "\\|") for word in row) + " |")
    return "\n".join(lines) + "\n"
