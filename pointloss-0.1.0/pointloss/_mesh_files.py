# SPDX-License-Identifier: MIT
"""What trimesh takes for a smaller mesh, or words for programmers: checked before it reads."""

from __future__ import annotations

import re
import struct

import numpy as np


class UnreadableError(ValueError):
    """What is wrong with a file, in words for its owner."""


def prepared(content: bytes, suffix: str) -> bytes:
    """A file's content as trimesh can read it: text in UTF-8, an obj without comments.

    Raises:
        UnreadableError: it ends early, or a face of an obj names a vertex that is not there.
    """
    if suffix == ".ply":
        return _ply(content)
    if suffix == ".obj":
        return _obj(content)
    if suffix == ".off":
        return _off(content)
    if suffix == ".stl":
        return _stl(content)
    return _glb(content)


def ply_counts(content: bytes) -> dict[str, int]:
    """How many rows of each element the header of a PLY file announces."""
    found = re.findall(rb"^\s*element\s+(\w+)\s+(\d+)", content[: _ply_end(content)], re.MULTILINE)
    return {name.decode(): int(count) for name, count in found}


def _ply_end(content: bytes) -> int:
    """Where the last line of the header begins."""
    if not content.startswith(b"ply"):
        raise UnreadableError("not a PLY file: it does not begin with 'ply'")
    end = content.find(b"end_header")
    if end < 0:
        raise UnreadableError("the header ends early: it has no line end_header")
    return end


def _ply(content: bytes) -> bytes:
    end = _ply_end(content)
    head, body = content[:end], content[end:]
    if re.search(rb"^\s*format\s+ascii", head, re.MULTILINE):
        wanted = sum(ply_counts(content).values())
        there = _lines(body) - 1  # without end_header
        if there < wanted:
            raise UnreadableError(f"it ends early: the header says {wanted} lines, {there} follow")
    return _utf8(head) + body


def _obj(content: bytes) -> bytes:
    content = _utf8(re.sub(rb"#.*", b"", content.replace(b"\\\n", b" ")))
    lines = re.findall(rb"^[ \t]*f[ \t]([^\r\n]*)", content, re.MULTILINE)
    corners = re.sub(rb"/\S*", b"", b" ".join(lines)).split()
    try:
        named = np.array(corners, dtype="S").astype(np.int64)
    except ValueError:
        raise UnreadableError("a face names a vertex by what is no whole number") from None
    count = len(re.findall(rb"^[ \t]*v[ \t]", content, re.MULTILINE))
    wrong = named[(named == 0) | (np.abs(named) > count)]
    if len(wrong):
        raise UnreadableError(f"a face names vertex {wrong[0]}, there are {count}, the first is 1")
    return content


def _off(content: bytes) -> bytes:
    text = re.sub(rb"#.*", b"", content)
    head = re.match(rb"\s*\w*OFF\s+(\d+)\s+(\d+)[^\n]*", text)
    if head is None:
        raise UnreadableError(
            "it does not begin with OFF and how many vertices and faces there are"
        )
    vertices, faces = int(head[1]), int(head[2])
    there = _lines(text[head.end() :])
    if there < vertices + faces:
        raise UnreadableError(
            f"it ends early: the header says {vertices} vertices and {faces} faces, "
            f"{there} lines follow"
        )
    return _utf8(text)


def _stl(content: bytes) -> bytes:
    faces = struct.unpack_from("<I", content, 80)[0] if len(content) >= 84 else 0
    size = 84 + 50 * faces
    if len(content) == size:
        return content
    if content.lstrip()[:5].lower() != b"solid" or b"facet" not in content[:1000].lower():
        raise UnreadableError(
            f"the header says {faces} triangles in {size} bytes, there are {len(content)} bytes"
            if len(content) >= 84
            else "the header ends early"
        )
    if b"endsolid" not in content.lower():
        raise UnreadableError("it ends early: it has no line endsolid")
    return _utf8(content)


def _glb(content: bytes) -> bytes:
    if not content.startswith(b"glTF"):
        raise UnreadableError("not a GLB file: it does not begin with 'glTF'")
    if len(content) < 12:
        raise UnreadableError("the header ends early")
    (size,) = struct.unpack_from("<I", content, 8)
    if len(content) < size:
        raise UnreadableError(
            f"it ends early: the header says {size} bytes, there are {len(content)}"
        )
    return content


def _lines(text: bytes) -> int:
    """How many lines are not blank."""
    return sum(1 for line in text.splitlines() if line.strip())


def _utf8(text: bytes) -> bytes:
    """Names and comments in another encoding say nothing about points."""
    return text.decode("utf-8", "replace").encode()
