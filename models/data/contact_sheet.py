# SPDX-License-Identifier: MIT
"""A set on one picture a category: `python -m models.data.contact_sheet ROOT FOLDER`.

With OUT.png for FOLDER all categories are on one picture.

Each object shows two views and its cloud from the front (+z), one category below the other.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from models.data.dataset import open_image, read_cloud
from models.data.manifest import is_plain, read_manifest

TILE = 96
COLUMNS = 6


def cloud_tile(points: np.ndarray) -> Image.Image:
    """Orthographic front view of points [N, 3]; nearer points are darker."""
    place = ((points[:, :2] * [0.95, -0.95] + 0.5) * (TILE - 1)).round()
    column, row = place.clip(0, TILE - 1).astype(int).T
    order = np.argsort(points[:, 2])
    tile = np.full((TILE, TILE), 255, dtype=np.uint8)
    tile[row[order], column[order]] = (170 - 170 * (points[order, 2] + 0.5)).clip(0, 255)
    return Image.fromarray(tile).convert("RGB")


def object_tile(root: Path, record: dict[str, Any]) -> Image.Image:
    """[view | other view | cloud] with the model's name and split below."""
    tile = Image.new("RGB", (3 * TILE, TILE + 12), "white")
    where = Path(record["synset"]) / record["model"]
    for column, view in enumerate((record["views"] // 8, record["views"] * 5 // 8)):
        path = root / "ShapeNetRendering" / where / "rendering" / f"{view:02d}.png"
        image = open_image(path).resize((TILE, TILE))
        tile.paste(image, (column * TILE, 0), image)
    folder = root / "ShapeNet_pointclouds" / where
    clouds = sorted(folder.glob("pointcloud_*.npy"), key=lambda path: path.stat().st_size)
    if not clouds:
        raise FileNotFoundError(f"missing {folder}/pointcloud_*.npy")
    tile.paste(cloud_tile(read_cloud(clouds[0]).astype(np.float64)), (2 * TILE, 0))
    label = f"{record['split'][:2]} {record['model']}"[:34]
    ImageDraw.Draw(tile).text((1, TILE), label, fill="black", font_size=9)
    return tile


def records_of(root: Path) -> list[dict[str, Any]]:
    """What the set's manifest tells of each object.

    Raises:
        ValueError: what a sheet needs is missing, or a name would lead out of a folder.
    """
    path, records = root / "manifest.json", read_manifest(root).get("objects")
    if not isinstance(records, list) or not records:
        raise ValueError(f"{path}: no objects")
    for record in records:
        told = record if isinstance(record, dict) else {}
        for key in ("synset", "model", "category"):
            if not is_plain(told.get(key)):
                raise ValueError(f"{path}: {key} {told.get(key)!r} is not a plain name")
        if not isinstance(told.get("views"), int) or not isinstance(told.get("split"), str):
            raise ValueError(f"{path}: {told['model']} has no views or no split")
    return records


def contact_sheet(root: Path, category: str | None = None) -> Image.Image:
    """Picture of a prepared set, or of one category of it."""
    records = records_of(root)
    rows: list[list[dict[str, Any]] | str] = []
    for name in sorted({r["category"] for r in records if category in (None, r["category"])}):
        chosen = [r for r in records if r["category"] == name]
        rows.append(f"{name} ({len(chosen)})")
        rows += [chosen[i : i + COLUMNS] for i in range(0, len(chosen), COLUMNS)]
    heights = [16 if isinstance(row, str) else TILE + 14 for row in rows]
    sheet = Image.new("RGB", (COLUMNS * (3 * TILE + 6), sum(heights)), "white")
    top = 0
    for row, height in zip(rows, heights, strict=True):
        if isinstance(row, str):
            ImageDraw.Draw(sheet).text((2, top + 2), row, fill="red", font_size=12)
        else:
            for column, record in enumerate(row):
                sheet.paste(object_tile(root, record), (column * (3 * TILE + 6), top))
        top += height
    return sheet


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m models.data.contact_sheet")
    parser.add_argument("root", type=Path, metavar="ROOT")
    parser.add_argument("out", type=Path, metavar="FOLDER", help="or OUT.png")
    args = parser.parse_args(words)
    try:
        if args.out.suffix.lower() == ".png":
            contact_sheet(args.root).save(args.out)
            return 0
        args.out.mkdir(parents=True, exist_ok=True)
        for category in sorted({record["category"] for record in records_of(args.root)}):
            contact_sheet(args.root, category).save(args.out / f"{category}.png")
    except (OSError, ValueError) as error:
        print(f"contact_sheet: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
