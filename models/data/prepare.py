# SPDX-License-Identifier: MIT
"""Meshes -> renderings and point clouds: `python -m models.data.prepare debian OUT`."""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from models.data import debian
from models.data.debian import PrepareError
from models.data.manifest import FORMAT, credits_text, write_json
from models.data.mesh import Item, Mesh, load_mesh
from models.data.render import Renderer, orbit
from models.data.sample import sample_surface, seed_of
from models.data.splits import families, near_duplicates, split

POINTS = (2048, 1024)
DENSE = 32768  # points that stand for the whole surface when two shapes are compared


def object_files(out: Path, item: Item) -> tuple[Path, Path]:
    """Folders of an object's images and of its point clouds."""
    images = out / "ShapeNetRendering" / item.synset / item.model / "rendering"
    return images, out / "ShapeNet_pointclouds" / item.synset / item.model


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_object(out: Path, item: Item, mesh: Mesh, size: int, views: int) -> dict[str, Any]:
    """Write one object's clouds and views; its manifest record, without family and split."""
    images, clouds = object_files(out, item)
    for folder in (images, clouds):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    hashes = {}
    for count in POINTS:
        rng = np.random.default_rng(seed_of(item.key, "points", count))
        points = sample_surface(mesh.vertices, mesh.faces, count, rng)
        path = clouds / f"pointcloud_{count}.npy"
        # Steps of at most 2.4e-4 of the longest side, a hundredth of the spacing of the points.
        np.save(path, points.astype("<f2"), allow_pickle=False)
        hashes[path.name] = sha256(path)
    renderer = Renderer(mesh.vertices, mesh.faces, mesh.colours)
    cameras = orbit(mesh.vertices, views, np.random.default_rng(seed_of(item.key, "cameras")))
    for view, camera in enumerate(cameras):
        image = renderer.render(camera, size)
        if not image[..., 3].any():
            raise ValueError(f"view {view} is empty")
        Image.fromarray(image).save(images / f"{view:02d}.png", optimize=True)
    lines = [camera.metadata() + "\n" for camera in cameras]
    (images / "rendering_metadata.txt").write_text("".join(lines), encoding="utf-8")
    return {
        "synset": item.synset,
        "category": item.category,
        "model": item.model,
        "name": item.name,
        "title": item.terms.title,
        "author": item.terms.author,
        "url": item.terms.url,
        "licence": item.terms.licence.value[0],
        "licence_url": item.terms.licence.value[1],
        "source": {**item.source, "sha256": mesh.sha256},
        "size_cm": dict(zip(("width", "height", "depth"), item.size_cm, strict=True)),
        "scale": round(1 / mesh.side, 9),
        "faces": len(mesh.faces),
        "views": views,
        "sha256": hashes,
    }


def resumed(out: Path, item: Item, settings: dict, path: Path) -> dict[str, Any] | None:
    """The record of an earlier, interrupted run, if it fits and its files are still whole."""
    if not path.exists():
        return None
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    images, clouds = object_files(out, item)
    record = kept.get("record", {})
    whole = (
        kept.get("settings") == settings
        and len(list(images.glob("*.png"))) == settings["views"]
        and all((clouds / n).exists() and sha256(clouds / n) == h
                for n, h in record.get("sha256", {}).items())
    )  # fmt: skip
    return record if whole else None


def select(items: list[Item], per_category: int) -> list[Item]:
    """The first items of each category (the list comes best licence first), unique by key."""
    kept, count = {}, Counter()
    for item in items:
        if item.key not in kept and count[item.category] < per_category:
            kept[item.key] = item
            count[item.category] += 1
    return [kept[key] for key in sorted(kept)]


