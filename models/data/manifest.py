# SPDX-License-Identifier: MIT
"""The written record of a set: manifest.json and CREDITS.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FORMAT = 1  # raised when the meaning of a written file changes


def write_json(path: Path, content: Any) -> None:
    """Indented, key order kept, replaced in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)


def credits_text(records: list[dict[str, Any]]) -> str:
    """CREDITS.md: one line per object, grouped by licence, as CC BY asks for it."""
    lines = [
        "# Credits",
        "",
        "Made from `manifest.json` by `python -m models.data.prepare`. Every image and point cloud",
        "here is derived from the 3-D model named below: scaled to a unit box, drawn with flat",
        "colours, sampled at random. The models were converted to OBJ by Emmanuel Puybaret / eTeks",
        "for the Sweet Home 3D furniture libraries; the licence of each is its author's.",
    ]
    for licence, url in sorted({(r["licence"], r["licence_url"]) for r in records}):
        chosen = [r for r in records if r["licence"] == licence]
        lines += ["", f"## {licence} ({len(chosen)} objects)", "", f"<{url}>", ""]
        lines += ["| object | model | author | source |", "|---|---|---|---|"]
        for r in sorted(chosen, key=lambda r: (r["author"].lower(), r["synset"], r["model"])):
            title = f"{r['name']} (“{r['title']}”)" if r["title"] else r["name"]
            title += f", <{r['url']}>" if r["url"] else ""
            source = f"{r['source']['package']} {r['source']['version']}, {r['source']['library']}"
            row = [f"{r['synset']}/{r['model']}", title, r["author"], source]
            lines.append("| " + " | ".join(word.replace("|", "\\|") for word in row) + " |")
    return "\n".join(lines) + "\n"
