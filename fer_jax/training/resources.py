"""Where a run's seconds and memory go: a clock of phases, and resources.json."""

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import jax

from fer_jax.errors import told, write_atomically
from fer_jax.processes import worker
from fer_jax.workdir import RESOURCES, read_resources

_IMPORTED = time.monotonic()


class Clock:
    """Divides a run's time among phases, one after the other; every second belongs to one.

    A phase may come again, and then goes on. Only one thread calls it.
    """

    def __init__(self, started: float | None = None):
        """Begins the phase "other".

        Args:
          started: when the command started, see `command_start`; the time since then is "imports".
            None: the clock starts now.
        """
        self._seconds: dict[str, float] = {}
        self._phase = "imports"
        self._since = time.monotonic() if started is None else started
        self._starts = 1
        self._peaks: dict[str, float | None] = {"host": None, "device": None}
        self.begin("other")

    def begin(self, phase: str) -> None:
        """Ends the phase that has lasted until now, and begins another, or the same again."""
        now = time.monotonic()
        self._seconds[self._phase] = self._seconds.get(self._phase, 0.0) + now - self._since
        self._phase, self._since = phase, now

    def resume(self, workdir: Path) -> None:
        """Adds what the earlier starts of the run in `workdir` took."""
        if before := read_resources(workdir):
            self._starts += before["starts"]
            self._peaks = before["peak_memory_mib"]
            now, self._seconds = self._seconds, dict(before["seconds"])
            for phase, seconds in now.items():
                self._seconds[phase] = self._seconds.get(phase, 0.0) + seconds

    def facts(self) -> dict[str, Any]:
        """Returns what is known by now, as in resources.json, see docs/workdir.md."""
        self.begin(self._phase)
        order = sorted(self._seconds, key="other".__eq__)  # It comes last.
        seconds = {phase: round(self._seconds[phase], 3) for phase in order}
        now = {"host": _host_peak_mib(), "device": _device_peak_mib()}
        peaks = {
            place: max((p for p in (self._peaks[place], peak) if p is not None), default=None)
            for place, peak in now.items()
        }
        return {
            "starts": self._starts,
            "seconds": seconds,
            "total_seconds": round(sum(seconds.values()), 3),
            "peak_memory_mib": peaks,
        }

    def write(self, workdir: Path) -> None:
        """Writes resources.json; only process 0 does."""
        if jax.process_index() == 0:
            with told(RESOURCES):
                write_atomically(workdir / RESOURCES, json.dumps(self.facts(), indent=2) + "\n")

    def __str__(self) -> str:
        """Where the seconds went, in one line."""
        facts = self.facts()
        seconds = facts["seconds"]
        parts = [f"{phase} {seconds[phase]:.1f}" for phase in seconds if seconds[phase] >= 0.05]
        starts = f" in {facts['starts']} starts" if facts["starts"] > 1 else ""
        return f"{facts['total_seconds']:.1f} seconds{starts}: {', '.join(parts)}"


def command_start() -> float:
    """Returns when this command started, on the clock of `time.monotonic`.

    That is before Python was, let alone its imports. One of several processes was started by its
    supervisor, which is the command. Without Linux's `/proc` it is the time of this import.
    """
    process = os.getppid() if worker.is_worker() else "self"
    try:
        ticks = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
        booted = time.clock_gettime(time.CLOCK_BOOTTIME)
    except (OSError, AttributeError):
        return _IMPORTED
    return time.monotonic() - (booted - int(ticks) / os.sysconf("SC_CLK_TCK"))


def _host_peak_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def _device_peak_mib() -> float | None:
    """Returns the most memory that was in use on one device; None where XLA does not count it."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [each["peak_bytes_in_use"] for each in stats if "peak_bytes_in_use" in each]
    return round(max(peaks) / 2**20, 1) if peaks else None
