"""Trains a config, then with one option of its recipe put in or left out at a time; writes a table.

Example:
  python -m benchmarks.accuracy.ablation --workdir=runs/ablation --config=configs/resnet.py
  python -m benchmarks.accuracy.ablation --workdir=short --only=crop,views --config.epochs=5

Each run has a folder of its own in the workdir, where `python -m fer_jax.main` trains it: the same
command goes on where it was stopped. An option that the config has is left out, any other put in;
optimiser and schedule are exchanged. Flags of the config hold for all runs. The best checkpoint of
each run is evaluated, and that of the config as it stands through other views too.
"""

import datetime
import math
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from ml_collections import config_flags

from fer_jax import cli
from fer_jax.errors import UserError, write_atomically

OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "crop": ({"crop": 1.0}, {"crop": 0.8}),
    "erasing": ({"erasing": 0.0}, {"erasing": 0.5}),
    "rotation": ({"rotation": 0.0}, {"rotation": 10.0}),
    "label_smoothing": ({"label_smoothing": 0.0}, {"label_smoothing": 0.1}),
    "mixup": ({"mixup": 0.0}, {"mixup": 0.2}),
    "ema": ({"ema_decay": 0.0}, {"ema_decay": 0.999}),
    # Each with a rate and a decay that suit it: those of the other would be no fair trial.
    "optimizer": (
        {"optimizer": "sgd", "learning_rate": 0.1, "weight_decay": 5e-4},
        {"optimizer": "adamw", "learning_rate": 1e-3, "weight_decay": 0.05},
    ),
    "schedule": (
        {"schedule": "cosine"},
        {"schedule": "plateau", "plateau.factor": 0.75, "plateau.patience": 5},
    ),
}
"""Knobs without and with each option; the first knob of each tells whether a config has it."""

NAMES = (*OPTIONS, "views")
TEST_SPLIT = "public_test"

_CONFIG = cli.define_config("resnet", what="The recipe.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Has, or gets, a run of each.", required=True)
_ONLY = flags.DEFINE_list("only", list(NAMES), "Options to try.")
_OUTPUT = flags.DEFINE_string("output", None, "Markdown file to write the table to.")


class Result(NamedTuple):
    """Of a checkpoint on a split of n images."""

    accuracy: float
    n: int

    def __str__(self) -> str:
        error = math.sqrt(self.accuracy * (1 - self.accuracy) / self.n)
        return f"{100 * self.accuracy:.2f} ± {100 * error:.2f}"


class Row(NamedTuple):
    """What became of one run, seen through some views."""

    name: str
    change: str
    results: Mapping[str, Result]  # By split: by which it was chosen, then the test's.
    seconds: float | None  # None where the run has another row.


def main(arguments: Sequence[str]) -> None:
    """Trains what is missing, and prints and writes the table."""
    cli.refuse_arguments(arguments)
    if unknown := [name for name in _ONLY.value if name not in NAMES]:
        raise UserError(f"--only has {', '.join(unknown)}; choose of {', '.join(NAMES)}")
    changes = {"baseline": {}} | {name: _other(name) for name in OPTIONS if name in _ONLY.value}
    for name, change in changes.items():
        _train(name, change)

    # Only now, for JAX may take a GPU's whole memory.
    cli.set_up_jax()
    rows = [_row(name, name, change) for name, change in changes.items()]
    if "views" in _ONLY.value:
        from fer_jax.inference.views import VIEWS

        others = [views for views in VIEWS if views != _CONFIG.value.views]
        rows += [_row("views", "baseline", {"views": views}) for views in others]
    text = _page(rows, list(changes))
    print(text)
    if _OUTPUT.value:
        write_atomically(_OUTPUT.value, text)


def _other(name: str) -> Mapping[str, Any]:
    """Returns the knobs that leave an option out where the config has it, or put it in."""
    without, with_it = OPTIONS[name]
    knob = next(iter(without))
    return without if _CONFIG.value[knob] != without[knob] else with_it


def _train(name: str, change: Mapping[str, Any]) -> None:
    """Trains, or goes on training, one run in a process of its own."""
    flag = flags.FLAGS["config"]
    knobs = config_flags.get_override_values(flag) | change
    command = [
        *(sys.executable, "-m", "fer_jax.main", f"--workdir={_workdir(name)}"),
        f"--config={config_flags.get_config_filename(flag)}",
        *(f"--config.{knob}={value}" for knob, value in knobs.items()),
    ]
    print(f"{name}: {_describe(change)}", flush=True)
    if status := subprocess.run(command, check=False).returncode:
        raise UserError(f"{name} ended with status {status}; the same command goes on from there")


def _workdir(name: str) -> Path:
    return Path(_WORKDIR.value) / name


def _describe(change: Mapping[str, Any]) -> str:
    """Returns what a run has otherwise than the config."""
    knobs = []
    for knob, value in change.items():
        before: Any = _CONFIG.value
        for key in knob.split("."):
            before = before[key]
        if before != value:
            knobs.append(f"{knob} {before} → {value}")
    return ", ".join(knobs) or "as it stands"


def _row(name: str, run: str, change: Mapping[str, Any]) -> Row:
    from fer_jax.data.records import find_data_dir, open_data_set
    from fer_jax.inference.trained import load_trained
    from fer_jax.reporting.metrics import score
    from fer_jax.workdir import read_history

    model = load_trained(_workdir(run), views=change.get("views"))
    data = open_data_set(find_data_dir(model.config.data_dir), model.classes)
    results = {}
    for split in dict.fromkeys((_CONFIG.value.validation_split, TEST_SPLIT)):
        records = data.load(split)
        _, accuracy = score(model.probabilities(records), records.labels)
        results[split] = Result(accuracy, len(records))
    seconds = read_history(_workdir(run) / "metrics.jsonl")[-1]["seconds"] if name == run else None
    return Row(name, _describe(change), results, seconds)


def _page(rows: Sequence[Row], runs: Sequence[str]) -> str:
    splits = [f"{split} (n = {result.n:,}), %" for split, result in rows[0].results.items()]
    columns = ["option", "change", *splits, "seconds"]
    lines = [
        [row.name, row.change, *map(str, row.results.values()), _seconds(row.seconds)]
        for row in rows
    ]
    return "\n".join(
        [
            "# One option at a time",
            "",
            f"Accuracy of the epoch that did best on {_CONFIG.value.validation_split}, of one run "
            f"each, seed {_CONFIG.value.seed}, ± one standard error over the images; seconds of "
            f"training. {'; '.join(_facts(runs))}; {datetime.date.today()}.",
            "",
            f"    python -m benchmarks.accuracy.ablation {_flags()}",
            "",
            f"| {' | '.join(columns)} |",
            f"|---|---|{'---:|' * (len(splits) + 1)}",
            *(f"| {' | '.join(line)} |" for line in lines),
            "",
        ]
    )


def _flags() -> str:
    """Returns the flags of this run, without the folder of this machine."""
    return re.sub(r"--workdir[= ]\S+", "--workdir=DIR", shlex.join(sys.argv[1:]))


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:,.0f}"


def _facts(runs: Sequence[str]) -> list[str]:
    """Returns what the runs were made on and with, each once."""
    from fer_jax.workdir import read_run

    facts = []
    for run in map(read_run, map(_workdir, runs)):
        devices, versions = run["devices"], run["versions"]
        facts.append(f"{devices['count']} x {devices['kind']}")
        facts.append(", ".join(f"{name} {versions[name]}" for name in ("python", "jax", "flax")))
    return list(dict.fromkeys(facts))


if __name__ == "__main__":
    cli.run(main)
