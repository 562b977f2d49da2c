"""Paths as users give them: checked, expanded, and shown in messages."""

import os
import re
import tempfile
import unicodedata
from pathlib import Path

from fer_jax.errors import UserError

_NAME_BYTES, _PATH_BYTES = 255, 4_095  # The limits of Linux and of most file systems.


def check_path(text: str) -> None:
    """Raises `UserError` if no file can have this path: it is empty, too long or has a null."""
    longest = max((len(os.fsencode(name)) for name in text.split(os.sep)), default=0)
    if not text:
        raise UserError("the path is empty; give one")
    if "\0" in text:
        raise UserError(f"the path {text!r} has a null character; give another")
    if longest > _NAME_BYTES:
        raise UserError(f"a name in the path has {longest:,} bytes; give {_NAME_BYTES} or fewer")
    if len(os.fsencode(text)) > _PATH_BYTES:
        raise UserError(f"the path has over {_PATH_BYTES:,} bytes; give a shorter one")


def user_path(text: str) -> Path:
    """Returns the path that a user gave; a leading `~` or `~user` becomes that home folder.

    Raises:
      UserError: no file can have this path, or there is no such user.
    """
    check_path(text)
    try:
        return Path(text).expanduser()
    except RuntimeError:
        user = text.split(os.sep)[0]
        raise UserError(f"{user} is no user's home folder; give another path") from None


def is_url(place: str | os.PathLike) -> bool:
    """Returns whether a place is a URL, such as gs://bucket/run, and no path."""
    return isinstance(place, str) and bool(re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", place))


def user_place(place: str | os.PathLike) -> Path | str:
    """Returns the URL that a user gave as text without a slash at its end, else `user_path`.

    Raises:
      UserError: no file can have this path, or it is a URL that lacks a slash.
    """
    text = os.fspath(place)
    if is_url(text):
        check_path(text)
        url = text.rstrip("/")
        names = url.partition("://")[2].split("/")
        if "" in names[1:] or names == [""] or any(name.startswith(".") for name in names):
            raise UserError(f"{text} names no folder; give a URL such as gs://bucket/folder")
        return url
    path = user_path(text)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text) and not Path(path.parts[0]).exists():
        url = text.replace(":/", "://", 1)
        raise UserError(f"{text} lacks a slash: give {url}, as text, since a Path drops one")
    return path


def check_folder(flag: str, path: Path) -> None:
    """Raises `UserError` if `path`, the value of `flag`, is no folder that files can be made in.

    A folder that does not exist is not made, but its nearest parent is tried.
    """
    nearest = next(place for place in (path, *path.parents) if os.path.lexists(place))
    if not nearest.is_dir():
        raise UserError(f"{flag}={path} cannot be a folder: {nearest} is a file; choose another")
    try:
        tempfile.TemporaryFile(dir=nearest).close()
    except OSError as error:
        raise UserError(
            f"{flag}={path} cannot be written to: {error.strerror or error}; choose another"
        ) from None


def printable(text: str) -> str:
    """Escapes what a terminal would obey or cannot show, for file names in tables and messages."""
    return "".join(
        _escape(letter) if unicodedata.category(letter) in _UNPRINTABLE else letter
        for letter in text
    )


_UNPRINTABLE = ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp")


def _escape(letter: str) -> str:
    if "\udc80" <= letter <= "\udcff":  # a byte of a name that is not UTF-8
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter.encode("unicode_escape").decode()
