"""How long jobs take, and whether one still fits."""

import time
from collections.abc import Callable

from benchmarks.gpu.plan import Job


class Budget:
    """The time of a call, and how far the stated seconds of jobs are off."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic):
        """Starts the clock."""
        self._clock = clock
        self._end = clock() + seconds
        self._stated, self._taken = 0.0, 0.0

    @property
    def left(self) -> float:
        """Seconds until the end."""
        return self._end - self._clock()

    def estimate(self, job: Job) -> float:
        """Returns a job's stated seconds, corrected by what finished jobs took of theirs."""
        return job.seconds * (self._taken / self._stated if self._stated else 1.0)

    def fits(self, job: Job) -> bool:
        """Returns whether a job is likely to end in time."""
        return self.estimate(job) <= self.left

    def finished(self, job: Job, seconds: float) -> None:
        """Notes what a whole job took."""
        self._stated += job.seconds
        self._taken += seconds
