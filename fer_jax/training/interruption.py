"""A clean stop when the user, SLURM or a TPU scheduler asks for one."""

import contextlib
import math
import threading
import time

from fer_jax import stopping
from fer_jax.processes import worker


class Interruption(contextlib.ExitStack):
    """Tells at each point where a run can save and stop, whether to; a context manager.

    SIGTERM and Ctrl-C ask for it, see `stopping.deferred`. Several processes must stop at the same
    point, the first one that none of them has passed. They agree on it in the background, because
    one may wait at a point while another waits for it in the middle of a step.
    """

    def __enter__(self) -> "Interruption":
        super().__enter__()
        self._passed, self._last = 0, math.inf
        self._agreeing = threading.Lock()
        self._request = self.enter_context(stopping.deferred())
        worker.when_asked(self._agree)
        self.callback(worker.when_asked, None)
        return self

    def asked(self) -> bool:
        """Whether to stop at this point. All processes call it at the same points."""
        if not worker.is_worker():
            return self._request.asked
        with self._agreeing:
            self._passed += 1
            return self._passed > self._last

    def answer(self) -> None:
        """Says that saving begins. It may take its time."""
        self._request.answered = self._request.asked

    def _agree(self) -> None:
        while not self._request.asked:  # Otherwise the request might come after the stop.
            time.sleep(0.001)
        with self._agreeing:
            if self._last == math.inf:
                self._last = max(worker.gather("points passed", self._passed))
