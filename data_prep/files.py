"""Lists the files of a folder or a zip. Nothing is ever extracted."""

import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, NoReturn

from data_prep.images import refuse
from fer_jax.errors import UserError

MAX_ENTRIES = 2_000_000
MAX_TOTAL_BYTES = 256 << 30
MAX_RATIO = 100
"""Limits on a zip: number of files, unpacked bytes, and unpacked bytes per packed byte. AffectNet
has 420,000 image files, and FER-2013's csv of 300 MB compresses five-fold."""

_SMALL = 16 << 20  # Unpacked bytes below which the ratio is not checked.


@dataclass(frozen=True)
class Entry:
    """One file of a folder or zip.

    Attributes:
      path: path below the top, with parts joined by "/".
      open: function that opens the file for reading, or raises `RejectedError` if it must not be
        opened.
    """

    path: str
    open: Callable[[], IO[bytes]]


@contextmanager
def open_zip(path: Path) -> Iterator[list[Entry]]:
    """Lists the files of a zip, which stays open as long as the context lasts.

    Raises:
      UserError: it is no complete zip, or it looks like a zip bomb.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise UserError(f"{path} is no complete zip ({error}): fetch it again.") from None
    with archive:
        yield list_zip(archive)


def is_zip(path: Path) -> bool:
    """Whether a path is a file that should be a zip. Opening a pipe would block for ever."""
    return path.is_file() and (zipfile.is_zipfile(path) or path.suffix.casefold() == ".zip")


def file_entry(file: Path, path: str) -> Entry:
    """Returns the entry of a file on disk."""

    def open_file() -> IO[bytes]:
        return file.open("rb")

    return Entry(path, open_file)


def list_folder(folder: Path) -> list[Entry]:
    """Lists every file below `folder`, sorted by path. Links are followed.

    Raises:
      OSError: a folder cannot be listed.
    """
    entries = []
    seen = set()
    for parent, children, names in os.walk(folder, onerror=_fail, followlinks=True):
        if (place := os.path.realpath(parent)) in seen:  # A link to a parent would loop for ever.
            children.clear()
            continue
        seen.add(place)
        for name in names:
            file = Path(parent, name)
            path = file.relative_to(folder).as_posix()
            readable = os.fsencode(path).decode(errors="backslashreplace")
            if readable != path:
                entries.append(Entry(readable, refuse("file name is not UTF-8")))
            elif not file.is_file():  # Opening a pipe would block for ever.
                entries.append(Entry(path, refuse("not a regular file, or a broken link")))
            else:
                entries.append(file_entry(file, path))
    return sorted(entries, key=lambda entry: entry.path)


def _fail(error: OSError) -> NoReturn:
    raise error


def list_zip(archive: zipfile.ZipFile) -> list[Entry]:
    """Lists every file of `archive`, sorted by path.

    Raises:
      UserError: it would unpack to more than any set of faces.
    """
    members = [member for member in archive.infolist() if not member.is_dir()]
    unpacked = sum(member.file_size for member in members)
    packed = sum(member.compress_size for member in members)
    if (
        len(members) > MAX_ENTRIES
        or unpacked > MAX_TOTAL_BYTES
        or unpacked > max(_SMALL, MAX_RATIO * packed)
    ):
        raise UserError(
            f"{archive.filename} looks like a zip bomb: {len(members):,} files that unpack from "
            f"{packed:,} to {unpacked:,} bytes. Unpack it yourself if you trust it, and give "
            "--source the folder."
        )
    entries = []
    seen = set()
    for member in members:
        path = member.filename.replace("\\", "/")
        # Names are only labels here, but somebody may later unpack files under these names.
        if path.startswith("/") or ".." in path.split("/") or ":" in path.split("/")[0]:
            entries.append(Entry(path, refuse("path leads outside the archive")))
        elif path in seen:
            entries.append(Entry(path, refuse("the archive holds this name twice")))
        else:
            entries.append(Entry(path, partial(archive.open, member)))
        seen.add(path)
    return sorted(entries, key=lambda entry: entry.path)
