"""The report on an evaluation: the files in its folder, and the table that is printed."""

import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fer_jax.data.contract import title_of
from fer_jax.data.records import describe_absent
from fer_jax.errors import told, write_atomically
from fer_jax.reporting.evaluation import Evaluation
from fer_jax.reporting.figures import plot_confusion_matrix, plot_samples, to_png
from fer_jax.reporting.metrics import classification_metrics, confidence_intervals
from fer_jax.reporting.pages import percent
from fer_jax.reporting.run_page import write_run_page
from fer_jax.workdir import PAGE, read_run


def write_evaluation(
    evaluation: Evaluation, members: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """Makes the report of an evaluation, writes its files, and returns it.

    Arguments and errors are those of `make_report`.
    """
    report = make_report(evaluation, members)
    write_files(evaluation, report)
    return report


def make_report(
    evaluation: Evaluation, members: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """Returns the content of report.json.

    It has `classification_metrics`; `intervals` from `confidence_intervals`; `data`, the name of
    the data set; `folder`, the folder's name; `checkpoint_step`; `views`; `data_fingerprint` of the
    data evaluated, and `run_data_fingerprint` of the data trained on; `notes`, sentences about what
    could mislead; with images to leave out, `excluded`: the list's `file`, the number of `images`
    and of each of the `kinds`, a `digest` of the names, and `without`: the number `n`, the headline
    figures and the `intervals` without them; and for an ensemble `members`: the number `n`, the
    list `accuracy`, its `mean` and its standard deviation `sd`.

    Args:
      evaluation: evaluation of a run; for an ensemble, of its members' mean prediction.
      members: for an ensemble, the reports of its members on the same split; else empty.

    Raises:
      UserError: the run's config.json cannot be read.
      ValueError: as for `classification_metrics`.
    """
    probabilities, labels = evaluation.probabilities, evaluation.records.labels
    report = classification_metrics(probabilities, labels, evaluation.data.classes)
    report["intervals"] = confidence_intervals(probabilities, labels)
    report["data"] = evaluation.data.name
    report["folder"] = evaluation.directory.name
    report["checkpoint_step"] = int(evaluation.checkpoint_step)
    report["views"] = evaluation.views
    report["data_fingerprint"] = evaluation.data.fingerprint
    report["run_data_fingerprint"] = read_run(evaluation.workdir)["data"]["fingerprint"]
    report["notes"] = list(_notes(evaluation, report))
    if evaluation.excluded:
        report["excluded"] = {**evaluation.excluded.facts, "without": _without(evaluation)}
    if members:
        accuracies = [member["accuracy"] for member in members]
        report["members"] = {
            "n": len(accuracies),
            "mean": statistics.mean(accuracies),
            "sd": statistics.stdev(accuracies),
            "accuracy": accuracies,
        }
    return report


def write_files(evaluation: Evaluation, report: Mapping[str, Any]) -> None:
    """Writes an evaluation into its folder below the run's `eval`.

    Each file is written atomically:
      report.json: the report.
      predictions.csv: see `Evaluation.to_csv`.
      confusion_matrix.png.
      samples.png: the images of `Evaluation.samples`.
      report.html: all of it on one page.

    Args:
      evaluation: the evaluation.
      report: its report, from `make_report`.
    """
    directory, records = evaluation.directory, evaluation.records
    probabilities, classes = evaluation.probabilities, evaluation.data.classes
    write_atomically(directory / "predictions.csv", evaluation.to_csv())
    with told(f"pictures in {directory}"):
        heading = f"{evaluation.name}, {directory.name}"
        matrix = plot_confusion_matrix(np.array(report["confusion_matrix"]), classes, heading)
        write_atomically(directory / "confusion_matrix.png", to_png(matrix))
        drawn = evaluation.samples
        samples = plot_samples(
            records.read(drawn),
            records.labels[drawn],
            evaluation.predicted[drawn],
            probabilities[drawn].max(axis=1),
            classes,
            heading,
        )
        write_atomically(directory / "samples.png", to_png(samples))
    with told(directory / PAGE):
        write_run_page(directory / PAGE, evaluation, report)
    # Last, so that where report.json exists, the other files do too.
    write_atomically(directory / "report.json", json.dumps(report, indent=2) + "\n")


def _without(evaluation: Evaluation) -> dict[str, Any]:
    """Returns the headline figures without the images that are left out."""
    assert evaluation.excluded
    kept = evaluation.excluded.kept
    probabilities, labels = evaluation.probabilities[kept], evaluation.records.labels[kept]
    metrics = classification_metrics(probabilities, labels, evaluation.data.classes)
    intervals = confidence_intervals(probabilities, labels)
    return {"n": metrics["n"], **{key: metrics[key] for key in intervals}, "intervals": intervals}


def _notes(evaluation: Evaluation, report: Mapping[str, Any]) -> Iterator[str]:
    evaluated, trained = report["data_fingerprint"], report["run_data_fingerprint"]
    if evaluated != trained:
        yield (
            f"The data (fingerprint {evaluated[:12]}) are not those that the run was trained on "
            f"(fingerprint {trained[:12]})."
        )
    labels = evaluation.records.labels
    if absent := describe_absent(evaluation.data.classes, labels, evaluation.split):
        yield absent


def describe_excluded(excluded: Mapping[str, Any]) -> str:
    """Returns a sentence about the images that one of the two sets of figures leaves out."""
    if not excluded["images"]:
        return f"{excluded['file']} lists none of the images."
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in excluded["kinds"].items())
    return f"{excluded['file']} lists {excluded['images']:,} of the images ({kinds})."


def _accuracy(side: Mapping[str, Any], *, short: bool) -> str:
    """Returns the accuracy with its standard error."""
    n, accuracy = side["n"], side["accuracy"]
    error = math.sqrt(accuracy * (1 - accuracy) / n)
    text = f"{100 * accuracy:.2f} ± {100 * error:.2f} %"
    return text if short else f"{text}  (standard error, n = {n:,})"


def print_report(report: Mapping[str, Any], title: str) -> None:
    """Prints a report of `write_evaluation`: a table of the classes, then the headline figures.

    The text is 80 columns wide, and plain where standard output is not a terminal.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    if "data" in report:  # Older reports lack it.
        title = f"{title} of {title_of(report['data'])}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("class", overflow="fold")
    for heading in ("precision", "recall", "F1", "support"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, row in report["per_class"].items():
        percents = (percent(row[key]) for key in ("precision", "recall", "f1"))
        table.add_row(name, *percents, f"{row['support']:,}")

    headline = Table.grid(padding=(0, 2))
    headline.add_column(style="bold")
    sides = [report]
    if excluded := report.get("excluded"):
        sides.append(excluded["without"])
        headline.add_row("", "all images", "without those listed")
        headline.add_row("images", *(f"{side['n']:,}" for side in sides))
    headline.add_row("accuracy", *(_accuracy(side, short=len(sides) > 1) for side in sides))
    if members := report.get("members"):
        least, greatest = (100 * end(members["accuracy"]) for end in (min, max))
        spread = f"standard deviation, n = {members['n']}; {least:.2f} to {greatest:.2f} %"
        mean = f"{100 * members['mean']:.2f} ± {100 * members['sd']:.2f} %"
        headline.add_row("members", mean if excluded else f"{mean}  ({spread})")
    headline.add_row("macro F1", *(f"{100 * side['macro_f1']:.2f} %" for side in sides))
    if "macro_recall" in report:  # Older reports lack it.
        headline.add_row("macro recall", *(f"{100 * side['macro_recall']:.2f} %" for side in sides))
    headline.add_row("weighted F1", *(f"{100 * side['weighted_f1']:.2f} %" for side in sides))
    headline.add_row("NLL", *(f"{side['nll']:.4f} nats" for side in sides))
    headline.add_row("ECE", *(f"{100 * side['ece']:.2f} %" for side in sides))
    headline.add_row("checkpoint", f"step {report['checkpoint_step']:,}")
    headline.add_row("views", report["views"])

    console = Console(width=80, highlight=False)
    console.print(table)
    console.print(headline)
    if excluded:
        console.print(f"\n{describe_excluded(excluded)}", markup=False)
    for note in report.get("notes", ()):  # Older reports have none.
        console.print(f"\n{note}", markup=False)
