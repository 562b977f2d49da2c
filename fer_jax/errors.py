"""Errors that the user can fix, and files that are written whole or not at all."""

import os
from pathlib import Path


class UserError(Exception):
    """A mistake that the user can fix. The message is one line: the problem, and how to fix it.

    Commands print it without a traceback and end with exit status 2.
    """


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
