"""Runs side by side on one split: what each reaches, and whether they differ by chance."""

import itertools
import json
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from fer_jax.errors import UserError
from fer_jax.reporting import figures
from fer_jax.reporting.history import median_speed, read_history
from fer_jax.reporting.metrics import classification_metrics, confidence_intervals
from fer_jax.reporting.pages import inline, write_page
from fer_jax.reporting.predictions import SavedPredictions, read_predictions
from fer_jax.reporting.report import HEADLINES, describe_speed
from fer_jax.reporting.significance import holm, mcnemar, paired_difference


class Run(NamedTuple):
    """What a workdir holds of a run.

    Attributes:
      letter: that stands for the run in tables and curves.
      workdir: as given.
      facts: as in config.json.
      history: as in metrics.jsonl.
      metrics: `classification_metrics` on the split, and their `intervals`.
      correct: whether each image is right, in the order of the first run's.
    """

    letter: str
    workdir: Path
    facts: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    metrics: Mapping[str, Any]
    correct: Bool[np.ndarray, " n"]


class Pair(NamedTuple):
    """Two runs on the same images; see `fer_jax.reporting.significance`.

    Attributes:
      first: letter of a run.
      second: letter of another.
      difference: first accuracy minus second, low and high end of its 95 % interval; fractions.
      only_first: images that only the first has right.
      only_second: images that only the second has right.
      p: of McNemar's exact test.
      p_holm: `p`, allowing for all pairs compared.
    """

    first: str
    second: str
    difference: tuple[float, float, float]
    only_first: int
    only_second: int
    p: float
    p_holm: float


def read_runs(workdirs: Sequence[Path], split: str | None = None) -> tuple[str, list[Run]]:
    """Reads two runs or more, all evaluated on the same images of a split.

    Args:
      workdirs: of the runs.
      split: its name; default: the one that all of them validated on.

    Returns:
      The split and the runs.

    Raises:
      UserError: a run lacks what is needed, or the images differ.
    """
    from fer_jax.workdir import read_run  # takes JAX along

    if not 2 <= len(workdirs) <= len(string.ascii_uppercase):
        raise UserError(
            f"give 2 to {len(string.ascii_uppercase)} runs, not {len(workdirs)}: "
            "python -m fer_jax.compare RUN RUN"
        )
    facts = [read_run(workdir) for workdir in workdirs]
    if split is None:
        splits = {run["config"]["validation_split"] for run in facts}
        if len(splits) > 1:
            raise UserError(f"the runs validated on {', '.join(sorted(splits))}; give --split")
        (split,) = splits
    saved = [read_predictions(workdir, split) for workdir in workdirs]
    runs = []
    for index, (workdir, of_run) in enumerate(zip(workdirs, saved, strict=True)):
        order = _match(saved[0], of_run, f"{workdirs[0]} and {workdir}")
        probabilities, labels = of_run.probabilities[order], of_run.labels[order]
        metrics = classification_metrics(probabilities, labels, of_run.classes)
        metrics["intervals"] = confidence_intervals(probabilities, labels)
        runs.append(
            Run(
                letter=string.ascii_uppercase[index],
                workdir=workdir,
                facts=facts[index],
                history=read_history(workdir / "metrics.jsonl"),
                metrics=metrics,
                correct=probabilities.argmax(axis=1) == labels,
            )
        )
    return split, runs


def compare_pairs(runs: Sequence[Run]) -> list[Pair]:
    """Compares the accuracy of each run with that of each other one."""
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


def _match(one: SavedPredictions, other: SavedPredictions, which: str) -> list[int]:
    """Returns where `other` has the images of `one`."""
    truths = [
        {name: run.classes[label] for name, label in zip(run.filenames, run.labels, strict=True)}
        for run in (one, other)
    ]
    if set(one.classes) != set(other.classes):
        raise UserError(f"{which} tell other classes apart: {one.classes} and {other.classes}")
    if differing := {name for name, _ in truths[0].items() ^ truths[1].items()}:
        raise UserError(
            f"{which} were not evaluated on the same images ({len(differing):,} are in one alone "
            "or have another label); evaluate both on one --data_dir"
        )
    if len(truths[1]) < len(other.filenames):
        raise UserError(f"{which} cannot be matched: file names come more than once")
    position = {name: index for index, name in enumerate(other.filenames)}
    return [position[name] for name in one.filenames]


def print_comparison(split: str, runs: Sequence[Run], pairs: Sequence[Pair]) -> None:
    """Prints two tables, 80 columns wide; arguments as for `write_comparison`."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(width=80, highlight=False)
    console.print(f"{split}, {runs[0].metrics['n']:,} images")
    for run in runs:
        console.print(run.letter, run.workdir, soft_wrap=True, markup=False)
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
    headings = ["points (95 %)", "right in one alone", "McNemar's p"]
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


def write_comparison(path: Path, split: str, runs: Sequence[Run], pairs: Sequence[Pair]) -> None:
    """Writes the page, atomically.

    Args:
      path: of the page.
      split: of `read_runs`.
      runs: of `read_runs`.
      pairs: of `compare_pairs`.
    """
    from fer_jax.workdir import flatten

    facts = [{key: json.dumps(value) for key, value in flatten(run.facts).items()} for run in runs]
    keys = dict.fromkeys(itertools.chain(*facts))
    histories = {run.letter: run.history for run in runs}
    write_page(
        path,
        "compare.html",
        split=split,
        runs=runs,
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
            if len(set(values := [of_run.get(key, "-") for of_run in facts])) > 1
        },
    )
