"""Errors that the user can fix, paths as users give them, and files that are written whole."""

import contextlib
import errno
import os
import sys
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path

_NAME_BYTES, _PATH_BYTES = 255, 4_095  # The limits of Linux and of most file systems.


class UserError(Exception):
    """A mistake that the user can fix. The message is one line: the problem, and how to fix it.

    Commands print it without a traceback and end with exit status 2.
    """


DISK_ERRORS = {
    *(errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOSPC, errno.EROFS),
    *(errno.EEXIST, errno.EISDIR, errno.ENOTDIR),
}
"""Errors of files that are a matter of the machine: no room, no access, a broken disk; or a file
stands where a folder should be, or a folder where a file should be."""


def warn(message: object) -> None:
    """Prints one line about something that went wrong but does not end the command."""
    print(f"warning: {' '.join(str(message).split())}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def told(what: object) -> Iterator[None]:
    """Turns an error in writing `what`, which nothing depends on, into a warning."""
    try:
        yield
    except Exception as error:
        warn(f"{what} could not be written: {type(error).__name__}: {error}")


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


def write_atomically(path: str | os.PathLike, content: str | bytes) -> None:
    """Writes `content` so that readers see the old file or the whole new one, even after a kill."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    if isinstance(content, str):
        content = content.encode()
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
