"""A clean stop when the user, SLURM or a TPU scheduler asks for one."""

import signal
import threading
from types import FrameType

import jax
from jax.experimental import multihost_utils


class Interruption:
    """Tells after each step whether to save and stop; a context manager.

    On one process SIGTERM and Ctrl-C ask for a stop, and a second Ctrl-C ends the run at once.
    Several processes must stop at the same step. After a SIGTERM, JAX's preemption service chooses
    this step.
    """

    def __init__(self) -> None:
        self._asked = False
        self._replaced: dict[int, object] = {}

    def __enter__(self) -> "Interruption":
        in_main_thread = threading.current_thread() is threading.main_thread()
        if jax.process_count() == 1 and in_main_thread:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._replaced[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._replaced.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _ask(self, number: int, _: FrameType | None) -> None:
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = True

    def asked(self, step: int) -> bool:
        """Whether to stop after `step`. All processes call it, with the same steps."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._asked
