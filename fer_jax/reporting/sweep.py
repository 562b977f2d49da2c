"""The table of a sweep: mean and standard deviation over the seeds, for each setting."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fer_jax.errors import told, write_atomically
from fer_jax.reporting.pages import write_page
from fer_jax.sweep import describe, parse_sweep
from fer_jax.workdir import PAGE, SWEEP

_FIGURES = {"val_accuracy": "accuracy", "val_loss": "nll", "macro_f1": "macro_f1"}
"""Figures of a setting, each with its key in report.json."""


def summarize_sweep(
    config: Mapping[str, Any], reports: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Returns the content of sweep.json.

    Args:
      config: config of the sweep.
      reports: each member's report on the validation split, at its best checkpoint.

    Returns:
      `split`; `seeds`, their number; `best_by`; `best`, the number of the best setting by the mean;
      and `settings`. Each of these has its `knobs`, its `members` by number, and for val_accuracy,
      val_loss and macro_f1 the `mean`, the standard deviation `sd` (None for one seed) and the
      `values`.
    """
    seeds, rows = config["ensemble"], []
    for number, knobs in enumerate(parse_sweep(config["sweep"])):
        members = list(range(number * seeds, (number + 1) * seeds))
        row: dict[str, Any] = {"knobs": knobs, "members": members}
        for name, key in _FIGURES.items():
            values = [reports[member][key] for member in members]
            row[name] = {
                "mean": statistics.mean(values),
                "sd": statistics.stdev(values) if seeds > 1 else None,
                "values": values,
            }
        rows.append(row)
    # A seed's epoch may be its last one, but settings are compared by a figure.
    best_by = "val_accuracy" if config["best_by"] == "last" else config["best_by"]
    sign = -1 if best_by == "val_loss" else 1
    best = max(range(len(rows)), key=lambda number: sign * rows[number][best_by]["mean"])
    return {
        "split": config["validation_split"],
        "seeds": seeds,
        "best_by": best_by,
        "best": best,
        "settings": rows,
    }


def write_sweep(workdir: Path, sweep: Mapping[str, Any]) -> None:
    """Writes sweep.json and then the page, a sweep's last file."""
    write_atomically(workdir / SWEEP, json.dumps(sweep, indent=2) + "\n")
    with told(PAGE):
        write_page(
            workdir / PAGE,
            "sweep.html",
            name=workdir.resolve().name,
            sweep=sweep,
            rows=[[*_cells(row), _folders(row)] for row in sweep["settings"]],
            best_by=_name(sweep["best_by"]),
        )


def print_sweep(sweep: Mapping[str, Any]) -> None:
    """Prints the table of a sweep: plain text, 80 columns or as many as its settings take."""
    rows = [_cells(row) for row in sweep["settings"]]
    heading = ("setting", "accuracy", "loss", "macro F1")
    widths = [max(map(len, column)) for column in zip(heading, *rows, strict=True)]
    print(f"\n{sweep['split']}, {_spread(sweep)}\n")
    for number, row in enumerate([heading, *rows], start=-1):
        setting, *figures = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        mark = f"  best by {_name(sweep['best_by'])}" if number == sweep["best"] else ""
        print("  ".join([setting, *figures]).rstrip() + mark)


def _cells(row: Mapping[str, Any]) -> list[str]:
    accuracy, loss, f1 = (row[name] for name in _FIGURES)
    return [
        describe(row["knobs"]),
        _figure(accuracy, "{:.2f}", 100, " %"),
        _figure(loss, "{:.4f}"),
        _figure(f1, "{:.2f}", 100, " %"),
    ]


def _figure(figure: Mapping[str, Any], form: str, factor: int = 1, unit: str = "") -> str:
    numbers = [figure["mean"]] if figure["sd"] is None else [figure["mean"], figure["sd"]]
    return " ± ".join(form.format(factor * number) for number in numbers) + unit


def _folders(row: Mapping[str, Any]) -> str:
    return ", ".join(f"member_{member}" for member in row["members"])


def _name(best_by: str) -> str:
    return {"val_accuracy": "accuracy", "val_loss": "loss"}[best_by]


def _spread(sweep: Mapping[str, Any]) -> str:
    seeds = sweep["seeds"]
    return f"mean ± standard deviation, n = {seeds} seeds" if seeds > 1 else "one seed"
