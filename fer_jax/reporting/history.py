"""metrics.jsonl: the history of a run, one object per epoch."""

import json
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from fer_jax.errors import UserError, write_atomically

HISTORY_KEYS = (
    "epoch",
    "step",
    "train_loss",
    "train_accuracy",
    "val_loss",
    "val_accuracy",
    "learning_rate",
    "images_per_second",
    "seconds",
)
"""The keys of one epoch, in the order in which they are written."""


def write_history(path: str | os.PathLike, history: Sequence[Mapping[str, Any]]) -> None:
    """Writes the whole history atomically, one JSON object per line.

    Floats that are not finite become null, which JSON has and NaN it has not. None stays null, so
    that a history read back can be written again.

    Raises:
      ValueError: an epoch lacks one of `HISTORY_KEYS` or has another.
    """
    write_atomically(path, "".join(_line(epoch) + "\n" for epoch in history))


def read_history(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Reads what `write_history` wrote, one epoch or more.

    Raises:
      UserError: there is none, or it is not whole.
    """
    try:
        with open(path, encoding="utf-8") as file:
            history = [json.loads(line) for line in file]
        if not history or any(set(epoch) != set(HISTORY_KEYS) for epoch in history):
            raise ValueError(f"not one object per epoch with the keys {', '.join(HISTORY_KEYS)}")
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"cannot read the history of a run in {path}: {error}") from error
    return history


def median_speed(history: Sequence[Mapping[str, Any]]) -> float:
    """Returns images/s of the median epoch, of one epoch or more."""
    return statistics.median(epoch["images_per_second"] for epoch in history)


def _line(epoch: Mapping[str, Any]) -> str:
    if wrong := set(epoch) ^ set(HISTORY_KEYS):
        raise ValueError(f"missing or unknown keys {sorted(wrong)} in the history's {dict(epoch)}")
    return json.dumps({key: _number(key, epoch[key]) for key in HISTORY_KEYS}, allow_nan=False)


def _number(key: str, value: Any) -> int | float | None:
    if value is None or not math.isfinite(value):
        return None
    return int(value) if key in ("epoch", "step") else float(value)
