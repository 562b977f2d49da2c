"""The evaluation of a checkpoint on a split: its report, its files in `eval/<split>`, its table."""

import csv
import dataclasses
import io
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from fer_jax.data.records import DataSet, Records
from fer_jax.errors import UserError, write_atomically
from fer_jax.reporting.figures import plot_confusion_matrix, plot_samples, to_png
from fer_jax.reporting.metrics import classification_metrics, confidence_intervals
from fer_jax.reporting.run_page import write_run_page
from fer_jax.workdir import PAGE, evaluation_dir

_SAMPLES = 35


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

    def __post_init__(self):
        names, labels = len(self.records.filenames), len(self.records.labels)
        if not len(self.probabilities) == names == labels:
            raise ValueError(
                f"{len(self.probabilities)} rows of probabilities and {names} file names "
                f"for {labels} labels"
            )

    @property
    def directory(self) -> Path:
        """The folder for the files of this evaluation."""
        return evaluation_dir(self.workdir, self.split)

    @property
    def predicted(self) -> Int[np.ndarray, " n"]:
        """The most probable class of each record."""
        return self.probabilities.argmax(axis=1)

    @property
    def samples(self) -> Int[np.ndarray, " k"]:
        """At most 35 indices drawn at random, always the same ones for one n."""
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


class Predictions(NamedTuple):
    """The content of a predictions.csv, in the file's order."""

    filenames: Sequence[str]
    labels: Int[np.ndarray, " n"]
    probabilities: Float[np.ndarray, "n classes"]
    classes: Sequence[str]


def read_predictions(workdir: Path, split: str) -> Predictions:
    """Reads the predictions.csv of a run's evaluation on a split.

    Raises:
      UserError: the file is missing or damaged.
    """
    path = evaluation_dir(workdir, split) / "predictions.csv"
    command = f"`python -m fer_jax.evaluate --workdir={workdir} --split={split}`"
    try:
        with open(path, newline="", encoding="utf-8") as file:
            (_, _, _, *classes), *rows = csv.reader(file)
        if not rows:
            raise ValueError("it holds no image")
        return Predictions(
            filenames=[row[0] for row in rows],
            labels=np.array([classes.index(row[1]) for row in rows]),
            probabilities=np.array([row[3:] for row in rows], np.float64),
            classes=classes,
        )
    except FileNotFoundError as error:
        raise UserError(
            f"{workdir} has no predictions for {split}; make them with {command}"
        ) from error
    except (OSError, ValueError, IndexError) as error:
        raise UserError(f"cannot read {path}: {error}; write it anew with {command}") from error


def write_evaluation(
    evaluation: Evaluation, members: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """Writes an evaluation into the run's `eval/<split>` and returns its report.

    Each file is written atomically:
      report.json: `classification_metrics`; `intervals` from `confidence_intervals`;
        `checkpoint_step`; `views`; and for an ensemble `members`: the number `n`, the list
        `accuracy`, its `mean` and its standard deviation `sd`.
      predictions.csv: see `Evaluation.to_csv`.
      confusion_matrix.png.
      samples.png: the images of `Evaluation.samples`.
      report.html: all of it on one page.

    Args:
      evaluation: a run's; for an ensemble, that of its members' mean prediction.
      members: for an ensemble, the reports of its members on the same split.

    Raises:
      UserError: the run's config.json cannot be read.
      ValueError: as for `classification_metrics`.
    """
    directory, records = evaluation.directory, evaluation.records
    probabilities, classes = evaluation.probabilities, evaluation.data.classes
    report = classification_metrics(probabilities, records.labels, classes)
    report["intervals"] = confidence_intervals(probabilities, records.labels)
    report["checkpoint_step"] = int(evaluation.checkpoint_step)
    report["views"] = evaluation.views
    if members:
        accuracies = [member["accuracy"] for member in members]
        report["members"] = {
            "n": len(accuracies),
            "mean": statistics.mean(accuracies),
            "sd": statistics.stdev(accuracies),
            "accuracy": accuracies,
        }

    drawn = evaluation.samples
    samples = plot_samples(
        records.read(drawn),
        records.labels[drawn],
        evaluation.predicted[drawn],
        probabilities[drawn].max(axis=1),
        classes,
    )
    matrix = plot_confusion_matrix(np.array(report["confusion_matrix"]), classes)

    write_atomically(directory / "predictions.csv", evaluation.to_csv())
    write_atomically(directory / "confusion_matrix.png", to_png(matrix))
    write_atomically(directory / "samples.png", to_png(samples))
    write_run_page(directory / PAGE, evaluation, report)
    # Last, so that a report.json is proof of the other files.
    write_atomically(directory / "report.json", json.dumps(report, indent=2) + "\n")
    return report


def print_report(report: Mapping[str, Any], title: str) -> None:
    """Prints a report of `write_evaluation`: a table of the classes, then the headline figures.

    The text is 80 columns wide, and plain where standard output is no terminal.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    n, accuracy = report["n"], report["accuracy"]
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("class", overflow="fold")
    for heading in ("precision", "recall", "F1", "support"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, row in report["per_class"].items():
        percents = (f"{100 * row[key]:.1f}" for key in ("precision", "recall", "f1"))
        table.add_row(name, *percents, f"{row['support']:,}")

    headline = Table.grid(padding=(0, 2))
    headline.add_column(style="bold")
    error = math.sqrt(accuracy * (1 - accuracy) / n)
    headline.add_row(
        "accuracy", f"{100 * accuracy:.2f} ± {100 * error:.2f} %  (standard error, n = {n:,})"
    )
    if members := report.get("members"):
        least, greatest = (100 * end(members["accuracy"]) for end in (min, max))
        headline.add_row(
            "members",
            f"{100 * members['mean']:.2f} ± {100 * members['sd']:.2f} %  (standard deviation, "
            f"n = {members['n']}; {least:.2f} to {greatest:.2f} %)",
        )
    headline.add_row("macro F1", f"{100 * report['macro_f1']:.2f} %")
    headline.add_row("weighted F1", f"{100 * report['weighted_f1']:.2f} %")
    headline.add_row("NLL", f"{report['nll']:.4f} nats")
    headline.add_row("ECE", f"{100 * report['ece']:.2f} %")
    headline.add_row("checkpoint", f"step {report['checkpoint_step']:,}")
    headline.add_row("views", report["views"])

    console = Console(width=80, highlight=False)
    console.print(table)
    console.print(headline)
