"""The terminal output of a training run: a table with a row per epoch, and a progress bar."""

from collections.abc import Mapping
from typing import Any

import jax
from tqdm import tqdm

_HEADER = " epoch    train loss  accuracy    val loss  accuracy        rate    images/s"


class EpochTable:
    """The table and the bar, as a context manager.

    Only process 0 prints. The bar appears only in a terminal.
    """

    def __init__(self, epochs: int, images_per_epoch: int, *, images_done: int):
        self._epochs = epochs
        self._silent = jax.process_index() != 0
        self._bar = tqdm(
            total=epochs * images_per_epoch,
            initial=images_done,
            unit=" images",
            unit_scale=True,
            dynamic_ncols=True,
            leave=False,
            disable=True if self._silent else None,
        )

    def __enter__(self) -> "EpochTable":
        self.write(f"\n{_HEADER}")
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def advance(self, images: int) -> None:
        """Advances the bar, which shows images/s and the remaining time."""
        self._bar.update(images)

    def add(self, epoch: Mapping[str, Any], *, best: bool) -> None:
        """Prints the row of an epoch; `best` marks the best one so far."""
        self.write(
            f"{epoch['epoch']:>3}/{self._epochs:<3}"
            f"{epoch['train_loss']:>13.4f}{epoch['train_accuracy']:>10.2%}"
            f"{epoch['val_loss']:>12.4f}{epoch['val_accuracy']:>10.2%}"
            f"{epoch['learning_rate']:>12.1e}{epoch['images_per_second']:>12,.0f}"
            f"{'  best' if best else ''}"
        )

    def write(self, line: str) -> None:
        """Prints a line above the bar."""
        if not self._silent:
            tqdm.write(line)
