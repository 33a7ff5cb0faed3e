# SPDX-License-Identifier: MIT
"""Debian's sweethome3d-furniture: package -> furniture libraries -> catalogue items."""

from __future__ import annotations

import lzma
import re
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from models.data.categories import category_of
from models.data.licences import Licence, terms_of
from models.data.mesh import Item, read_member

PACKAGE = "sweethome3d-furniture"
# Best licence first: when two libraries hold one shape, the freer copy is met first.
LIBRARIES = ("BlendSwap-CC-0", "BlendSwap-CC-BY", "KatorLegaz", "Scopia")
_DEFAULT_LICENCE = {
    "BlendSwap-CC-0": Licence.CC0,
    "BlendSwap-CC-BY": Licence.CC_BY,
    "KatorLegaz": Licence.CC_BY_US,
    "Scopia": Licence.CC_BY,
}
# Studios drew hundreds of unrelated pieces; everyone else a few in one style. The names are those
# that the libraries' licence files ask to be credited.
_STUDIOS = {
    "Scopia": "Scopia Visual Interfaces Systems, s.l. and Emmanuel Puybaret / eTeks",
    "Kator Legaz": "Andrew Kator & Jennifer Legaz",
}
_LIMIT = 512 << 20  # bytes of one unpacked member; the largest library has 60 MB

# Seen on the contact sheet: right word, wrong thing (or several things in one file).
EXCLUDED = {
    "BlendSwap-CC-0/foldingChair": "a folding stool, no back",
    "KatorLegaz/bench": "an oval table",
    "KatorLegaz/wall-lamp-artwork": "a picture light, lies on its side",
    "Scopia/ext_chair": "a wide seat with loose pillows",
}


class PrepareError(Exception):
    """Something that the user can mend; shown as one line."""


