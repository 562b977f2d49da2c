"""Runs side by side on one split: their results, and whether the differences are chance."""

import contextlib
import itertools
import json
import os
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from fer_jax.config import flatten
from fer_jax.errors import UserError
from fer_jax.remote import copied
from fer_jax.reporting import figures
from fer_jax.reporting.evaluation import Predictions, read_predictions
from fer_jax.reporting.metrics import classification_metrics, confidence_intervals
from fer_jax.reporting.pages import inline, write_page
from fer_jax.reporting.run_page import HEADLINES, describe_speed
from fer_jax.reporting.significance import holm, mcnemar, paired_difference
from fer_jax.workdir import CONFIG, METRICS, median_speed, read_history, read_run


class ComparedRun(NamedTuple):
    """A run of the comparison, read from its workdir.

    Attributes:
      letter: the run's name in tables and curves.
      workdir: the run's workdir, as given.
      facts: content of config.json.
      history: content of metrics.jsonl.
      metrics: `classification_metrics` on the split, and their `intervals`.
      correct: whether each image is predicted correctly, in the image order of the first run.
      fingerprint: that of the data evaluated; empty if unknown, as in older reports.
    """

    letter: str
    workdir: str
    facts: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    metrics: Mapping[str, Any]
    correct: Bool[np.ndarray, " n"]
    fingerprint: str


class Pair(NamedTuple):
    """Two runs on the same images; see `fer_jax.reporting.significance`.

    Attributes:
      first: letter of one run.
      second: letter of the other run.
      difference: first accuracy minus second, low and high end of its 95 % interval; fractions.
      only_first: number of images that only the first run predicts correctly.
      only_second: number of images that only the second run predicts correctly.
      p: p-value of McNemar's exact test.
      p_holm: `p`, adjusted for the number of pairs.
    """

    first: str
    second: str
    difference: tuple[float, float, float]
    only_first: int
    only_second: int
    p: float
    p_holm: float


def read_runs(
    workdirs: Sequence[str | os.PathLike], split: str | None = None
) -> tuple[str, list[ComparedRun]]:
    """Reads two or more runs that were evaluated on the same images of a split.

    Args:
      workdirs: the runs, paths or URLs.
      split: name of the split; default: the validation split that all runs have in common.

    Returns:
      The split and the runs.

    Raises:
      UserError: a file of a run is missing, or the images or classes differ.
    """
    if not 2 <= len(workdirs) <= len(string.ascii_uppercase):
        raise UserError(
            f"give 2 to {len(string.ascii_uppercase)} runs, not {len(workdirs)}: "
            "python -m fer_jax.compare RUN RUN"
        )
    with contextlib.ExitStack() as stack:
        folders = []
        for workdir in workdirs:
            copy = stack.enter_context(copied(workdir))
            copy.fetch(CONFIG, METRICS, "eval/*/report.json", "eval/*/predictions.csv")
            folders.append(copy.folder)
        return _read_runs(workdirs, folders, split)


def _read_runs(
    workdirs: Sequence[str | os.PathLike], folders: Sequence[Path], split: str | None
) -> tuple[str, list[ComparedRun]]:
    facts = [read_run(folder) for folder in folders]
    if split is None:
        splits = {run["config"]["validation_split"] for run in facts}
        if len(splits) > 1:
            raise UserError(f"the runs validated on {', '.join(sorted(splits))}; give --split")
        (split,) = splits
    predictions = [read_predictions(folder, split) for folder in folders]
    runs = []
    for index, (workdir, own) in enumerate(zip(workdirs, predictions, strict=True)):
        order = _match(predictions[0], own, f"{workdirs[0]} and {workdir}")
        probabilities, labels = own.probabilities[order], own.labels[order]
        metrics = classification_metrics(probabilities, labels, own.classes)
        metrics["intervals"] = confidence_intervals(probabilities, labels)
        runs.append(
            ComparedRun(
                letter=string.ascii_uppercase[index],
                workdir=os.fspath(workdir),
                facts=facts[index],
                history=read_history(folders[index] / METRICS),
                metrics=metrics,
                correct=probabilities.argmax(axis=1) == labels,
                fingerprint=own.fingerprint,
            )
        )
    return split, runs


def compare_pairs(runs: Sequence[ComparedRun]) -> list[Pair]:
    """Compares the accuracies of every two runs."""
    pairs = []
    for first, second in itertools.combinations(runs, 2):
        only_first = int((first.correct & ~second.correct).sum())
        only_second = int((second.correct & ~first.correct).sum())
        pairs.append(
            Pair(
                first=first.letter,
                second=second.letter,
                difference=paired_difference(only_first, only_second, len(first.correct)),
                only_first=only_first,
                only_second=only_second,
                p=mcnemar(only_first, only_second),
                p_holm=1.0,
            )
        )
    adjusted = holm([pair.p for pair in pairs])
    return [pair._replace(p_holm=p) for pair, p in zip(pairs, adjusted, strict=True)]


