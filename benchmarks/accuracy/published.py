"""Trains the published systems and our own networks, and records what each reaches.

Each system has a folder of its own in the workdir, where `python -m fer_jax.main` trains it. A
finished run is left alone, and a stopped run resumes with its planned number of epochs. Then
`benchmarks.accuracy.run` evaluates and records it. Flags of configs may follow `--`.

Example:
  python -m benchmarks.accuracy.published --workdir=runs/published -- --config.ensemble=3
  python -m benchmarks.accuracy.published --workdir=short --epochs_scale=0.1 --only=resnet
  python -m benchmarks.accuracy.published --workdir=start -- --config.steps_per_epoch=50

`python -m benchmarks.tables` makes the pages. If a system failed, the exit status is 1.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from benchmarks import children, record
from benchmarks.accuracy.systems import SYSTEMS
from fer_jax import cli
from fer_jax.config import load_config
from fer_jax.errors import UserError
from fer_jax.workdir import CONFIG, PAGE, read_run

# The model that ships was trained in two stages.
_NAMES = tuple(name for name in SYSTEMS if name != "ready")


def define_flags() -> None:
    """Defines --workdir and the other flags."""
    flags.DEFINE_string("workdir", None, "Folder with one run for each system.", required=True)
    flags.DEFINE_list("only", list(_NAMES), "Systems to train and record.")
    flags.DEFINE_float(
        "epochs_scale", 1.0, "Fraction of the epochs that a new run trains, at least one.", 0.0, 1.0
    )
    record.define_flags()


def main(arguments: Sequence[str]) -> None:
    """Trains and records one system after the other."""
    options = flags.FLAGS
    overrides = [argument for argument in arguments if argument.startswith("--config.")]
    cli.refuse_arguments([argument for argument in arguments if argument not in overrides])
    names = {name.rpartition("/")[2]: name for name in _NAMES} | {name: name for name in _NAMES}
    if unknown := [name for name in options.only if name not in names]:
        raise UserError(f"--only has {', '.join(unknown)}; choose from {', '.join(_NAMES)}")
    children.stop_on_sigterm()
    failed = False
    for name in options.only:
        try:
            reproduce(
                names[name],
                Path(options.workdir) / names[name].rpartition("/")[2],
                epochs_scale=options.epochs_scale,
                overrides=overrides,
                flags=[f"--results={options.results}", f"--name={options.name}"],
            )
        except UserError as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed = True
    if failed:
        sys.exit(1)


def reproduce(
    config: str,
    workdir: Path,
    *,
    epochs_scale: float = 1.0,
    overrides: Sequence[str] = (),
    flags: Sequence[str] = (),
) -> None:
    """Trains a config, unless that is done, and records it.

    Args:
      config: name of the config.
      workdir: folder of its run.
      epochs_scale: fraction of the config's epochs that a new run trains.
      overrides: flags of the config.
      flags: flags of `benchmarks.accuracy.run`.

    Raises:
      UserError: training or evaluation failed.
    """
    run = f"--workdir={workdir}"
    if not (workdir / PAGE).exists():
        epochs = max(1, round(epochs_scale * load_config(config).epochs))
        if (workdir / CONFIG).exists():
            epochs = read_run(workdir)["config"]["epochs"]
        print(f"{config}: training in {workdir}", file=sys.stderr)
        planned = f"--config.epochs={epochs}"
        children.run("fer_jax.main", f"--config={config}", run, planned, *overrides)
    children.run("benchmarks.accuracy.run", f"--config={config}", run, *flags)


if __name__ == "__main__":
    cli.run(main, define_flags)
