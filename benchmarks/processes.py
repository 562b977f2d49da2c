"""Reads the memory, open files and threads of a running process. Linux only."""

from pathlib import Path
from typing import NamedTuple


class Holding(NamedTuple):
    """Resident MiB, open files and threads of a process at one moment."""

    resident_mib: float
    files: int
    threads: int


def look(pid: int) -> Holding | None:
    """Returns what a process holds; None if it has ended."""
    process = Path(f"/proc/{pid}")
    try:
        lines = (process / "status").read_text().splitlines()
        status = dict(line.split(":", 1) for line in lines)
        resident_kib, threads = (int(status[key].split()[0]) for key in ("VmRSS", "Threads"))
        return Holding(resident_kib / 1024, len(list((process / "fd").iterdir())), threads)
    except (OSError, KeyError):  # An ended process that is not waited for yet has no memory.
        return None
