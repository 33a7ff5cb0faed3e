# SPDX-License-Identifier: MIT
"""Meshes -> renderings, depth, normals and point clouds, one object after another."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from models.data.manifest import FORMAT, write_json
from models.data.maps import write_depth, write_normal
from models.data.prepare.licences import Licence
from models.data.prepare.mesh import Item, Mesh, load_mesh
from models.data.prepare.render import Renderer
from models.data.prepare.rig import Rig, lights, on_background, orbit
from models.data.prepare.sample import sample_surface, seed_of
from models.data.prepare.visible import Seen, sample_seen, seen_from_outside
from models.data.prepare.workers import Limits, in_processes

DENSE = 32768  # points that stand for the whole surface when two shapes are compared
# Not the mesh's fault: the disk is full, over quota, read-only or broken.
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}


class Options(NamedTuple):
    """What is written of each object."""

    out: Path
    size: int = 137  # pixels, square
    views: int = 24
    points: tuple[int, ...] = (2048, 1024, 16384)  # of each cloud; F-scores want 10,000 and more
    geometry: bool = True  # depth and normals of each view
    front: str = "+z"  # axis that the objects face, for the manifest
    surface: str = "all"  # where points lie: "all", or "visible" from outside
    rig: Rig = Rig()
    limits: Limits = Limits()

    def settings(self) -> dict[str, Any]:
        """What an object of an earlier run must have been made with to be kept."""
        kept = self._asdict() | {"rig": self.rig._asdict()}
        del kept["out"], kept["limits"]
        settings: dict[str, Any] = json.loads(json.dumps({"format": FORMAT, **kept}))
        return settings


Record = dict[str, Any]  # what the manifest tells of an object
# Writes an object's views and clouds and returns its manifest record.
Write = Callable[[Item, Mesh, Options], Record]


class Built(NamedTuple):
    """An object that was written: its manifest record, and its surface as points [DENSE, 3]."""

    record: Record
    dense: np.ndarray


def object_folders(out: Path, key: str) -> tuple[Path, Path]:
    """Folders of an object's views and of its point clouds."""
    return out / "ShapeNetRendering" / key, out / "ShapeNet_pointclouds" / key


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fresh_folders(out: Path, key: str) -> tuple[Path, Path]:
    """The object's two folders, emptied."""
    folders = object_folders(out, key)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    return folders


def write_clouds(
    mesh: Mesh, key: str, folder: Path, options: Options, seen: Seen | None = None
) -> dict[str, str]:
    """Write pointcloud_<count>.npy, one independent sampling a count; {name: sha256}.

    Of the whole surface, or of that part which `seen` accepts.
    """
    hashes = {}
    for count in options.points:
        rng = np.random.default_rng(seed_of(key, "points", count))
        if seen is None:
            points = sample_surface(mesh.vertices, mesh.faces, count, rng)
        else:
            points = sample_seen(mesh.vertices, mesh.faces, count, rng, seen)
        path = folder / f"pointcloud_{count}.npy"
        # Steps of at most 2.4e-4 of the longest side, a hundredth of the spacing of the points.
        np.save(path, points.astype("<f2"), allow_pickle=False)
        hashes[path.name] = sha256(path)
    return hashes


def write_views(renderer: Renderer, mesh: Mesh, key: str, folder: Path, options: Options) -> None:
    """Write rendering/, and depth/ and normal/ beside it.

    rendering/lights.txt has a line a view: the unit vector to the light, object frame.
    """
    names = ("rendering", "depth", "normal") if options.geometry else ("rendering",)
    folders = {name: folder / name for name in names}
    for path in folders.values():
        path.mkdir()
    rig = options.rig
    draws = {word: np.random.default_rng(seed_of(key, word))
             for word in ("cameras", "lights", "background")}  # fmt: skip
    cameras = orbit(mesh.vertices, options.views, draws["cameras"], rig)
    towards = lights(cameras, draws["lights"], rig)
    for number, (camera, light) in enumerate(zip(cameras, towards, strict=True)):
        view, name = renderer.render(camera, options.size, light), f"{number:02d}.png"
        if not view.image[..., 3].any():
            raise ValueError(f"view {number} is empty")
        image = on_background(view.image, draws["background"], rig.background)
        Image.fromarray(image).save(folders["rendering"] / name, optimize=True)
        if options.geometry:
            write_depth(folders["depth"] / name, view.depth)
            write_normal(folders["normal"] / name, view.normal)
    told = {
        "rendering_metadata.txt": [camera.metadata() for camera in cameras],
        "lights.txt": ["{:.6f} {:.6f} {:.6f}".format(*light) for light in towards],
    }
    for name, lines in told.items():
        text = "".join(line + "\n" for line in lines)
        (folders["rendering"] / name).write_text(text, encoding="utf-8")


