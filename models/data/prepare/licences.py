# SPDX-License-Identifier: MIT
"""The licences of the sources, and what a model's own licence file says."""

from __future__ import annotations

import html
import re
import zipfile
from itertools import islice
from pathlib import PurePosixPath
from typing import NamedTuple

_SITE = "https://creativecommons.org/"


class Licence(NamedTuple):
    """SPDX-like id, and the deed's address."""

    id: str
    url: str


CC0 = Licence("CC0-1.0", _SITE + "publicdomain/zero/1.0/")
PUBLIC_DOMAIN = Licence("PDM-1.0", _SITE + "publicdomain/mark/1.0/")
CC_BY = Licence("CC-BY-3.0", _SITE + "licenses/by/3.0/")
CC_BY_US = Licence("CC-BY-3.0-US", _SITE + "licenses/by/3.0/us/")
GPL = Licence("GPL-2.0-or-later", "https://www.gnu.org/licenses/old-licenses/gpl-2.0.html")
FREE_ART = Licence("LAL-1.3", "https://artlibre.org/licence/lal/en/")
# What may lie in this repository and be passed on with credit alone.
FREE = (CC0, PUBLIC_DOMAIN, CC_BY, CC_BY_US)

# The library's label is not enough: its CC-0 half holds two models that are CC BY.
_SIGNS = [
    (CC0, r"publicdomain/zero|creative commons (cc-?0|zero)"),
    (PUBLIC_DOMAIN, r"publicdomain/mark"),
    (CC_BY, r"licenses/by/3\.0|creative commons attribution 3\.0"),
]
_FOREIGN = re.compile(
    r"licenses/by-|attribution-|share-?alike|non-?commercial|no-?deriv|licenses/by/[^3]", re.I
)
# Each piece is bounded: a file of one endless word costs no more than another.
_THANKS = re.compile(r'thank you for downloading "([^"]{1,300})" by ([^\n]{1,300})', re.I)
_HEAD = re.compile(r"<title>([^<]{1,300})", re.I)
_TITLES = [  # of the pages that were saved beside the models
    re.compile(r"(?P<title>.*?) by (?P<author>.*?) - \d+ - ", re.I | re.S),
    re.compile(r"\d+ - (?P<title>.*?) - Downloaded", re.I | re.S),
]
_TEXT = 1 << 20  # bytes of a licence file


class Terms(NamedTuple):
    """Who made a model and on which licence it is given; None where that is not accepted."""

    licence: Licence | None = CC0
    author: str = ""
    title: str = ""  # the author's, where the licence file tells it
    url: str = ""  # the model's page, likewise


def terms_of(archive: zipfile.ZipFile, path: str, creator: str, default: Licence) -> Terms:
    """Terms of the model at path inside a library.

    A licence file beside the model overrules the library's licence (default).
    """
    folder = PurePosixPath(path).parent
    files = [
        info
        for info in archive.infolist()
        if PurePosixPath(info.filename).parent == folder
        and info.filename.lower().endswith((".txt", ".html"))
    ]
    if any(info.file_size > _TEXT for info in files):  # no licence is that long
        return Terms(None, creator)
    text = "\n".join(archive.read(info).decode("utf-8", "replace") for info in files)
    if _FOREIGN.search(text):
        return Terms(None, creator)
    # Where two are named, the stricter one holds: it stands later in the list.
    named = [licence for licence, sign in _SIGNS if re.search(sign, text, re.I)]
    title, author = title_of(text)
    page = re.search(r"blendswap\.com/(?:blends/view|blend)/\d+", text)
    url = f"https://{page[0]}" if page else ""
    return Terms(named[-1] if named else default, joined(creator, author), title, url)


def title_of(text: str) -> tuple[str, str]:
    """Title and author that a licence file tells; "" for what it does not tell."""
    if match := _THANKS.search(text):
        title, author = match.groups()
    else:
        heads = islice(_HEAD.finditer(text), 8)
        found = [rule.match(head[1].strip()) for head in heads for rule in _TITLES]
        told = next((match.groupdict() for match in found if match), {})
        title, author = told.get("title", ""), told.get("author", "")
    return " ".join(html.unescape(title).split()), html.unescape(author).strip()


def joined(creator: str, other: str) -> str:
    """Both names where the catalogue and the licence file differ, else the fuller one."""
    plain, plain_other = (re.sub(r"[\W_]", "", name.lower()) for name in (creator, other))
    first = re.sub(r"[\W_]", "", re.split("[&,]", creator.lower())[0])
    if plain_other in plain:
        return creator
    return other if first in plain_other else f"{creator}, {other}"
