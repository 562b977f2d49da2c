"""Trains EfficientNet-Lite0 from ImageNet's weights, frozen or not, and from random ones.

Example:
  python -m benchmarks.accuracy.transfer --workdir=runs/transfer --pretrained=FILE
  python -m benchmarks.accuracy.transfer --workdir=short --pretrained=FILE \\
    --only=fine_tuned-48,random-48 --config.epochs=2 --config.steps_per_epoch=180

`python -m benchmarks.accuracy.efficientnet_lite` makes FILE. Each run has a folder of its own in
the workdir, where `python -m fer_jax.main` trains it. The same command resumes a stopped run. Flags
of the config hold for all runs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from benchmarks import children, record, table
from fer_jax import cli
from fer_jax.errors import UserError
from fer_jax.workdir import METRICS, read_history, read_report, read_resources, read_run

STARTS = ("frozen", "fine_tuned", "random")
"""From ImageNet with only the logits' layer learning, from ImageNet, and from random weights."""

SIZES = (48, 112)
"""Sizes in pixels that images are resized to."""

RUNS = {f"{start}-{size}": (start, size) for size in SIZES for start in STARTS}

_ALL_STAGES = 9


def define_flags() -> None:
    """Defines --workdir, --pretrained and the other flags."""
    cli.define_config("efficientnet_lite", what="The recipe.")
    flags.DEFINE_string("workdir", None, "Folder with one run for each row.", required=True)
    flags.DEFINE_string("pretrained", None, "File of ImageNet's weights.", required=True)
    flags.DEFINE_list("only", list(RUNS), "Runs to train and record.")
    record.define_flags()


def main(arguments: Sequence[str]) -> None:
    """Trains the missing runs; prints and records the table."""
    cli.refuse_arguments(arguments)
    options = flags.FLAGS
    recipe = f"--config={config_flags.get_config_filename(options['config'])}"
    given = config_flags.get_override_values(options["config"])
    if unknown := [name for name in options.only if name not in RUNS]:
        raise UserError(f"--only has {', '.join(unknown)}; choose from {', '.join(RUNS)}")
    workdir = Path(options.workdir)
    for name in options.only:
        start, size = RUNS[name]
        knobs = given | {"model.image_size": size} | _knobs(start, options.pretrained)
        overrides = [f"--config.{knob}={value}" for knob, value in knobs.items()]
        children.run("fer_jax.main", f"--workdir={workdir / name}", recipe, *overrides)
    figures = make_figures(workdir, options.only)
    command = table.command("accuracy.transfer")
    print(table.page(record.keep("transfer", figures, command=command)))


def make_figures(workdir: Path, runs: Sequence[str]) -> dict[str, Any]:
    """Returns the figures of finished runs, which are keys of `RUNS`."""
    first = workdir / runs[0]
    config = read_run(first)["config"]
    split, steps = config["validation_split"], read_history(first / METRICS)[-1]["step"]
    rows = []
    for name in runs:
        folder, (start, size) = workdir / name, RUNS[name]
        report, resources = read_report(folder, split), read_resources(folder)
        accuracy = table.accuracy(report["accuracy"], report["n"])
        peak = resources and resources["peak_memory_mib"]["host"]
        rows.append([size, start, accuracy, 100 * report["macro_f1"], peak])
    about = (
        f"EfficientNet-Lite0 after {steps:,} steps of {config['batch_size']} images of "
        f"{config['train_split']}, one run each, seed {config['seed']}; ± is one standard error "
        "over the images. MiB is the process's peak of memory."
    )
    columns = {"pixels": ",", "start": "", f"{split} (n = {report['n']:,}), %": ".2f"}
    columns |= {"macro F1, %": ".1f", "MiB": ",.0f"}
    return table.figures("Transfer from ImageNet", about, table.make(columns, rows))


def _knobs(start: str, pretrained: str) -> dict[str, Any]:
    """Returns the knobs of a start."""
    if start == "random":
        return {}
    frozen = _ALL_STAGES if start == "frozen" else 0
    return {"pretrained.file": pretrained, "model.frozen_stages": frozen}


if __name__ == "__main__":
    cli.run(main, define_flags)