def describe_data(runs: Sequence[ComparedRun]) -> str:
    """Returns a sentence if the runs were evaluated on different data; else an empty text."""
    known = {run.letter: run.fingerprint[:12] for run in runs if run.fingerprint}
    if len(set(known.values())) < 2:
        return ""
    each = ", ".join(f"{fingerprint} for {letter}" for letter, fingerprint in known.items())
    return (
        "The images have the same names and labels, but the runs were evaluated on data of "
        f"different fingerprints: {each}."
    )


def _match(one: Predictions, other: Predictions, which: str) -> list[int]:
    """Returns the rows of `other` in the image order of `one`."""
    truths = [
        {name: run.classes[label] for name, label in zip(run.filenames, run.labels, strict=True)}
        for run in (one, other)
    ]
    if set(one.classes) != set(other.classes):
        raise UserError(f"{which} have different classes: {one.classes} and {other.classes}")
    if differing := {name for name, _ in truths[0].items() ^ truths[1].items()}:
        raise UserError(
            f"{which} were not evaluated on the same images ({len(differing):,} are in only one "
            "of them or have another label); evaluate both with the same --data_dir"
        )
    if len(truths[1]) < len(other.filenames):
        raise UserError(f"{which} cannot be matched: file names occur more than once")
    position = {name: index for index, name in enumerate(other.filenames)}
    return [position[name] for name in one.filenames]


def print_comparison(split: str, runs: Sequence[ComparedRun], pairs: Sequence[Pair]) -> None:
    """Prints two tables, 80 columns wide. The arguments are those of `write_comparison`."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(width=80, highlight=False)
    console.print(f"{split}, {runs[0].metrics['n']:,} images")
    for run in runs:
        console.print(run.letter, run.workdir, soft_wrap=True, markup=False)
    if note := describe_data(runs):
        console.print(note)
    table = Table("run", box=box.SIMPLE_HEAD)
    for heading in ("accuracy (95 %)", "macro F1", "NLL", "ECE", "epochs", "images/s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for run in runs:
        low, high = run.metrics["intervals"]["accuracy"]
        table.add_row(
            run.letter,
            f"{100 * run.metrics['accuracy']:.1f} % ({100 * low:.1f} to {100 * high:.1f})",
            f"{100 * run.metrics['macro_f1']:.1f} %",
            f"{run.metrics['nll']:.3f}",
            f"{100 * run.metrics['ece']:.1f} %",
            str(len(run.history)),
            f"{median_speed(run.history):,.0f}",
        )
    paired = Table(title="Accuracy, image by image", title_justify="left", box=box.SIMPLE_HEAD)
    paired.add_column("pair", no_wrap=True)
    headings = ["points (95 %)", "only one correct", "McNemar's p"]
    for heading in [*headings, "Holm's p"] if len(pairs) > 1 else headings:
        paired.add_column(heading, justify="right", no_wrap=True)
    for pair in pairs:
        difference, low, high = (100 * value for value in pair.difference)
        row = [
            f"{pair.first} - {pair.second}",
            f"{difference:+.1f} ({low:+.1f} to {high:+.1f})",
            f"{pair.only_first:,} / {pair.only_second:,}",
            f"{pair.p:.2g}",
        ]
        paired.add_row(*row, *([f"{pair.p_holm:.2g}"] if len(pairs) > 1 else []))
    console.print(table)
    console.print(paired)


def write_comparison(
    path: Path, split: str, runs: Sequence[ComparedRun], pairs: Sequence[Pair]
) -> None:
    """Writes the page atomically.

    Args:
      path: the page's file.
      split: the split, from `read_runs`.
      runs: the runs, from `read_runs`.
      pairs: the pairs, from `compare_pairs`.
    """

    facts = [{key: json.dumps(value) for key, value in flatten(run.facts).items()} for run in runs]
    for each in facts:
        each.pop("data.directory", None)  # The fingerprint tells whether the data differ.
    keys = dict.fromkeys(itertools.chain(*facts))
    histories = {run.letter: run.history for run in runs}
    write_page(
        path,
        "compare.html",
        split=split,
        runs=runs,
        note=describe_data(runs),
        pairs=pairs,
        headlines=HEADLINES,
        speeds=[describe_speed(run.history, run.facts["config"]) for run in runs],
        curves=[
            inline(figures.plot_validation(histories, panel), f"{panel} of each run")
            for panel in figures.PANELS
        ],
        differences={
            key: values
            for key in keys
            if len(set(values := [fact.get(key, "-") for fact in facts])) > 1
        },
    )
