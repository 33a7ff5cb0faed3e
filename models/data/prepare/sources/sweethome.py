# SPDX-License-Identifier: MIT
"""Sweet Home 3D's furniture, as Debian packs it: catalogues of OBJ files in zips -> items.

sweethome3d-furniture holds furniture libraries (.sh3f) that may be passed on with credit;
sweethome3d-furniture-nonfree others under the Free Art Licence, a copyleft licence;
sweethome3d, the program (a .jar), has a few dozen pieces of its own under the GPL.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path, PurePosixPath

from models.data.categories import category_of
from models.data.prepare.archives import PrepareError, ZipFiles
from models.data.prepare.licences import CC0, CC_BY, CC_BY_US, FREE_ART, GPL, Licence, terms_of
from models.data.prepare.mesh import Item

LIBRARY_PACKAGE, PROGRAM_PACKAGE = "sweethome3d-furniture", "sweethome3d"
NONFREE_PACKAGE = "sweethome3d-furniture-nonfree"
_CATALOGUE = "PluginFurnitureCatalog.properties"
_PROGRAM_CATALOGUE = "com/eteks/sweethome3d/io/DefaultFurnitureCatalog.properties"
_LONGEST = 500  # characters of a value
# Best licence first: when two libraries hold one shape, the freer copy is met first.
LIBRARIES = {
    LIBRARY_PACKAGE: {
        "BlendSwap-CC-0": CC0,
        "BlendSwap-CC-BY": CC_BY,
        "KatorLegaz": CC_BY_US,
        "Scopia": CC_BY,
    },
    NONFREE_PACKAGE: {"Contributions": FREE_ART, "LucaPresidente": FREE_ART},
}
# Studios drew hundreds of unrelated pieces; everyone else a few in one style. The names are those
# that the libraries' licence files ask to be credited.
_STUDIOS = {
    "Scopia": "Scopia Visual Interfaces Systems, s.l. and Emmanuel Puybaret / eTeks",
    "Kator Legaz": "Andrew Kator & Jennifer Legaz",
}

# Seen on the contact sheet: right word, wrong thing (or several things in one file).
EXCLUDED = {
    "BlendSwap-CC-0/foldingChair": "a folding stool, no back",
    "KatorLegaz/bench": "an oval table",
    "KatorLegaz/wall-lamp-artwork": "a picture light, lies on its side",
    "Scopia/ext_chair": "a wide seat with loose pillows",
    "Contributions/HaiVanPassFrame": "a picture in a frame",
    "Contributions/balancelle": "a swing",
    "Contributions/bathroomFurniture": "a wash stand with a mirror",
    "Contributions/peugeot103": "a moped",
    "LucaPresidente/comodinoSinistro": "a headboard with a shelf",
    "LucaPresidente/comodinoSinistroCiliegio": "a headboard with a shelf",
}


def wanted(name: str) -> bool:
    """Whether a file of the packages is needed."""
    return name.endswith((".sh3f", "/sweethome3d.jar"))


def parse_catalogue(text: str) -> list[dict[str, str]]:
    """Entries of a catalogue ("key#number=value"), in numerical order."""
    entries: dict[int, dict[str, str]] = {}
    for line in text.splitlines():
        if match := re.match(r"(\w+)#(\d+)\s*=\s*(.*)", line):
            key, number, value = match.groups()
            # Java escapes; unicode_escape would mangle the Latin-1 letters beside them.
            value = re.sub(r"\\u([0-9a-fA-F]{4})", lambda m: chr(int(m[1], 16)), value)
            # No name is that long; patterns that see it may take the square of its length.
            entries.setdefault(int(number), {})[key] = value.strip()[:_LONGEST]
    return [entries[number] for number in sorted(entries)]


def collect_libraries(package: str, unpacked: Path, version: str) -> list[Item]:
    """Items of an unpacked package of LIBRARIES that belong to a category, best licence first."""
    libraries = {path.stem: path for path in unpacked.rglob("*.sh3f")}
    source = {"package": package, "version": version}
    items = []
    for name, licence in LIBRARIES[package].items():
        if name not in libraries:
            raise PrepareError(f"{package} {version}: no library {name}.sh3f inside")
        items += items_of(libraries[name], _CATALOGUE, licence, source)
    return items


def collect_program(unpacked: Path, version: str) -> list[Item]:
    """Items of the unpacked sweethome3d that belong to a category."""
    jars = sorted(unpacked.rglob("sweethome3d.jar"))
    if not jars:
        raise PrepareError(f"{PROGRAM_PACKAGE} {version}: no sweethome3d.jar inside")
    source = {"package": PROGRAM_PACKAGE, "version": version}
    return items_of(jars[0], _PROGRAM_CATALOGUE, GPL, source)


def items_of(library: Path, catalogue: str, licence: Licence, source: dict[str, str]) -> list[Item]:
    """Items of one zip that belong to a category and whose own licence is acceptable."""
    found = []
    try:
        with ZipFiles(library) as files:
            entries = parse_catalogue(files.read(catalogue).decode("latin-1"))
        with zipfile.ZipFile(library) as archive:
            names = set(archive.namelist())
            for entry in entries:
                path = entry.get("model", "").lstrip("/")
                category = category_of(entry.get("name", ""))
                key = f"{library.stem}/{PurePosixPath(path).stem}"
                if category is None or key in EXCLUDED or path not in names:
                    continue
                creator = _STUDIOS.get(entry.get("creator", ""), entry.get("creator", ""))
                terms = terms_of(archive, path, creator, licence)
                if terms.licence is not None:
                    item = _item(entry, library, path, category, source)
                    found.append(item._replace(terms=terms))
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise PrepareError(f"{library.name}: {error}") from error
    return found


def _item(
    entry: dict[str, str], library: Path, path: str, category: str, source: dict[str, str]
) -> Item:
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
        source={**source, "library": library.name, "file": path},
        container=library,
        path=path,
        rotation=tuple(rotation) if len(rotation) == 9 else None,
        size_cm=tuple(float(entry.get(side, "nan")) for side in ("width", "height", "depth")),
        family=f"{creator.lower()}/{style}" if creator else f"{library.stem}/{path}",
    )