def build(items: list[Item], out: Path, work: Path, args: argparse.Namespace) -> list[dict]:
    """Render and sample every item; the records of those that worked, families and split set."""
    from tqdm import tqdm

    settings = {"format": FORMAT, "size": args.size, "views": args.views}
    (work / "records").mkdir(parents=True, exist_ok=True)
    records, shapes, names = {}, {}, {}
    for item in tqdm(items, unit="object", desc="objects", disable=args.quiet):
        note = work / "records" / f"{item.synset}-{item.model}.json"
        try:
            mesh = load_mesh(item)
            record = resumed(out, item, settings, note)
            if record is None:
                record = write_object(out, item, mesh, args.size, args.views)
                write_json(note, {"settings": settings, "record": record})
            rng = np.random.default_rng(seed_of(item.key, "dense"))
            dense = sample_surface(mesh.vertices, mesh.faces, DENSE, rng)
        # A file of the package can fail in any reader: name it, go on without it.
        except Exception as error:
            # A full disk (an error of the system, with a number) is not the mesh's fault.
            if getattr(error, "errno", None) is not None:
                raise
            for folder in object_files(out, item):
                shutil.rmtree(folder, ignore_errors=True)
            tqdm.write(f"skipped {item.key} ({item.path}): {error}", file=sys.stderr)
            continue
        records[item.key], shapes[item.key] = record, (dense[:: DENSE // 2048], dense)
        names[item.key] = item.family
    family = families(names, near_duplicates(shapes))
    parts = split(family, {key: record["category"] for key, record in records.items()})
    for key, record in records.items():
        record.update(family=family[key], split=parts[key])
    return [records[key] for key in sorted(records)]


def write_set(out: Path, records: list[dict], args: argparse.Namespace) -> None:
    """Splits, manifest and credits."""
    for part in ("train", "val", "test"):
        table: dict[str, list[str]] = {r["synset"]: [] for r in records}
        for r in records:
            if r["split"] == part:
                table[r["synset"]].append(f"{r['synset']}/{r['model']}")
        write_json(out / "splits" / f"{part}_models.json", table)
    write_json(
        out / "manifest.json",
        {
            "format": FORMAT,
            "image": {"size": args.size, "views": args.views, "mode": "RGBA, alpha = coverage",
                      "metadata": "azimuth elevation inplane distance fov; degrees, object units"},
            "points": {"dtype": "float16", "sampling": "independent, uniform over the surface",
                       "interior": "inner faces (drawers, cushions) are sampled too"},
            "frame": {"up": "+y", "front": "+z", "right": "+x", "origin": "centre of the box",
                      "unit": "longest side of the box"},
            "objects": records,
        },
    )  # fmt: skip
    (out / "CREDITS.md").write_text(credits_text(records), encoding="utf-8")


def drop_strangers(out: Path, records: list[dict]) -> None:
    """Remove objects that an earlier run with other choices left behind."""
    known = {f"{r['synset']}/{r['model']}" for r in records}
    for top in ("ShapeNetRendering", "ShapeNet_pointclouds"):
        for folder in (out / top).glob("*/*"):
            if f"{folder.parent.name}/{folder.name}" not in known:
                shutil.rmtree(folder)


def check(args: argparse.Namespace) -> None:
    """Everything that can be known to fail before the work starts."""
    out: Path = args.out
    needed = ("trimesh", "embreex", "scipy", "tqdm")
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        raise PrepareError(f"needs {', '.join(missing)}: pip install {' '.join(missing)}")
    if args.views > 99:
        raise PrepareError(f"--views {args.views}: the layout has two digits, at most 99")
    if args.contact_sheet and args.contact_sheet.suffix.lower() != ".png":
        raise PrepareError(f"--contact-sheet {args.contact_sheet}: expected a name ending in .png")
    if out.exists() and not out.is_dir():
        raise PrepareError(f"{out} is a file, expected a folder")
    if out.is_dir() and any(out.iterdir()) and not any(
        (out / name).exists() for name in ("manifest.json", ".work")
    ):  # fmt: skip
        raise PrepareError(f"{out} is not empty and was not made by this command")


def prepare_debian(args: argparse.Namespace) -> None:
    check(args)
    out: Path = args.out
    work = out / ".work"
    work.mkdir(parents=True, exist_ok=True)
    items = select(debian.collect(args.debs, work), args.per_category)
    records = build(items, out, work, args)
    if not records:
        raise PrepareError("not one object could be read")
    write_set(out, records, args)
    drop_strangers(out, records)
    shutil.rmtree(work)
    table = Counter((r["category"], r["split"]) for r in records)
    for category in sorted({c for c, _ in table}):
        print(f"{category:10}", *(f"{p} {table[category, p]:3}" for p in ("train", "val", "test")))
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{len(records)} objects, {size / 1e6:.2f} MB in {out}")
    if args.contact_sheet:
        from models.data.contact_sheet import contact_sheet

        contact_sheet(out).save(args.contact_sheet)


def positive(word: str) -> int:
    number = int(word)
    if number < 1:
        raise ValueError
    return number


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m models.data.prepare", description=__doc__)
    sources = top.add_subparsers(dest="source", required=True, metavar="SOURCE")
    source = sources.add_parser("debian", help="furniture of Debian's sweethome3d-furniture")
    source.add_argument("out", type=Path, metavar="OUT", help="folder to make or to complete")
    source.add_argument("--debs", type=Path, metavar="FOLDER", help="holds the .deb already")
    source.add_argument("--views", type=positive, default=8, help="images per object")
    source.add_argument("--size", type=positive, default=64, help="image side in pixels")
    source.add_argument("--per-category", type=positive, default=36, metavar="N",
                        help="at most so many objects, freest licence first")  # fmt: skip
    source.add_argument("--contact-sheet", type=Path, metavar="PNG", help="draw the set as well")
    source.add_argument("--quiet", action="store_true", help="no progress bar")
    source.set_defaults(command=prepare_debian)
    return top


def main(words: list[str] | None = None) -> int:
    args = parser().parse_args(words)
    try:
        args.command(args)
    except (PrepareError, OSError) as error:
        print(f"prepare {args.source}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
