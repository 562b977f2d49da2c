"""Trains a config, and again with one option of its recipe added or left out; records both.

Example:
  python -m benchmarks.accuracy.ablation --workdir=runs/ablation --config=configs/resnet.py
  python -m benchmarks.accuracy.ablation --workdir=short --only=crop,views --config.epochs=5

Each run has a folder of its own in the workdir, where `python -m fer_jax.main` trains it. The same
command resumes a stopped run. An option that the config has is left out, and any other is added;
optimiser and schedule are exchanged. Flags of the config hold for all runs. Each run is evaluated
at its best checkpoint, and the unchanged config through other views too.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from benchmarks import children, record, table
from fer_jax import cli
from fer_jax.config import flatten
from fer_jax.errors import UserError
from fer_jax.workdir import METRICS, read_history, read_run

Change = Mapping[str, Any]
"""Changed values, by knob."""

OPTIONS: dict[str, tuple[Change, Change]] = {
    "crop": ({"crop": 1.0}, {"crop": 0.8}),
    "erasing": ({"erasing": 0.0}, {"erasing": 0.5}),
    "rotation": ({"rotation": 0.0}, {"rotation": 10.0}),
    "label_smoothing": ({"label_smoothing": 0.0}, {"label_smoothing": 0.1}),
    "mixup": ({"mixup": 0.0}, {"mixup": 0.2}),
    "cutmix": ({"cutmix": 0.0}, {"cutmix": 0.3}),
    "ema": ({"ema_decay": 0.0}, {"ema_decay": 0.999}),
    # Each with a learning rate and a weight decay that suit it, for a fair trial.
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
BASELINE = "baseline"
TEST_SPLIT = "public_test"


def define_flags() -> None:
    """Defines --config, --workdir and the other flags."""
    cli.define_config("resnet", what="The recipe.")
    flags.DEFINE_string("workdir", None, "Folder with one run for each option.", required=True)
    flags.DEFINE_list("only", list(NAMES), "Options to try.")
    record.define_flags()


def main(arguments: Sequence[str]) -> None:
    """Trains the missing runs; prints and records the table."""
    cli.refuse_arguments(arguments)
    options = flags.FLAGS
    if unknown := [name for name in options.only if name not in NAMES]:
        raise UserError(f"--only has {', '.join(unknown)}; choose from {', '.join(NAMES)}")
    config, workdir = options.config, Path(options.workdir)
    changes: dict[str, Change] = {BASELINE: {}} | {
        name: _other(name, config) for name in OPTIONS if name in options.only
    }
    recipe = f"--config={config_flags.get_config_filename(options['config'])}"
    for name, change in changes.items():
        print(f"{name}: {_describe(change, config)}", flush=True)
        knobs = config_flags.get_override_values(options["config"]) | change
        overrides = [f"--config.{knob}={value}" for knob, value in knobs.items()]
        children.run("fer_jax.main", f"--workdir={workdir / name}", recipe, *overrides)

    # JAX may take a GPU's whole memory, so it starts after the last training.
    cli.set_up_jax()
    run = read_run(workdir / BASELINE)
    found = record.keep(
        "ablation",
        make_figures(config, workdir, changes, views="views" in options.only),
        command=table.command("accuracy.ablation"),
        seeds=[config.seed],
        hardware=run["devices"],
        versions=run["versions"],
    )
    print(table.page(found))


def make_figures(
    config: ConfigDict, workdir: Path, changes: Mapping[str, Change], *, views: bool
) -> dict[str, Any]:
    """Evaluates trained runs, and returns the figures.

    Args:
      config: the recipe.
      workdir: folder of the runs.
      changes: change of each run, by the name of the run and its folder.
      views: whether to evaluate the baseline through its other views too.
    """
    from fer_jax.inference.views import VIEWS

    splits = tuple(dict.fromkeys((config.validation_split, TEST_SPLIT)))
    rows: list[list[Any]] = []
    sizes: list[int] = []
    for name, change in changes.items():
        run = workdir / name
        accuracies, sizes = _evaluate(run, splits)
        seconds = read_history(run / METRICS)[-1]["seconds"]
        rows.append([name, _describe(change, config), *accuracies, seconds])
    for other in [other for other in VIEWS if views and other != config.views]:
        accuracies, _ = _evaluate(workdir / BASELINE, splits, other)
        rows.append(["views", _describe({"views": other}, config), *accuracies, None])
    last = config.best_by == "last"
    which = "last epoch" if last else f"epoch that did best on {config.validation_split}"
    about = (
        f"Accuracy at the {which}; one run each, seed {config.seed}; ± is one standard error over "
        "the images. Seconds are those of training."
    )
    of_splits = {f"{split} (n = {n:,}), %": ".2f" for split, n in zip(splits, sizes, strict=True)}
    columns = {"option": "", "change": "", **of_splits, "seconds": ",.0f"}
    return table.figures("One option at a time", about, table.make(columns, rows))


def _other(name: str, config: ConfigDict) -> Change:
    """Returns the knobs that leave an option out if the config has it, and add it otherwise."""
    without, with_it = OPTIONS[name]
    knob = next(iter(without))
    return without if config[knob] != without[knob] else with_it


def _describe(change: Change, config: ConfigDict) -> str:
    """Returns the difference between a run and the config."""
    before = flatten(config.to_dict())
    knobs = (
        f"{knob} {before[knob]} → {value}"
        for knob, value in change.items()
        if before[knob] != value
    )
    return ", ".join(knobs) or "as it stands"


def _evaluate(
    workdir: Path, splits: Sequence[str], views: str | None = None
) -> tuple[list[dict[str, float]], list[int]]:
    """Returns a run's accuracy and number of images on each split."""
    from fer_jax.data.records import find_data_dir, open_data_set
    from fer_jax.inference.trained import load_trained
    from fer_jax.reporting.metrics import score

    model = load_trained(workdir, views=views)
    data = open_data_set(find_data_dir(model.config.data_dir), model.classes)
    accuracies, sizes = [], []
    for records in map(data.load, splits):
        _, fraction = score(model.probabilities(records), records.labels)
        accuracies.append(table.accuracy(fraction, len(records)))
        sizes.append(len(records))
    return accuracies, sizes


if __name__ == "__main__":
    cli.run(main, define_flags)
