# SPDX-License-Identifier: MIT
"""The licences of the sources, and what a model's own licence file says."""

from __future__ import annotations

import html
import re
import zipfile
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
_TITLE = re.compile(
    r'thank you for downloading "(?P<title>[^"]+)" by (?P<author>[^\n]+)'
    r"|<title>\s*(?P<title2>[^<]*?) by (?P<author2>[^<]*?) - \d+ - "
    r"|<title>\s*\d+ - (?P<title3>[^<]*?) - Downloaded",
    re.I,
)


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
    texts = [
        archive.read(info).decode("utf-8", "replace")
        for info in archive.infolist()
        if PurePosixPath(info.filename).parent == folder
        and info.filename.lower().endswith((".txt", ".html"))
        and info.file_size < 1 << 20
    ]
    text = "\n".join(texts)
    if _FOREIGN.search(text):
        return Terms(None, creator)
    # Where two are named, the stricter one holds: it stands later in the list.
    named = [licence for licence, sign in _SIGNS if re.search(sign, text, re.I)]
    title, author = "", creator
    if match := _TITLE.search(text):
        parts = {key[:5]: html.unescape(value).strip() for key, value in match.groupdict().items()
                 if value}  # fmt: skip
        title = " ".join(parts.get("title", "").split())
        author = joined(creator, parts.get("autho", ""))
    page = re.search(r"blendswap\.com/(?:blends/view|blend)/\d+", text)
    url = f"https://{page[0]}" if page else ""
    return Terms(named[-1] if named else default, author, title, url)


def joined(creator: str, other: str) -> str:
    """Both names where the catalogue and the licence file differ, else the fuller one."""
    plain, plain_other = (re.sub(r"[\W_]", "", name.lower()) for name in (creator, other))
    first = re.sub(r"[\W_]", "", re.split("[&,]", creator.lower())[0])
    if plain_other in plain:
        return creator
    return other if first in plain_other else f"{creator}, {other}"
