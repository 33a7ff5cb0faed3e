# SPDX-License-Identifier: MIT
"""Debian's flightgear-data-ai and flightgear-data-models: aircraft and ships (AC3D, GPL-2+).

Both packages are prepared where they are fetched and never passed on with this repository.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from models.data.prepare.licences import GPL, Terms
from models.data.prepare.mesh import Item

AI, MODELS = "flightgear-data-ai", "flightgear-data-models"
_ROOT = "usr/share/games/flightgear"
# Package -> category -> folders or files of the package that hold such meshes.
_WHERE = {
    AI: {"airplane": ["AI/Aircraft"]},
    MODELS: {
        "airplane": ["Models/Geometry/A4-F", "Models/Geometry/KA6-D", "Models/Geometry/KC-130",
                     "Models/Geometry/KC135"],
        "vessel": ["Models/Maritime/Civilian", "Models/Maritime/Military",
                   "Models/Geometry/sailboat1", "Models/Geometry/saratoga.ac",
                   "Models/Geometry/SanAntonio", "Models/Geometry/Nimitz/nimitz.ac",
                   "Models/Geometry/Nimitz/truman.ac", "Models/Geometry/Nimitz/vinson.ac"],
    },
}  # fmt: skip
# Parts of aircraft, what else lies among them, and what the contact sheet showed to be scattered in
# loose pieces (Trawler, MerchantLivestockCarrier): matched against the path below _ROOT.
_NOT = re.compile(
    r"/lights?/|/refueling/|/propellers/|light|flare|flash|toggle|balloon|/ferry/|spaceshuttle"
    r"|/(tank|wheels|droptank|exhaust|banner|bluebird-ai|trawler|merchantlivestockcarrier)\.ac$",
    re.I,
)
# Parts that are no surface of the thing itself, by name and texture: turning propellers drawn as
# discs, lamps' beams and glows, flames, shadows, rain, wakes, hoses and parachutes that are out.
HIDDEN = (
    r"blur|pr(op|plr).*(dis[ck]|fast|slow)|(fast|slow)prop|propeller\.2|(disque|giro)helice|prop_spin"
    r"|fan_disk|halo|flare|flame|light.?cone|condensation|shadow|-rain\b|wake|hose|drogue|chute"
)
# Up is y; noses and bows point along -x, those of some ships along -z. The front is to be +z.
_FROM_X = (0.0, 0.0, 1.0, 0.0, 1.0, 0.0, -1.0, 0.0, 0.0)
_FROM_Z = (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
_BOW_ALONG_Z = {"LargeFerry", "barge", "Carrier_A01", "LCM6", "LHA1", "PSC9",
                "MaritimePrepositioningForceShip"}  # fmt: skip
# Types that share a fuselage or a wing; the first pattern found in the model's id names the family.
_FAMILIES = [
    ("boeing-737", r"-(73[3-9jcfp]|737)"),
    ("boeing-747", r"-74[4fny]"),
    ("boeing-757", r"-757"),
    ("boeing-767", r"-76[37wy]"),
    ("boeing-777", r"-77[flw]"),
    ("boeing-787", r"-78[789]"),
    ("airbus-a300", r"-a3[01]0|-ab[6y]"),
    ("airbus-a320", r"-a3(19|20|21)"),
    ("airbus-a330", r"-a3[34]|-339"),
    ("bombardier-crj", r"-cr[279]|-chal604"),
    ("dehavilland-dash", r"-dh[3478t]"),
    ("embraer-ejet", r"-e[79][05]"),
    ("embraer-erj", r"-erj145|-legacy"),
    ("atr", r"-at[47]"),
    ("fokker-jet", r"-fokker-(70|100)"),
    ("bae-146", r"-bae146"),
    ("mcdonnell-md80", r"-md[89]0|-717"),
    ("cessna-single", r"-c1(72|77|82)"),
    ("cessna-310", r"-c310"),
    ("beech-twin", r"-beech-?(99|200)|-b1900d"),
    ("boeing-707", r"kc135"),
    ("douglas-a4", r"a4-f|ka6"),
    ("ticonderoga", r"cg-?[45]7"),
    ("lpd17", r"lpd17"),
    ("nimitz", r"nimitz|truman|vinson|carrier_a01"),
    ("sailboat", r"sailboat|saratoga"),
    ("ferry", r"ferry"),
    ("trawler", r"trawler"),
    ("prepositioning", r"pre-?position"),
    ("container", r"container"),
    ("freighter", r"freighter"),
]


def wanted(name: str) -> bool:
    """Whether a file of the packages is needed: meshes, and the textures beside them."""
    if not name.lower().endswith((".ac", ".png", ".rgb", ".jpg")):
        return False
    name = name.removeprefix("./").removeprefix(_ROOT + "/")
    places = [place for table in _WHERE.values() for found in table.values() for place in found]
    return any(name == place or name.startswith(place + "/") for place in places)


def collect(package: str, unpacked: Path, version: str) -> list[Item]:
    """All aircraft or ships of one unpacked package."""
    root = unpacked / _ROOT
    return [
        _item(package, version, category, root, path)
        for category, places in _WHERE[package].items()
        for path in _meshes(root, places)
        if not _NOT.search("/" + path.as_posix())
    ]


def _meshes(root: Path, places: list[str]) -> Iterator[PurePosixPath]:
    for place in places:
        found = [root / place] if place.endswith(".ac") else sorted((root / place).rglob("*.ac"))
        for path in found:
            yield PurePosixPath(path.relative_to(root).as_posix())


def _item(package: str, version: str, category: str, root: Path, path: PurePosixPath) -> Item:
    # AI/Aircraft/747/Models/744.ac lies in AI/Aircraft/747, with its textures; others in their own.
    home = PurePosixPath(*path.parts[:3]) if path.parts[0] == "AI" else path.parent
    inside = path.relative_to(home)
    model = "-".join(["fg", home.name, path.stem])
    model = re.sub(r"[^\w-]", "_", model.lower())
    # Several liveries of one type lie in one folder; unlike ships share theirs.
    alone = home.name.lower() if category == "airplane" else model
    family = next((name for name, sign in _FAMILIES if re.search(sign, model)), alone)
    return Item(
        category=category,
        model=model,
        name=path.stem,
        source={"package": package, "version": version, "library": "FlightGear", "file": str(path)},
        container=root / home,
        path=str(inside),
        family=f"flightgear/{family}",
        rotation=_FROM_Z if path.stem in _BOW_ALONG_Z else _FROM_X,
        terms=Terms(GPL, "the FlightGear team", "", "https://www.flightgear.org"),
        hidden=HIDDEN,
        textures=_textures(root / home, inside),
    )


def _textures(home: Path, mesh: PurePosixPath) -> tuple[tuple[str, str], ...]:
    """(name, path seen from the mesh) of the aircraft's textures: liveries, "Default" first."""
    up = "../" * (len(mesh.parts) - 1)
    found: dict[str, str] = {}
    files = (path for path in home.rglob("*") if path.suffix.lower() in (".png", ".rgb", ".jpg"))
    for path in sorted(files, key=lambda p: (p.parent.name.lower() != "default", p.as_posix())):
        found.setdefault(path.name, up + path.relative_to(home).as_posix())
    return tuple(found.items())
