# SPDX-License-Identifier: MIT
"""Which catalogue name belongs to which ShapeNet category. Rules see the English name only."""

from __future__ import annotations

import re

# The 13 categories of the single-image reconstruction papers (3D-R2N2), by WordNet synset id.
SYNSETS = {
    "airplane": "02691156",
    "bench": "02828884",
    "cabinet": "02933112",
    "car": "02958343",
    "chair": "03001627",
    "monitor": "03211117",
    "lamp": "03636649",
    "speaker": "03691459",
    "rifle": "04090263",
    "sofa": "04256520",
    "table": "04379243",
    "telephone": "04401088",
    "vessel": "04530566",
}
NAMES = {synset: name for name, synset in SYNSETS.items()}

# Names that hold a category word but are something else.
_NOT = re.compile(
    r"\b(tennis|football|fan|ottoman|abdominal|workbench|changing|doll|toy|model|"
    r"candle|opened|living room|track|strip|fluorescent|lantern)\b"
)
# First match wins, so "table lamp" is a lamp and "bedside table" a cabinet.
_RULES = [
    (
        "lamp",
        r"\b(lamp|lamppost|(up|spot)?light)$|^(desk|wall|hanging|pendant|chandelier) (lamp|light)",
    ),
    (
        "cabinet",
        r"\b(cabinet|wardrobe|cupboard|dresser|bedside table|tv (stand|unit)|locker)\b|^chest$",
    ),
    ("sofa", r"\b(sofa|couch)\b"),
    ("chair", r"\b(arm|wheel)?chair\b|^class seat$|^pool lounge$"),
    ("bench", r"\b(bench|bank)$"),
    ("table", r"\b(table|desk)\b"),
    ("monitor", r"^(tv|(wall )?flat tv|apple imac)\b(?! (remote|stand|unit|plug|shelf|center))"),
    ("speaker", r"\bspeaker$"),
    ("telephone", r"\b(phone|iphone)$"),
    ("vessel", r"^rowboat$"),
    ("car", r"\b(sedan|beetle|focus|leon|peugeot|renault|chevrolet|suv|smart car|van)\b"),
]
_COMPILED = [(category, re.compile(pattern)) for category, pattern in _RULES]


def category_of(name: str) -> str | None:
    """Category of a catalogue name, or None: "Table lamp" -> "lamp", "Spoon" -> None."""
    name = name.lower()
    if _NOT.search(name):
        return None
    return next((category for category, rule in _COMPILED if rule.search(name)), None)
