"""A lock on a workdir: one run at a time, and none that a killed run leaves locked."""

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from pathlib import Path

from fer_jax.errors import UserError

_BEAT = 5.0  # Seconds between the signs of life that the holder gives to other machines.


class Lock:
    """Holds `.lock` in a workdir until `release` or the end of the process.

    The kernel's lock (`flock`) decides, since it ends with its process. Some file systems have no
    such lock, and a server may keep the lock of a machine that has died. There the process decides
    that the file names. On its own machine the lock holds while that process runs; seen from
    another machine, while the file's time changes.
    """

    def __init__(self, workdir: Path):
        """Takes the lock.

        Raises:
          UserError: another process holds it (the message has its id and host), or the folder
            cannot be written.
        """
        self._path = workdir / ".lock"
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            self._file = _open(self._path)
        except OSError as error:
            raise UserError(f"{workdir} cannot be a workdir: {error}; choose another") from error
        holder = json.dumps(_this_process())
        os.truncate(self._file, 0)
        os.write(self._file, holder.encode())
        self._released = threading.Event()
        threading.Thread(target=self._beat, name="lock", daemon=True).start()

    def release(self) -> None:
        """Gives the lock back."""
        if not self._released.is_set():
            self._released.set()
            self._path.unlink(missing_ok=True)
            os.close(self._file)

    def _beat(self) -> None:
        while not self._released.wait(_BEAT):
            with contextlib.suppress(OSError):
                os.utime(self._path)


def _open(path: Path) -> int:
    """Returns a descriptor of the file at `path`, locked.

    Raises:
      UserError: another process holds the lock.
    """
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        if (problem := _refusal(path, file)) is None:
            with contextlib.suppress(FileNotFoundError):
                if os.stat(path).st_ino == os.fstat(file).st_ino:
                    return file
        os.close(file)  # Its holder has just deleted it, or still holds it.
        if problem:
            raise UserError(problem)


def _refusal(path: Path, file: int) -> str | None:
    """Takes the lock of an open file. Returns None, or why another process has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        locked = True
    except OSError:
        locked = False  # The file system has no locks.
    try:
        holder = json.loads(os.read(file, 4096))
        host, process = str(holder["host"]), int(holder["process"])
    except (ValueError, KeyError, TypeError):  # Empty: new, or about to be written.
        return f"another process is training in {path.parent}; wait for it" if locked else None
    if host == socket.gethostname():
        lives = locked or holder == _this_process(process)
    else:
        lives = _moves(path)
    if not lives:
        return None
    return (
        f"process {process} on {host} is training in {path.parent}; "
        "wait for it, stop it, or choose another --workdir"
    )


def _moves(path: Path) -> bool:
    """Whether the file's time changes within the time of three signs of life."""
    until, seen = time.monotonic() + 3 * _BEAT, path.stat().st_mtime_ns
    while time.monotonic() < until:
        time.sleep(0.2)
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime_ns != seen:
                return True
    return False


def _this_process(process: int | None = None) -> dict[str, object]:
    """Returns what tells a process from all others; with a number, of that process."""
    process = process or os.getpid()
    try:  # Numbers are used again, but not with the same time of start.
        started = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        started = ""
    return {"host": socket.gethostname(), "process": process, "started": started}
