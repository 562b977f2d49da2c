"""Processes that time one network each, and take turns.

Each waits while the others take their turns. So another's threads do not slow it down, and a drift
of the machine's speed affects all alike.
"""

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags

from benchmarks import record
from benchmarks.children import failure
from fer_jax.config import load_config
from fer_jax.data.contract import ImageFormat
from fer_jax.errors import UserError

Turn = Mapping[str, Any]
"""The JSON that a process prints for a turn: `version` and `rows`, the figures by framework. Ours
adds `hardware`, `dtype`, `memory` and `peak` in words, `flops_per_image` and `peak_flops`."""


flags.disclaim_key_flags()  # Flags belong to the command that asks for them, and to its --help.

CONFIGS = ("published/small_cnn", "published/medium_cnn", "published/large_cnn", "resnet")


def define_flags(*, seconds: float) -> None:
    """Defines the flags of a command whose sides take turns."""
    flags.DEFINE_list("configs", list(CONFIGS), "Networks to time: names or files of configs.")
    flags.DEFINE_integer("rounds", 3, "Number of turns of each side.")
    flags.DEFINE_float("seconds", seconds, "Length of each of the two timings of a turn.")
    flags.DEFINE_integer("batch_size", 64, "Images in a batch.")
    record.define_flags()


class Side(NamedTuple):
    """A process to start: its command, its job, and additional environment variables."""

    command: Sequence[str]
    job: Mapping[str, Any]
    environment: Mapping[str, str] = {}


def make_job(name: str, *, batch_size: int, seconds: float, **more: Any) -> dict[str, Any]:
    """Returns the job that all sides get, as plain data: a config's network and how to time it.

    Args:
      name: name or file of a config.
      batch_size: images in a batch.
      seconds: length of each timing.
      more: options that only our side reads: `members`, number of networks that an additional row
        trains together on a GPU or TPU; `host_only`, whether to time `config.input=host` only;
        `without_ynnpack`, whether to leave YNNPACK out of the compiler options.

    Raises:
      UserError: there is no such config.
    """
    from fer_jax.models import follow_data  # It imports JAX, which takes seconds.

    config = load_config(name)
    model = dict(follow_data(config.model, ImageFormat()))
    job = {"config": name, "model": model, "shift": config.shift}
    return job | {"flip": config.flip, "batch_size": batch_size, "seconds": seconds, **more}


def take_turns(
    sides: Mapping[tuple[str, str], Side], rounds: int
) -> dict[tuple[str, str], list[Turn]]:
    """Starts all sides at once; then each takes its turn, round after round.

    Raises:
      UserError: a side ended early.
    """
    turns: dict[tuple[str, str], list[Turn]] = {name: [] for name in sides}
    with contextlib.ExitStack() as stack:
        started = {name: stack.enter_context(_Process(*side)) for name, side in sides.items()}
        for process in started.values():
            process.wait_for("ready")
        for name, process in rounds * list(started.items()):
            turns[name].append(process.take_turn())
            print(*name, json.dumps(turns[name][-1]), flush=True)
    return turns


def versions(turns: Iterable[Turn]) -> dict[str, str]:
    """Returns what was timed, such as {"fer_jax on jax": "0.12.0"}."""
    parts = (turn["version"].rpartition(" ") for turn in turns)
    return {name: number for name, _, number in parts}


class _Process:
    def __init__(
        self, command: Sequence[str], job: Mapping[str, Any], environment: Mapping[str, str]
    ):
        self._program = command[0]
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  Closed at the end.
        try:
            self._process = subprocess.Popen(
                [*command, json.dumps(job)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                # Otherwise the first process on a GPU takes most of its memory.
                env={**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false", **environment},
            )
        except OSError as error:
            raise UserError(
                f"cannot run {self._program}: {error.strerror}; name an interpreter"
            ) from None

    def __enter__(self) -> "_Process":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def take_turn(self) -> Turn:
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):
            print(file=self._process.stdin, flush=True)
        return json.loads(self.wait_for("{"))

    def wait_for(self, start: str) -> str:
        """Returns the next line that starts like this. Libraries print the others."""
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith(start):
                return line
        status = self._process.wait()
        self._errors.seek(0)
        raise failure(self._program, self._errors.read(), status)
