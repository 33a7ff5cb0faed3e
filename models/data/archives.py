# SPDX-License-Identifier: MIT
"""Debian packages, zip files and folders, read so that a hostile name has nowhere to lead."""

from __future__ import annotations

import lzma
import posixpath
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

_MEMBER_LIMIT = 512 << 20  # bytes of one member of a package; the largest library has 60 MB
_FILE_LIMIT = 64 << 20  # bytes of one mesh, material or texture


class PrepareError(Exception):
    """Something that the user can mend; shown as one line."""


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


def unpack_deb(deb: Path, target: Path, wanted: Callable[[str], bool]) -> list[Path]:
    """Unpack the regular files of a .deb whose path is wanted, keeping their folders.

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
                    return _unpack_tar(archive, target, wanted)
            except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
                raise PrepareError(f"{deb.name}: broken archive ({error})") from error
    raise PrepareError(f"{deb.name}: no data.tar inside")


def _unpack_tar(
    archive: tarfile.TarFile, target: Path, wanted: Callable[[str], bool]
) -> list[Path]:
    written = []
    for member in archive:
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts or "\\" in member.name:
            raise PrepareError(f"archive member {member.name!r} would leave the target folder")
        if member.isdir() or not wanted(member.name):
            continue
        # A drive letter leads away on Windows only; the packages have none in what is wanted.
        if ":" in member.name:
            raise PrepareError(f"archive member {member.name!r} would leave the target folder")
        if not member.isreg():
            raise PrepareError(f"archive member {member.name!r} is a link or a device")
        if member.size > _MEMBER_LIMIT:
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


class ZipFiles:
    """Files of a zip; nothing is unpacked to disk."""

    def __init__(self, path: Path) -> None:
        self._zip = zipfile.ZipFile(path)

    def __enter__(self) -> ZipFiles:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def read(self, name: str) -> bytes:
        """Bytes of one file, refused when it claims to be larger than any honest mesh."""
        info = self._zip.getinfo(name)
        _check_size(name, info.file_size)
        return self._zip.read(info)


class FolderFiles:
    """Files of a folder and of what lies below it, by relative path."""

    def __init__(self, path: Path) -> None:
        self._root = path.resolve()

    def __enter__(self) -> FolderFiles:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read(self, name: str) -> bytes:
        """Bytes of one file; KeyError where there is none, or where the name leads out."""
        path = (self._root / name).resolve()
        if not path.is_relative_to(self._root) or not path.is_file():
            raise KeyError(f"no file {name!r}")
        _check_size(name, path.stat().st_size)
        return path.read_bytes()


def _check_size(name: str, size: int) -> None:
    if size > _FILE_LIMIT:
        raise ValueError(f"{name} is {size >> 20} MB, more than {_FILE_LIMIT >> 20} MB")


def open_files(path: Path) -> ZipFiles | FolderFiles:
    """A zip or a folder."""
    return FolderFiles(path) if path.is_dir() else ZipFiles(path)


class Beside:
    """The files beside a mesh, under the names that the mesh gives them (trimesh's resolver)."""

    def __init__(self, files: ZipFiles | FolderFiles, folder: str) -> None:
        self._files, self._folder = files, folder

    def get(self, name: str) -> bytes:
        return self._files.read(
            posixpath.normpath(posixpath.join(self._folder, name.strip().replace("\\", "/")))
        )

    __getitem__ = get

    def namespaced(self, namespace: str) -> Beside:
        return Beside(self._files, posixpath.join(self._folder, namespace))