def download(folder: Path) -> Path:
    """Fetch the package with apt-get into folder; apt checks its signature."""
    if shutil.which("apt-get") is None:
        raise PrepareError(
            f"no apt-get here: download Debian's package {PACKAGE} (a .deb file, any system can "
            "read it) from a Debian mirror and pass its folder with --debs"
        )
    folder.mkdir(parents=True, exist_ok=True)
    # Needs root; where it fails, an older index may still do.
    subprocess.run(["apt-get", "-qq", "update"], capture_output=True, check=False)
    result = subprocess.run(
        ["apt-get", "-qq", "download", PACKAGE],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if result.returncode == 0:
        return find_deb(folder)
    lines = result.stderr.strip().splitlines() or ["no message"]
    raise PrepareError(f"apt-get download {PACKAGE} failed: {lines[0]}")


def find_deb(folder: Path) -> Path:
    """The newest-named .deb of the package in folder."""
    found = sorted(folder.glob(f"{PACKAGE}_*.deb"))
    if not found:
        raise PrepareError(f"no {PACKAGE}_*.deb in {folder}")
    return found[-1]


def version_of(deb: Path) -> str:
    """Package version from the file name: NAME_VERSION_ARCH.deb."""
    return deb.name.split("_")[1] if deb.name.count("_") >= 2 else "unknown"


def ar_members(file: BinaryIO) -> Iterator[tuple[str, int]]:
    """Names and sizes of an ar archive; at each step the file stands at the member's first byte."""
    if file.read(8) != b"!<arch>\n":
        raise PrepareError("not a .deb file (no ar header)")
    while header := file.read(60):
        size = header[48:58].strip()
        if len(header) != 60 or header[58:] != b"`\n" or not size.isdigit():
            raise PrepareError("broken .deb file (ar member header)")
        start = file.tell()
        yield header[:16].decode("ascii", "replace").strip().rstrip("/"), int(size)
        file.seek(start + int(size) + int(size) % 2)


def unpack_deb(deb: Path, target: Path, suffix: str) -> list[Path]:
    """Unpack the regular files of a .deb that end with suffix, keeping their folders.

    Links and devices are refused, and so is any path that would leave the target.
    """
    with deb.open("rb") as file:
        for name, _ in ar_members(file):
            if not name.startswith("data.tar"):
                continue
            if name == "data.tar.zst":
                raise PrepareError(f"{deb.name}: zstd is not supported; repack it with xz")
            try:
                with tarfile.open(fileobj=file, mode="r|*") as archive:
                    return _unpack_tar(archive, target, suffix)
            except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
                raise PrepareError(f"{deb.name}: broken archive ({error})") from error
    raise PrepareError(f"{deb.name}: no data.tar inside")


def _unpack_tar(archive: tarfile.TarFile, target: Path, suffix: str) -> list[Path]:
    written = []
    for member in archive:
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts or "\\" in member.name or ":" in member.name:
            raise PrepareError(f"archive member {member.name!r} would leave the target folder")
        if member.isdir() or not member.name.endswith(suffix):
            continue
        if not member.isreg():
            raise PrepareError(f"archive member {member.name!r} is a link or a device")
        if member.size > _LIMIT:
            raise PrepareError(f"archive member {member.name!r} is {member.size >> 20} MB")
        out = target / path
        out.parent.mkdir(parents=True, exist_ok=True)
        part = out.with_name(out.name + ".part")
        with archive.extractfile(member) as source, part.open("wb") as sink:
            shutil.copyfileobj(source, sink)
        # A name appears only once the file is whole, so an interrupted run can start again.
        part.replace(out)
        written.append(out)
    return written


def parse_catalogue(text: str) -> list[dict[str, str]]:
    """Entries of PluginFurnitureCatalog.properties ("key#number=value"), in numerical order."""
    entries: dict[int, dict[str, str]] = {}
    for line in text.splitlines():
        if match := re.match(r"(\w+)#(\d+)\s*=\s*(.*)", line):
            key, number, value = match.groups()
            # Java escapes; unicode_escape would mangle the Latin-1 letters beside them.
            value = re.sub(r"\\u([0-9a-fA-F]{4})", lambda m: chr(int(m[1], 16)), value)
            entries.setdefault(int(number), {})[key] = value.strip()
    return [entries[number] for number in sorted(entries)]


def items_of(library: Path, version: str) -> list[Item]:
    """Items of one .sh3f library that belong to a category and may be passed on."""
    found = []
    with zipfile.ZipFile(library) as archive:
        names = set(archive.namelist())
        catalogue = "PluginFurnitureCatalog.properties"
        if catalogue not in names:
            raise PrepareError(f"{library.name}: no {catalogue} inside")
        for entry in parse_catalogue(read_member(archive, catalogue).decode("latin-1")):
            path = entry.get("model", "").lstrip("/")
            model = PurePosixPath(path).stem
            category = category_of(entry.get("name", ""))
            key = f"{library.stem}/{model}"
            if category is None or key in EXCLUDED or path not in names:
                continue
            creator = _STUDIOS.get(entry.get("creator", ""), entry.get("creator", ""))
            terms = terms_of(archive, path, creator, _DEFAULT_LICENCE[library.stem])
            if terms.licence is not None:
                found.append(_item(entry, library, path, category, version)._replace(terms=terms))
    return found


def _item(entry: dict[str, str], library: Path, path: str, category: str, version: str) -> Item:
    # "A & eTeks" is A's model, touched up.
    creator = re.split(r" *[&,]", entry.get("creator", ""))[0]
    # One designer's pieces of a category share a style; a studio's share it by name only.
    base = re.sub(r"[\d:]+|\b(wooden|alder|pear|teak|black|white|clear)\b", " ", entry["name"])
    style = " ".join(base.lower().split()) if creator in _STUDIOS else category
    rotation = [float(word) for word in entry.get("modelRotation", "").split()]
    return Item(
        category=category,
        model=re.sub(r"[^\w-]", "_", f"{library.stem}-{PurePosixPath(path).stem}".lower()),
        name=entry["name"],
        source={"package": PACKAGE, "version": version, "library": library.name, "file": path},
        archive=library,
        path=path,
        rotation=tuple(rotation) if len(rotation) == 9 else None,
        size_cm=tuple(float(entry.get(side, "nan")) for side in ("width", "height", "depth")),
        family=f"{creator.lower()}/{style}" if creator else f"{library.stem}/{path}",
    )


def collect(debs: Path | None, work: Path) -> list[Item]:
    """All usable items of the package, best licence first; unpacks into the work folder."""
    if debs is not None and not debs.is_dir():
        raise PrepareError(f"--debs {debs}: no such folder")
    if debs is not None:
        deb = find_deb(debs)
    else:
        kept = sorted((work / "debs").glob(f"{PACKAGE}_*.deb"))
        deb = kept[-1] if kept else download(work / "debs")
    unpacked = work / "unpacked"
    done = unpacked / f"{deb.stem}.done"
    if not done.exists():
        unpack_deb(deb, unpacked, ".sh3f")
        done.touch()
    libraries = {path.stem: path for path in unpacked.rglob("*.sh3f")}
    missing = [name for name in LIBRARIES if name not in libraries]
    if missing:
        raise PrepareError(f"{deb.name}: no furniture library {missing[0]}.sh3f inside")
    items = []
    for name in LIBRARIES:
        try:
            items += items_of(libraries[name], version_of(deb))
        except (zipfile.BadZipFile, ValueError) as error:
            raise PrepareError(f"{libraries[name].name}: {error}") from error
    return items
