"""The evaluation of a checkpoint on a split: the predictions, in memory and as predictions.csv."""

import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from fer_jax.data.exclusions import Exclusion
from fer_jax.data.records import DataSet, Records
from fer_jax.errors import UserError
from fer_jax.workdir import evaluation_dir

_SAMPLES = 32


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The predictions of one checkpoint for one split.

    Attributes:
      workdir: folder of the run.
      split: its name.
      checkpoint_step: step of the checkpoint.
      data: the data set with the split.
      records: the n records of the split.
      probabilities: Float[n, classes], rows that sum to 1.
      views: name of the views over which `probabilities` are averaged.
      variant: end of the folder's name, see `variant`; empty for the run's own data, views and
        best checkpoint.
      excluded: images without which the figures are given, too; None for one set of figures.

    Raises:
      ValueError: the numbers of rows, labels and file names differ.
    """

    workdir: Path
    split: str
    checkpoint_step: int
    data: DataSet
    records: Records
    probabilities: Float[np.ndarray, "n classes"]
    views: str = "one"
    variant: str = ""
    excluded: Exclusion | None = None

    def __post_init__(self):
        names, labels = len(self.records.filenames), len(self.records.labels)
        if not len(self.probabilities) == names == labels:
            raise ValueError(
                f"{len(self.probabilities)} rows of probabilities and {names} file names "
                f"for {labels} labels"
            )

    @property
    def name(self) -> str:
        """The run's name: its folder's or, for a member, `ensemble/member_0`."""
        folder = self.workdir.resolve()
        member = folder.name.startswith("member_")
        return f"{folder.parent.name}/{folder.name}" if member else folder.name

    @property
    def directory(self) -> Path:
        """The folder for the files of this evaluation."""
        return evaluation_dir(self.workdir, self.split + self.variant)

    @property
    def predicted(self) -> Int[np.ndarray, " n"]:
        """The most probable class of each record."""
        return self.probabilities.argmax(axis=1)

    @property
    def samples(self) -> Int[np.ndarray, " k"]:
        """At most 32 indices drawn at random; the same n always gives the same ones."""
        return np.random.default_rng(0).permutation(len(self.records))[:_SAMPLES]

    def to_csv(self) -> str:
        """Returns `filename,label,predicted` and one probability column per class.

        Labels are class names. Probabilities have enough digits to read back exactly.
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


def variant(*, views: str = "", step: int = 0, fingerprint: str = "") -> str:
    """Returns the end of an evaluation's folder, as in `eval/test+ten_crop+step_1200`.

    Args:
      views: views other than the run's.
      step: step of a checkpoint other than the run's best.
      fingerprint: fingerprint of data other than the run's.
    """
    parts = (views, step and f"step_{step}", fingerprint and f"data_{fingerprint[:12]}")
    return "".join(f"+{part}" for part in parts if part)


def _command(workdir: Path, name: str) -> str:
    """Returns the command that makes the evaluation in a folder of this name."""
    split, *parts = name.split("+")
    options = [f"--workdir={workdir}", f"--split={split}"]
    for part in parts:
        kind, _, value = part.partition("_")
        known = {"step": f"--checkpoint={value}", "data": "--data_dir=DIR"}
        options.append(known.get(kind, f"--views={part}"))
    return f"`python -m fer_jax.evaluate {' '.join(options)}`"


class Predictions(NamedTuple):
    """The content of a predictions.csv, in the file's order, and its data's fingerprint."""

    filenames: Sequence[str]
    labels: Int[np.ndarray, " n"]
    probabilities: Float[np.ndarray, "n classes"]
    classes: Sequence[str]
    fingerprint: str


def read_predictions(workdir: Path, split: str) -> Predictions:
    """Reads the predictions.csv of a run's evaluation.

    Args:
      workdir: folder of the run.
      split: name of the evaluation's folder: a split, perhaps with a `variant`.

    Returns:
      The predictions. The fingerprint is empty if report.json lacks it, as in older versions.

    Raises:
      UserError: a file is missing or damaged.
    """
    folder = evaluation_dir(workdir, split)
    path, command = folder / "predictions.csv", _command(workdir, split)
    try:
        report = folder / "report.json"
        about = json.loads(report.read_bytes()) if report.exists() else {}
        with open(path, newline="", encoding="utf-8") as file:
            (_, _, _, *classes), *rows = csv.reader(file)
        if not rows:
            raise ValueError("it holds no image")
        return Predictions(
            filenames=[row[0] for row in rows],
            labels=np.array([classes.index(row[1]) for row in rows]),
            probabilities=np.array([row[3:] for row in rows], np.float64),
            classes=classes,
            fingerprint=about.get("data_fingerprint", ""),
        )
    except FileNotFoundError as error:
        raise UserError(
            f"{workdir} has no predictions for {split}; make them with {command}"
        ) from error
    except (OSError, ValueError, IndexError, AttributeError) as error:
        raise UserError(f"cannot read {path}: {error}; make it again with {command}") from error
