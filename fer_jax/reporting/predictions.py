"""What a checkpoint says about the images of a split: in memory, and as predictions.csv."""

import csv
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from fer_jax.data.records import DataSet, Records
from fer_jax.errors import UserError

_SHOWN = 35


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What one checkpoint of a run predicts for one split.

    Attributes:
      workdir: of the run.
      split: its name.
      checkpoint_step: of the checkpoint.
      data: the data set that the split is of.
      records: of the split, n of them.
      probabilities: Float[n, classes], rows that sum to 1.
      views: of each image, whose probabilities they are the mean of.

    Raises:
      ValueError: not one row, label and file name per record.
    """

    workdir: Path
    split: str
    checkpoint_step: int
    data: DataSet
    records: Records
    probabilities: Float[np.ndarray, "n classes"]
    views: str = "one"

    def __post_init__(self):
        names, labels = len(self.records.filenames), len(self.records.labels)
        if not len(self.probabilities) == names == labels:
            raise ValueError(
                f"{len(self.probabilities)} rows of probabilities and {names} file names "
                f"for {labels} labels"
            )

    @property
    def directory(self) -> Path:
        """Where the files of this evaluation lie."""
        return evaluation_dir(self.workdir, self.split)

    @property
    def predicted(self) -> Int[np.ndarray, " n"]:
        """The most probable class of each record."""
        return self.probabilities.argmax(axis=1)

    @property
    def shown(self) -> Int[np.ndarray, " k"]:
        """At most 35 records, drawn at random, the same ones whenever n is the same."""
        return np.random.default_rng(0).permutation(len(self.records))[:_SHOWN]

    def to_csv(self) -> str:
        """Returns `filename,label,predicted` and one probability column per class.

        Labels are class names; probabilities have the digits that tell any two of their type apart.
        """
        classes, table = self.data.classes, io.StringIO()
        rows = csv.writer(table, lineterminator="\n")
        rows.writerow(["filename", "label", "predicted", *classes])
        for name, label, guess, row in zip(
            self.records.filenames,
            self.records.labels,
            self.predicted,
            self.probabilities,
            strict=True,
        ):
            # str() of a NumPy float is the shortest text that reads back as the same float.
            rows.writerow([name, classes[label], classes[guess], *map(str, row)])
        return table.getvalue()


class SavedPredictions(NamedTuple):
    """What `read_predictions` returns, in the file's order."""

    filenames: Sequence[str]
    labels: Int[np.ndarray, " n"]
    probabilities: Float[np.ndarray, "n classes"]
    classes: Sequence[str]


def evaluation_dir(workdir: Path, split: str) -> Path:
    """Returns the folder of a run's evaluation on a split."""
    return workdir / "eval" / split


def read_predictions(workdir: Path, split: str) -> SavedPredictions:
    """Reads the predictions.csv of a run's evaluation on a split.

    Raises:
      UserError: there is none, or it is not one that an evaluation wrote.
    """
    path = evaluation_dir(workdir, split) / "predictions.csv"
    try:
        with open(path, newline="", encoding="utf-8") as file:
            (_, _, _, *classes), *rows = csv.reader(file)
        if not rows:
            raise ValueError("it holds no image")
        return SavedPredictions(
            filenames=[row[0] for row in rows],
            labels=np.array([classes.index(row[1]) for row in rows]),
            probabilities=np.array([row[3:] for row in rows], np.float64),
            classes=classes,
        )
    except FileNotFoundError as error:
        raise UserError(
            f"{workdir} has no predictions for {split}; make them with "
            f"`python -m fer_jax.evaluate --workdir={workdir} --split={split}`"
        ) from error
    except (OSError, ValueError, IndexError) as error:
        raise UserError(
            f"cannot read {path}: {error}; write it anew with "
            f"`python -m fer_jax.evaluate --workdir={workdir} --split={split}`"
        ) from error
