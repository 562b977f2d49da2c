"""One start for `benchmarks.start_up`: runs `fer_jax.main` up to its first step, and ends there.

Prints one line of JSON: from the end of each part to the seconds since the command was given and
the seconds of processor time.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from fer_jax import cli

if __name__ == "__main__":
    cli.use_huge_pages()

STARTED = float(sys.argv.pop(1))  # On the clock of the process that gave the command.

ends: dict[str, tuple[float, float]] = {}


def end(part: str) -> None:
    """Notes that a part ends now; of several times the last counts."""
    ends[part] = (time.monotonic() - STARTED, time.process_time())


def call_after(owner: type, method: str, then: Callable[[], Any]) -> None:
    """Has `then` called whenever the method has returned."""
    function = getattr(owner, method)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        then()
        return result

    setattr(owner, method, wrapped)


def stop(checker: Any, step: int, losses: Any) -> None:
    """Takes the place of `FiniteLosses.add`, which is given the losses of each call."""
    losses.block_until_ready()
    end("first step")
    print(json.dumps(ends), flush=True)
    os._exit(0)


if __name__ == "__main__":
    from jax.stages import Lowered

    import fer_jax.train  # noqa: F401  All that the command imports.
    from fer_jax import main
    from fer_jax.data.records import DataSet
    from fer_jax.training.step import FiniteLosses

    end("imports")
    call_after(DataSet, "load", lambda: end("data"))
    call_after(Lowered, "compile", lambda: end("compilation"))
    FiniteLosses.add = stop  # type: ignore[method-assign]
    cli.run(main.main, main.define_flags)
