"""What an evaluation leaves on disk, and what it prints."""

import csv
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from data_prep.contract import write_atomically
from fer_jax.reporting.figures import plot_confusion_matrix, plot_samples, to_png
from fer_jax.reporting.metrics import classification_metrics

_SAMPLES = 35


def write_evaluation(
    directory: str | os.PathLike,
    *,
    images: UInt8[np.ndarray, "n h w 1"],
    labels: Int[np.ndarray, " n"],
    probabilities: Float[np.ndarray, "n classes"],
    filenames: Sequence[str],
    classes: Sequence[str],
    checkpoint_step: int,
) -> dict[str, Any]:
    """Writes what is known of `n` predictions to `directory`, and returns the report.

    Each file is written atomically:
      report.json: `classification_metrics`, and `checkpoint_step`.
      predictions.csv: `filename,label,predicted` and one probability column per class. Labels are
        class names; probabilities have the digits that tell any two of their type apart.
      confusion_matrix.png.
      samples.png: 35 images drawn at random, the same ones whenever `n` is the same.

    Raises:
      ValueError: as `classification_metrics`, or not one image and file name per label.
    """
    directory = Path(directory)
    probabilities, labels = np.asarray(probabilities), np.asarray(labels)
    report = classification_metrics(probabilities, labels, classes)
    report["checkpoint_step"] = int(checkpoint_step)
    if not len(images) == len(filenames) == len(labels):
        raise ValueError(
            f"{len(images)} images and {len(filenames)} file names for {len(labels)} labels"
        )
    predicted = probabilities.argmax(axis=1)

    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["filename", "label", "predicted", *classes])
    for name, label, guess, row in zip(filenames, labels, predicted, probabilities, strict=True):
        # str() of a NumPy float is the shortest text that reads back as the same float.
        rows.writerow([name, classes[label], classes[guess], *map(str, row)])

    shown = np.random.default_rng(0).permutation(len(labels))[:_SAMPLES]
    samples = plot_samples(
        images[shown],
        labels[shown],
        predicted[shown],
        probabilities[shown].max(axis=1),
        classes,
    )
    matrix = plot_confusion_matrix(np.array(report["confusion_matrix"]), classes)

    write_atomically(directory / "predictions.csv", table.getvalue())
    write_atomically(directory / "confusion_matrix.png", to_png(matrix))
    write_atomically(directory / "samples.png", to_png(samples))
    # Last, so that whoever finds a report finds the rest of this evaluation too.
    write_atomically(directory / "report.json", json.dumps(report, indent=2) + "\n")
    return report


def print_report(report: Mapping[str, Any], title: str) -> None:
    """Prints a report of `write_evaluation`: a table of the classes, then the headline figures.

    80 columns; plain text where standard output is no terminal.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    n, accuracy = report["n"], report["accuracy"]
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("class", overflow="fold")
    for heading in ("precision", "recall", "F1", "support"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, of_class in report["per_class"].items():
        percents = (f"{100 * of_class[key]:.1f}" for key in ("precision", "recall", "f1"))
        table.add_row(name, *percents, f"{of_class['support']:,}")

    headline = Table.grid(padding=(0, 2))
    headline.add_column(style="bold")
    error = math.sqrt(accuracy * (1 - accuracy) / n)
    headline.add_row(
        "accuracy", f"{100 * accuracy:.2f} ± {100 * error:.2f} %  (standard error, n = {n:,})"
    )
    headline.add_row("macro F1", f"{100 * report['macro_f1']:.2f} %")
    headline.add_row("weighted F1", f"{100 * report['weighted_f1']:.2f} %")
    headline.add_row("NLL", f"{report['nll']:.4f} nats")
    headline.add_row("ECE", f"{100 * report['ece']:.2f} %")
    headline.add_row("checkpoint", f"step {report['checkpoint_step']:,}")

    console = Console(width=80, highlight=False)
    console.print(table)
    console.print(headline)
