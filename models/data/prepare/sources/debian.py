# SPDX-License-Identifier: MIT
"""Debian packages that hold meshes: fetched with apt-get or taken from a folder -> items."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from models.data.prepare.archives import PrepareError, unpack_deb
from models.data.prepare.mesh import Item
from models.data.prepare.sources import flightgear, sweethome

# Package -> (which of its files are needed, its items once they are unpacked).
PACKAGES: dict[str, tuple[Callable[[str], bool], Callable[[Path, str], list[Item]]]] = {
    **{
        package: (sweethome.wanted, partial(sweethome.collect_libraries, package))
        for package in sweethome.LIBRARIES
    },
    sweethome.PROGRAM_PACKAGE: (sweethome.wanted, sweethome.collect_program),
    flightgear.AI: (flightgear.wanted, partial(flightgear.collect, flightgear.AI)),
    flightgear.MODELS: (flightgear.wanted, partial(flightgear.collect, flightgear.MODELS)),
}


# The split of everything that the packages of bookworm give, so that it stays as it is.
_SPLIT = Path(__file__).parent / "debian_split.json"

# What is fetched unless the user names packages: all that Debian's main archive has.
DEFAULT = [package for package in PACKAGES if package != sweethome.NONFREE_PACKAGE]


def fixed_split() -> dict[str, str]:
    """Split of each known object, {"synset/model": "train" | "val" | "test"}."""
    return json.loads(_SPLIT.read_text(encoding="utf-8"))


def download(package: str, folder: Path) -> Path:
    """Fetch a package with apt-get into folder; apt checks its signature."""
    if shutil.which("apt-get") is None:
        raise PrepareError(
            f"no apt-get here: download Debian's package {package} (a .deb file, any system can "
            "read it) from a Debian mirror and pass its folder with --debs"
        )
    folder.mkdir(parents=True, exist_ok=True)
    fetch = ["apt-get", "-qq", "download", package]
    run = partial(subprocess.run, cwd=folder, capture_output=True, text=True, check=False)
    result = run(fetch)
    if result.returncode:
        # The index may be old. Renewing it needs root, so this comes second.
        run(["apt-get", "-qq", "update"])
        result = run(fetch)
    if result.returncode == 0:
        return find_deb(package, folder)
    lines = result.stderr.strip().splitlines() or ["no message"]
    raise PrepareError(f"apt-get download {package} failed: {lines[0]}")


def find_deb(package: str, folder: Path) -> Path:
    """The newest-named .deb of the package in folder."""
    found = sorted(folder.glob(f"{package}_*.deb"))
    if not found:
        raise PrepareError(f"no {package}_*.deb in {folder}")
    return found[-1]


def version_of(deb: Path) -> str:
    """Package version from the file name: NAME_VERSION_ARCH.deb, with apt's %3a for a colon."""
    return deb.name.split("_")[1].replace("%3a", ":") if deb.name.count("_") >= 2 else "unknown"


def collect(
    packages: Sequence[str], debs: Path | None, work: Path, say: Callable[[str], None]
) -> list[Item]:
    """All usable items of the packages, best licence first; unpacks into the work folder.

    What takes a while is told to `say` before it begins.
    """
    if debs is not None and not debs.is_dir():
        raise PrepareError(f"--debs {debs}: no such folder")
    items = []
    for package in packages:
        wanted, items_of = PACKAGES[package]
        if debs is not None:
            deb = find_deb(package, debs)
        else:
            kept = sorted((work / "debs").glob(f"{package}_*.deb"))
            if not kept:
                say(f"fetching {package}")
            deb = kept[-1] if kept else download(package, work / "debs")
        unpacked = work / "unpacked" / package
        done = unpacked / f"{deb.stem}.done"
        if not done.exists():
            say(f"unpacking {deb.name}")
            unpack_deb(deb, unpacked, wanted)
            done.touch()
        items += items_of(unpacked, version_of(deb))
    return items
