# SPDX-License-Identifier: MIT
"""Files that are written whole or not at all, and folders that one process writes to."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of `path` once the block is over.

    An error or an interrupt in the block leaves the old file as it was and nothing beside it; only
    a kill or a power cut leaves PATH.tmp.
    """
    beside = path.with_name(path.name + ".tmp")
    try:
        with open(beside, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write `path` in UTF-8, whole or not at all."""
    with replacing(path) as file:
        file.write(text.encode())


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` against other processes that ask for it.

    It is made if it is not there, and goes again if nothing was put into it. The lock is the
    kernel's (flock), so it ends with the process, however that ends.

    Raises:
        ValueError: another process holds the folder.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise ValueError(
            f"{folder}: another run is writing into this folder; wait for it, or choose another "
            "with --out"
        ) from None
    except OSError as error:
        os.close(handle)
        raise OSError(
            f"{folder}: this file system cannot lock a folder ({error.strerror})"
        ) from None
    try:
        yield
    finally:
        os.close(handle)
        with suppress(OSError):  # not empty
            for path in made:
                path.rmdir()
