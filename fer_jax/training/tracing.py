"""A profile of some training steps, to be opened in TensorBoard or Perfetto."""

from pathlib import Path
from typing import Any

import jax

_WARM_UP = 10  # Steps before the recording, because the first ones are not typical.


class Trace:
    """Records `steps` steps of a run, after its first ones, into `directory`; 0 records nothing.

    A context manager; leaving it ends a recording.
    """

    def __init__(self, directory: Path, steps: int):
        self._directory, self._steps = directory, steps
        self._seen, self._until = 0, 0

    def __enter__(self) -> "Trace":
        return self

    def __exit__(self, *_: object) -> None:
        if self._until:
            jax.profiler.stop_trace()

    def advance(self, taken: int, state: Any) -> None:
        """Counts `taken` more steps, which led to `state`, and starts or stops the recording."""
        self._seen += taken
        if self._until and self._seen >= self._until:
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
            self._steps = self._until = 0
        elif self._steps and not self._until and self._seen >= _WARM_UP:
            jax.block_until_ready(state)
            jax.profiler.start_trace(self._directory)
            self._until = self._seen + self._steps
