"""Errors that the user can fix, and files that are written whole or not at all."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

STATUS = 2
"""Exit status of a command that ends with a `UserError`."""


class UserError(Exception):
    """A mistake that the user can fix. The message is one line: the problem, and how to fix it.

    Commands print it without a traceback and end with exit status `STATUS`.
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
