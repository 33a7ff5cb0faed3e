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
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from models.data.camera import FOV
from models.data.categories import SYNSETS
from models.data.prepare.archives import PrepareError
from models.data.prepare.mesh import Item
from models.data.prepare.objects import Options, Write, build, write_object
from models.data.prepare.rig import BACKGROUNDS, Rig
from models.data.prepare.sets import (
    check_out,
    drop_strangers,
    records_of,
    records_of_copies,
    select,
    stretched,
    summary,
    write_set,
    write_splits,
)
from models.data.prepare.sources import debian, meshes, pix3d, shapenet
from models.data.prepare.workers import Limits


def teller(args: argparse.Namespace) -> Callable[[str], None]:
    """Prints a line about what begins now, unless --quiet."""
    return lambda text: None if args.quiet else print(text, file=sys.stderr)


def check_needs(*packages: str) -> None:
    if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
        raise PrepareError(
            f"needs {', '.join(missing)}, which come with the extra data: pip install -e '.[data]' "
            f"in the checkout, or pip install {' '.join(missing)}"
        )


def check(args: argparse.Namespace) -> None:
    """Everything that can be known to fail before the work starts: arguments, then packages."""
    if args.views > 99:
        raise PrepareError(f"--views {args.views}: the layout has two digits, at most 99")
    if args.contact_sheet and args.contact_sheet.suffix.lower() != ".png":
        raise PrepareError(f"--contact-sheet {args.contact_sheet}: expected a name ending in .png")
    if args.stretch < 0:
        raise PrepareError(f"--stretch {args.stretch}: expected 0 or more")
    if args.views:
        bounds = {"azimuth": (-360, 360), "elevation": (-89, 89), "fov": (5, 120)}
        for name, (least, most) in bounds.items():
            given = getattr(args, name)
            low, high = given if isinstance(given, list) else (given, given)
            if not least <= low <= high <= most:
                raise PrepareError(f"--{name} {given}: expected {least} <= LOW <= HIGH <= {most}")
    check_out(args.out)
    rendering = ["embreex"] if args.views else []
    check_needs("trimesh", *rendering, "mapbox_earcut", "scipy", "tqdm")


def options_of(args: argparse.Namespace) -> Options:
    """What is written of each object."""
    rig = Rig()
    if args.views:
        rig = Rig(tuple(args.azimuth), tuple(args.elevation), args.fov, args.light, args.background)
    return Options(
        out=args.out,
        size=args.size,
        views=args.views,
        points=tuple(dict.fromkeys(args.points)),
        geometry=args.geometry,
        front=args.front,
        surface=args.surface,
        rig=rig,
        limits=Limits(args.max_seconds, args.max_memory_gb, args.max_file_mb),
    )


def make_set(
    args: argparse.Namespace, items: list[Item], write: Write, fixed: dict[str, str]
) -> None:
    """Build the items and write the set; what stops half-way goes on from there next time."""
    options, say = options_of(args), teller(args)
    work = args.out / ".work"
    work.mkdir(parents=True, exist_ok=True)
    items = select(items, args.categories, args.per_category)
    if not items:
        raise PrepareError("nothing to prepare: no mesh belongs to a category")
    built = build(items, write, options, work, args.jobs, args.quiet)
    if not built:
        raise PrepareError("not one object could be read")
    say(f"comparing {len(built)} shapes")
    records = records_of(items, built, fixed)
    copies = stretched(items, records, args.stretch)
    if copies:
        say(f"stretching {len(copies)} copies of training objects")
        made = build(copies, write, options, work, args.jobs, args.quiet)
        records += records_of_copies(copies, made, records, built)
        records.sort(key=lambda r: (r["synset"], r["model"]))
    write_set(args.out, records, options)
    drop_strangers(args.out, records)
    shutil.rmtree(work)
    size = sum(path.stat().st_size for path in args.out.rglob("*") if path.is_file())
    left_out = len(items) + len(copies) - len(records)
    skipped = f", {left_out} left out" if left_out else ""
    summary(records, f"{skipped}, {size / 1e6:.2f} MB in {args.out}")
    if args.contact_sheet:
        from models.data.contact_sheet import contact_sheet

        args.contact_sheet.parent.mkdir(parents=True, exist_ok=True)
        contact_sheet(args.out).save(args.contact_sheet)


def prepare_debian(args: argparse.Namespace) -> None:
    check(args)
    work = args.out / ".work"
    work.mkdir(parents=True, exist_ok=True)
    items = debian.collect(args.packages, args.debs, work, teller(args))
    make_set(args, items, write_object, debian.fixed_split())


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
    check_out(args.out, index=True)
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
    limits = Limits()
    parser.add_argument("--max-file-mb", type=positive, default=limits.file_mb, metavar="MB",
                        help="of a mesh, a material file or a texture")  # fmt: skip
    parser.add_argument("--max-memory-gb", type=positive, default=limits.memory_gb, metavar="GB",
                        help="of one object")  # fmt: skip
    parser.add_argument("--max-seconds", type=positive, default=limits.seconds, metavar="S",
                        help="of one object")  # fmt: skip


def rendering_options(parser: argparse.ArgumentParser) -> None:
    """What every source of meshes takes."""
    set_options(parser, size=137)
    parser.add_argument("--views", type=positive, default=24, help="images per object")
    parser.add_argument("--no-geometry", dest="geometry", action="store_false",
                        help="leave depth and normals out")  # fmt: skip
    parser.add_argument("--surface", choices=("visible", "all"), default="visible",
                        help="points on what can be seen from outside, or on everything as "
                             "in the papers' sets")  # fmt: skip
    parser.add_argument("--stretch", type=int, default=0, metavar="K",
                        help="stretched copies of each training mesh")  # fmt: skip
    rig = Rig()
    for name, default, text in (("azimuth", rig.azimuth, "degrees; 0 looks from +x, 90 from +z"),
                                ("elevation", rig.elevation, "degrees")):  # fmt: skip
        parser.add_argument(f"--{name}", type=float, nargs=2, metavar=("LOW", "HIGH"),
                            default=list(default), help=text)  # fmt: skip
    parser.add_argument("--fov", type=float, default=FOV, help="degrees across the image")
    parser.add_argument("--light", choices=("camera", "random"), default=rig.light,
                        help="beside the camera, or within 60 degrees of it")  # fmt: skip
    parser.add_argument("--background", choices=("none", *BACKGROUNDS, "random"),
                        default=rig.background, help="none: transparent")  # fmt: skip


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
                        default=debian.DEFAULT,
                        help=f"of {', '.join(debian.PACKAGES)}; "
                             f"default: {', '.join(debian.DEFAULT)}")  # fmt: skip
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
    source.set_defaults(command=prepare_pix3d, front=unknown, views=0, geometry=False,
                        surface="all", stretch=0)  # fmt: skip
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
