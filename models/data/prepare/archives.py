# SPDX-License-Identifier: MIT
"""Debian packages, zip files and folders, read so that a hostile name has nowhere to lead."""

from __future__ import annotations

import bz2
import gzip
import lzma
import posixpath
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

FILE_LIMIT = 64 << 20  # bytes of one mesh, material or texture, unless the user says otherwise
_MEMBER_LIMIT = 512 << 20  # bytes of one member of a package; the largest library has 60 MB
_TOTAL_LIMIT = 8 << 30  # bytes of all of them, wanted or not
_READ_LIMIT = 1 << 20  # bytes that are read at once; a long name has some hundreds


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


class _Forward:
    """A tar archive's bytes, which can be read forwards only and a little at a time.

    tarfile reads members in small pieces, but a name in one, of the size that its header tells: a
    forged header would take all memory, or lead back to where tarfile has been.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._start = file, file.tell()

    def tell(self) -> int:
        return self._file.tell() - self._start

    def seek(self, place: int) -> None:
        if place < self.tell():
            raise PrepareError("broken archive (a header leads back)")
        with _named():
            self._file.seek(self._start + place)

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _READ_LIMIT:
            raise PrepareError(f"broken archive (a header of {size} bytes)")
        with _named():
            return self._file.read(size)


@contextmanager
def _named() -> Iterator[None]:
    """What a decompressor says of a broken archive, as a PrepareError."""
    try:
        yield
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise PrepareError(f"broken archive ({error})") from error


_UNPACKED: dict[str, Callable[[BinaryIO], BinaryIO]] = {
    "data.tar": lambda file: file,
    "data.tar.gz": lambda file: gzip.GzipFile(fileobj=file),
    "data.tar.bz2": bz2.BZ2File,
    "data.tar.xz": lzma.LZMAFile,
    "data.tar.lzma": lzma.LZMAFile,
}


def unpack_deb(deb: Path, target: Path, wanted: Callable[[str], bool]) -> list[Path]:
    """Unpack the regular files of a .deb whose path is wanted, keeping their folders.

    Links and devices are left out. Raises PrepareError on a path that would leave the target.
    """
    with deb.open("rb") as file:
        for name, _ in ar_members(file):
            if not name.startswith("data.tar"):
                continue
            if name not in _UNPACKED:
                raise PrepareError(f"{deb.name}: {name} is not supported; repack it with xz")
            try:
                data = _Forward(_UNPACKED[name](file))
                with tarfile.open(fileobj=data, mode="r:") as archive:
                    return _unpack_tar(archive, target, wanted)
            except tarfile.TarError as error:
                raise PrepareError(f"{deb.name}: broken archive ({error})") from error
            except PrepareError as error:
                raise PrepareError(f"{deb.name}: {error}") from error
    raise PrepareError(f"{deb.name}: no data.tar inside")


def _unpack_tar(
    archive: tarfile.TarFile, target: Path, wanted: Callable[[str], bool]
) -> list[Path]:
    if not hasattr(tarfile, "data_filter"):
        raise PrepareError("safe unpacking needs Python 3.10.12, 3.11.4, 3.12 or later")
    written, total = [], 0
    target.mkdir(parents=True, exist_ok=True)
    for member in archive:
        total += member.size
        if total > _TOTAL_LIMIT:
            raise PrepareError(f"the archive holds more than {_TOTAL_LIMIT >> 30} GB")
        if not member.isreg() or not wanted(member.name):
            continue
        if member.size > _MEMBER_LIMIT:
            raise PrepareError(f"archive member {member.name!r} is {member.size >> 20} MB")
        # Owners, links and paths that lead out are the filter's business.
        archive.extract(member, target, set_attrs=False, filter="data")
        written.append(target / member.name)
    return written


class ZipFiles:
    """Files of a zip; nothing is unpacked to disk. limit: bytes of one file."""

    def __init__(self, path: Path, limit: int = FILE_LIMIT) -> None:
        self._zip, self._limit = zipfile.ZipFile(path), limit

    def __enter__(self) -> ZipFiles:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def read(self, name: str) -> bytes:
        """Bytes of one file; ValueError where it is larger than the limit."""
        info = self._zip.getinfo(name)
        _check_size(name, info.file_size, self._limit)
        return self._zip.read(info)


class FolderFiles:
    """Files of a folder and of what lies below it, by relative path. limit: bytes of one file.

    A link of the folder is followed: the user has put it there. A name with ".." leads nowhere.
    """

    def __init__(self, path: Path, limit: int = FILE_LIMIT) -> None:
        self._root, self._limit = path, limit

    def __enter__(self) -> FolderFiles:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read(self, name: str) -> bytes:
        """Bytes of one file; KeyError where there is none, or where the name leads out."""
        path = inside(self._root, name)
        if path is None or not path.is_file():
            raise KeyError(f"no file {name!r}")
        _check_size(name, path.stat().st_size, self._limit)
        return path.read_bytes()


def inside(folder: Path, name: str) -> Path | None:
    """folder/name; None where the name is absolute or steps out of the folder."""
    parts = PurePosixPath(posixpath.normpath(name.replace("\\", "/")))
    leads_out = parts.is_absolute() or Path(parts).is_absolute() or ".." in parts.parts
    return None if leads_out else folder / parts


def _check_size(name: str, size: int, limit: int) -> None:
    if size > limit:
        raise ValueError(f"{name} is {size >> 20} MB, more than {limit >> 20} MB (--max-file-mb)")


def open_files(path: Path, limit: int = FILE_LIMIT) -> ZipFiles | FolderFiles:
    """A zip or a folder."""
    return FolderFiles(path, limit) if path.is_dir() else ZipFiles(path, limit)


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
