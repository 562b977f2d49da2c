"""A clean stop when the user, SLURM or a TPU scheduler asks for one."""

import contextlib

import jax
from jax.experimental import multihost_utils

from fer_jax import stopping


class Interruption(contextlib.ExitStack):
    """Tells after each step whether to save and stop; a context manager.

    On one process SIGTERM and Ctrl-C ask for it, see `stopping.deferred`. Several processes must
    stop at the same step. After a SIGTERM, JAX's preemption service chooses this step.
    """

    def __enter__(self) -> "Interruption":
        super().__enter__()
        self._several = jax.process_count() > 1
        if self._several:
            self._request = stopping.Request()
            self.callback(stopping.take_back)
        else:
            self._request = self.enter_context(stopping.deferred())
        return self

    def asked(self, step: int) -> bool:
        """Whether to stop after `step`. All processes call it, with the same steps."""
        if self._several:
            self._request.asked = multihost_utils.reached_preemption_sync_point(step)
        return self.pending

    @property
    def pending(self) -> bool:
        """Whether a stop is asked for; of several processes, at the step that they agree on."""
        return self._request.asked

    def answer(self) -> None:
        """Says that saving begins. It may take its time."""
        self._request.answered = self._request.asked
