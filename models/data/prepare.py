# SPDX-License-Identifier: MIT
"""Meshes or a downloaded data set -> the folders that models.data.dataset reads.

python -m models.data.prepare debian OUT         Debian's furniture, aircraft and ships
python -m models.data.prepare meshes DIR OUT     DIR/<category>/ with meshes of your own
python -m models.data.prepare shapenet DIR OUT   ShapeNet as 3D-R2N2 and 3D-LMNet give it, in DIR
python -m models.data.prepare pix3d DIR OUT      Pix3D as it is unpacked, in DIR
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from models.data import debian, meshes, pix3d, shapenet
from models.data.archives import PrepareError
from models.data.build import Built, Options, Write, build, write_object
from models.data.categories import SYNSETS
from models.data.manifest import CAMERAS, FORMAT, credits_text, write_json
from models.data.mesh import Item
from models.data.splits import families, near_duplicates, split

# The split of everything that the Debian packages of bookworm give, so that it stays as it is.
DEBIAN_SPLIT = Path(__file__).parent / "debian_split.json"


def select(items: list[Item], categories: list[str] | None, limit: int | None) -> list[Item]:
    """The first `limit` items of each category (best licence comes first), unique by key."""
    known = {item.category for item in items}
    if unknown := sorted(set(categories or []) - known):
        raise PrepareError(
            f"--categories {unknown[0]}: no such mesh; of {', '.join(sorted(known))}"
        )
    kept, count = {}, Counter()
    for item in items:
        if categories is not None and item.category not in categories:
            continue
        if item.key not in kept and (limit is None or count[item.category] < limit):
            kept[item.key] = item
            count[item.category] += 1
    return [kept[key] for key in sorted(kept)]


def records_of(items: list[Item], built: dict[str, Built], fixed: dict[str, str]) -> list[dict]:
    """Manifest records of what was built, with family and split."""
    names = {item.key: item.family for item in items if item.key in built}
    family = families(names, near_duplicates({key: b.dense for key, b in built.items()}))
    category = {key: b.record["category"] for key, b in built.items()}
    parts = split(family, category, fixed)
    return [
        {**b.record, "family": family[key], "split": parts[key]} for key, b in built.items()
    ]  # fmt: skip


def write_set(out: Path, records: list[dict], options: Options) -> None:
    """Splits, manifest and credits."""
    write_splits(out, records)
    image = {"size": options.size, "mode": "RGBA, alpha = coverage"}
    if options.views:
        image |= {"views": options.views, "metadata": CAMERAS}
    manifest: dict[str, Any] = {"format": FORMAT, "image": image}
    if options.geometry:
        manifest["depth"] = "16 bit grey, 1e-4 object units along the optical axis, 0: nothing"
        manifest["normal"] = "RGB = 128 + 127 n, camera frame: x right, y down, z forward"
    manifest["points"] = {
        "dtype": "float16",
        "sampling": "independent, uniform over the surface",
        "interior": "inner faces (drawers, cushions) are sampled too",
    }
    manifest["frame"] = {
        "name": "object",
        "up": "+y",
        "front": options.front,
        "origin": "centre of the box",
        "unit": "longest side of the box",
    }
    write_json(out / "manifest.json", {**manifest, "objects": records})
    (out / "CREDITS.md").write_text(credits_text(records), encoding="utf-8")


def drop_strangers(out: Path, records: list[dict]) -> None:
    """Remove objects that an earlier run with other choices left behind."""
    known = {f"{r['synset']}/{r['model']}" for r in records}
    for top in ("ShapeNetRendering", "ShapeNet_pointclouds"):
        for folder in (out / top).glob("*/*"):
            if f"{folder.parent.name}/{folder.name}" not in known:
                shutil.rmtree(folder)


def teller(args: argparse.Namespace) -> Callable[[str], None]:
    """Prints a line about what begins now, unless --quiet."""
    return lambda text: None if args.quiet else print(text, file=sys.stderr)


def check_out(out: Path) -> None:
    """OUT is new, empty, or this command's own."""
    if out.exists() and not out.is_dir():
        raise PrepareError(f"{out} is a file, expected a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / ".work").is_dir():
        try:
            made_here = "format" in json.loads((out / "manifest.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError):
            made_here = False
        if not made_here:
            raise PrepareError(f"{out} is not empty and was not made by this command")


def check_needs(*packages: str) -> None:
    if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
        raise PrepareError(f"needs {', '.join(missing)}: pip install {' '.join(missing)}")


def check(args: argparse.Namespace) -> None:
    """Everything that can be known to fail before the work starts: arguments, then packages."""
    if args.views > 99:
        raise PrepareError(f"--views {args.views}: the layout has two digits, at most 99")
    if args.contact_sheet and args.contact_sheet.suffix.lower() != ".png":
        raise PrepareError(f"--contact-sheet {args.contact_sheet}: expected a name ending in .png")
    check_out(args.out)
    if any((args.out / top).is_symlink() for top in ("ShapeNetRendering", "ShapeNet_pointclouds")):
        raise PrepareError(f"{args.out} links to a data set of yours; choose another folder")
    check_needs("trimesh", *(["embreex"] if args.views else []), "scipy", "tqdm")


def make_set(
    args: argparse.Namespace, items: list[Item], write: Write, fixed: dict[str, str]
) -> None:
    """Build the items and write the set; what stops half-way goes on from there next time."""
    points = tuple(dict.fromkeys(args.points))
    options = Options(args.out, args.size, args.views, points, args.geometry, args.front)
    work = args.out / ".work"
    work.mkdir(parents=True, exist_ok=True)
    items = select(items, args.categories, args.per_category)
    if not items:
        raise PrepareError("nothing to prepare: no mesh belongs to a category")
    built = build(items, write, options, work, args.jobs, args.quiet)
    if not built:
        raise PrepareError("not one object could be read")
    teller(args)(f"comparing {len(built)} shapes")
    records = records_of(items, built, fixed)
    write_set(args.out, records, options)
    drop_strangers(args.out, records)
    shutil.rmtree(work)
    size = sum(path.stat().st_size for path in args.out.rglob("*") if path.is_file())
    skipped = f", {len(items) - len(records)} skipped" if len(items) > len(records) else ""
    summary(records, f"{skipped}, {size / 1e6:.2f} MB in {args.out}")
    if args.contact_sheet:
        from models.data.contact_sheet import contact_sheet

        contact_sheet(args.out).save(args.contact_sheet)


def summary(records: list[dict], rest: str) -> None:
    """Objects by category and split."""
    table = Counter((r["category"], r["split"]) for r in records)
    for category in sorted({c for c, _ in table}):
        print(f"{category:10}", *(f"{p} {table[category, p]:4}" for p in ("train", "val", "test")))
    print(f"{len(records)} objects{rest}")


def write_splits(out: Path, records: list[dict]) -> None:
    for part in ("train", "val", "test"):
        table: dict[str, list[str]] = {r["synset"]: [] for r in records}
        for r in records:
            if r["split"] == part:
                table[r["synset"]].append(f"{r['synset']}/{r['model']}")
        write_json(out / "splits" / f"{part}_models.json", table)


def prepare_debian(args: argparse.Namespace) -> None:
    check(args)
    work = args.out / ".work"
    work.mkdir(parents=True, exist_ok=True)
    items = debian.collect(args.packages, args.debs, work, teller(args))
    make_set(args, items, write_object, json.loads(DEBIAN_SPLIT.read_text(encoding="utf-8")))


def prepare_meshes(args: argparse.Namespace) -> None:
    check(args)
    items = meshes.collect(args.folder, args.up, args.author, args.licence)
    make_set(args, items, write_object, {})


def prepare_pix3d(args: argparse.Namespace) -> None:
    check(args)
    make_set(args, pix3d.collect(args.folder, args.categories), pix3d.write_object, {})


def prepare_shapenet(args: argparse.Namespace) -> None:
    if args.out.resolve() == args.folder.resolve():
        raise PrepareError("DIR and OUT are one folder; nothing is written into DIR")
    check_out(args.out)
    check_needs("tqdm")
    args.out.mkdir(parents=True, exist_ok=True)
    records = shapenet.index(args.folder, args.out, args.quiet)
    write_splits(args.out, records)
    summary(records, f" indexed in {args.out}")


def positive(word: str) -> int:
    number = int(word)
    if number < 1:
        raise ValueError
    return number


def set_options(parser: argparse.ArgumentParser, size: int) -> None:
    """What every source takes that a set is made from."""
    parser.add_argument("--size", type=positive, default=size, help="image side in pixels")
    parser.add_argument("--points", type=positive, nargs="+", default=[2048, 1024, 16384],
                        metavar="N", help="a cloud of each size")  # fmt: skip
    parser.add_argument("--categories", nargs="+", metavar="NAME", help="take these only")
    parser.add_argument("--per-category", type=positive, metavar="N",
                        help="at most so many objects, freest licence first")  # fmt: skip
    parser.add_argument("--contact-sheet", type=Path, metavar="PNG", help="draw the set as well")
    parser.add_argument("--jobs", type=positive, default=os.cpu_count(), help="processes")


def rendering_options(parser: argparse.ArgumentParser) -> None:
    """What every source of meshes takes."""
    set_options(parser, size=137)
    parser.add_argument("--views", type=positive, default=24, help="images per object")
    parser.add_argument("--no-geometry", dest="geometry", action="store_false",
                        help="leave depth and normals out")  # fmt: skip


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m models.data.prepare", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    sources = top.add_subparsers(dest="source", required=True, metavar="SOURCE")
    unknown = "as in the source"

    def add(name: str, text: str, folder: str = "") -> argparse.ArgumentParser:
        source = sources.add_parser(name, help=text)
        if folder:
            source.add_argument("folder", type=Path, metavar="DIR", help=folder)
        source.add_argument("out", type=Path, metavar="OUT", help="folder to make or to complete")
        source.add_argument("--quiet", action="store_true", help="no progress bar")
        return source

    source = add("debian", "furniture, aircraft and ships of Debian packages")
    rendering_options(source)
    source.add_argument("--debs", type=Path, metavar="FOLDER", help="holds the .deb files already")
    source.add_argument("--packages", nargs="+", choices=list(debian.PACKAGES), metavar="PACKAGE",
                        default=list(debian.PACKAGES),
                        help=f"of {', '.join(debian.PACKAGES)}; default: all")  # fmt: skip
    source.set_defaults(command=prepare_debian, front="+z")
    names = f"its folders are categories: {', '.join(SYNSETS)}, or others"
    source = add("meshes", "a folder of <category>/<mesh files>", names)
    rendering_options(source)
    source.add_argument("--up", choices=("y", "z"), default="y", help="the meshes' upward axis")
    source.add_argument("--author", default="", help="for the manifest")
    source.add_argument("--licence", default="unknown", help="for the manifest")
    source.set_defaults(command=prepare_meshes, front=unknown)
    tops = "holds ShapeNetRendering/ and ShapeNet_pointclouds/, and splits/ if there is one"
    source = add("shapenet", "check and index ShapeNet as 3D-R2N2 and 3D-LMNet give it", tops)
    source.set_defaults(command=prepare_shapenet)
    source = add("pix3d", "cut out Pix3D's photos, sample its models", "Pix3D, unpacked")
    set_options(source, size=128)
    source.set_defaults(command=prepare_pix3d, front=unknown, views=0, geometry=False)
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
