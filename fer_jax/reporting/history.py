"""metrics.jsonl: the history of a run, one JSON object per epoch."""

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
"""The keys of one epoch, in the order of the file."""


def write_history(path: str | os.PathLike, history: Sequence[Mapping[str, Any]]) -> None:
    """Writes the whole history atomically, one JSON object per line.

    JSON has no NaN or infinity, so both become null. None becomes null too, so that a history can
    be read and written again.

    Raises:
      ValueError: the keys of an epoch are not `HISTORY_KEYS`.
    """
    write_atomically(path, "".join(_line(epoch) + "\n" for epoch in history))


def read_history(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Reads a file of `write_history` with at least one epoch.

    Raises:
      UserError: the file is missing, empty or damaged.
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
    """Returns the median of the epochs' images/s; there is at least one epoch."""
    return statistics.median(epoch["images_per_second"] for epoch in history)


def _line(epoch: Mapping[str, Any]) -> str:
    if wrong := set(epoch) ^ set(HISTORY_KEYS):
        raise ValueError(f"missing or unknown keys {sorted(wrong)} in the epoch {dict(epoch)}")
    return json.dumps({key: _number(key, epoch[key]) for key in HISTORY_KEYS}, allow_nan=False)


def _number(key: str, value: Any) -> int | float | None:
    if value is None or not math.isfinite(value):
        return None
    return int(value) if key in ("epoch", "step") else float(value)