def write_object(item: Item, mesh: Mesh, options: Options) -> Record:
    """Write one object's clouds and views; its manifest record, without family and split."""
    views, clouds = fresh_folders(options.out, item.key)
    renderer = Renderer(mesh.vertices, mesh.faces, mesh.colours, options.rig.fov)
    seen = seen_from_outside(renderer.caster) if options.surface == "visible" else None
    hashes = write_clouds(mesh, item.key, clouds, options, seen)
    write_views(renderer, mesh, item.key, views, options)
    record = item_record(item, mesh)
    return {**record, "views": options.views, "sha256": hashes}


def item_record(item: Item, mesh: Mesh) -> Record:
    """What the manifest tells of an object's origin and mesh."""
    licence = item.terms.licence or Licence("unknown", "")
    record: Record = {
        "synset": item.synset,
        "category": item.category,
        "model": item.model,
        "name": item.name,
        "title": item.terms.title,
        "author": item.terms.author,
        "url": item.terms.url,
        "licence": licence.id,
        "licence_url": licence.url,
        "source": {**item.source, "sha256": mesh.sha256},
    }
    if item.size_cm is not None:
        sides = ("width", "height", "depth")
        record["size_cm"] = dict(zip(sides, item.size_cm, strict=True))
    if item.stretch is not None:
        record["stretch"] = list(item.stretch)
    return {**record, "scale": round(1 / mesh.side, 9), "faces": len(mesh.faces)}


def _note(work: Path, key: str) -> Path:
    return work / "records" / f"{key.replace('/', '-')}.json"


def kept(item: Item, mesh: Mesh, options: Options, work: Path) -> Record | None:
    """The record of an earlier, interrupted run, if it fits and its files are still whole."""
    try:
        note = json.loads(_note(work, item.key).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    views, clouds = object_folders(options.out, item.key)
    record = note.get("record", {})
    whole = (
        note.get("settings") == options.settings()
        and record.get("source", {}).get("sha256") == mesh.sha256
        and len(list((views / "rendering").glob("*.png"))) == record.get("views")
        and all((clouds / n).exists() and sha256(clouds / n) == h
                for n, h in record.get("sha256", {}).items())
    )  # fmt: skip
    return record if whole else None


def build_one(item: Item, write: Write, options: Options, work: Path) -> Built | str:
    """Write one object, or take over what an earlier run wrote; the reason where that fails."""
    try:
        mesh = load_mesh(item, options.limits.file_mb << 20)
        record = kept(item, mesh, options, work)
        if record is None:
            record = write(item, mesh, options)
            note = {"settings": options.settings(), "record": record}
            write_json(_note(work, item.key), note)
        rng = np.random.default_rng(seed_of(item.key, "dense"))
        return Built(record, sample_surface(mesh.vertices, mesh.faces, DENSE, rng))
    except MemoryError:
        return f"needs more than {options.limits.memory_gb:g} GB of memory (--max-memory-gb)"
    except TimeoutError:
        raise
    # A file of the source can fail in any reader: name it, go on without it.
    except Exception as error:
        if getattr(error, "errno", None) in _DISK:
            raise
        return f"{error}" or type(error).__name__


def build(
    items: list[Item], write: Write, options: Options, work: Path, jobs: int, quiet: bool
) -> dict[str, Built]:
    """Write every item on `jobs` processes; those that worked, by key."""
    from tqdm import tqdm

    built = {}
    processes = closing(in_processes(build_one, items, jobs, options.limits, write, options, work))
    bar = tqdm(total=len(items), unit="object", desc="objects", disable=quiet or None)
    with bar, processes as results:
        for item, result in results:
            bar.update()
            if isinstance(result, Built):
                built[item.key] = result
                continue
            for folder in object_folders(options.out, item.key):
                shutil.rmtree(folder, ignore_errors=True)
            tqdm.write(f"skipped {item.key} ({item.path}): {result}", file=sys.stderr)
    return {key: built[key] for key in sorted(built)}
