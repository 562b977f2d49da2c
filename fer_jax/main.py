"""Trains the model of a config, or resumes a run that was stopped.

It needs records, which `python -m data_prep` makes; the config quickstart makes its own. --config
takes a path, or the name of a config that comes with fer_jax, such as resnet or
published/small_cnn. Every knob of fer_jax/config.py is a flag too.

Example:
  python -m fer_jax.main --config=configs/resnet.py --config.batch_size=256

It leaves in the workdir: config.json, checkpoints/ (the latest and the best), metrics.jsonl,
report.html, figures/, TensorBoard's events and eval/ with the validation split.

Several hosts run the same command, with --coordinator_address=auto on a TPU pod or under SLURM.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from fer_jax import cli
from fer_jax.config import find_config


def define_flags() -> None:
    """Defines --config and the other flags."""
    cli.define_config(what="Config to train, see fer_jax/config.py.")
    flags.DEFINE_string("workdir", None, "Where the run goes; default: runs/<config>.")
    flags.DEFINE_string(
        "coordinator_address",
        None,
        "HOST:PORT of process 0; auto on a TPU pod or under SLURM or MPI.",
    )
    flags.DEFINE_integer("num_processes", None, "Number of processes; not needed with auto.")
    flags.DEFINE_integer("process_id", None, "Number of this process; not needed with auto.")


def main(arguments: Sequence[str]) -> None:
    """Starts JAX, trains, and prints the result."""
    options = flags.FLAGS
    cli.refuse_arguments(arguments)
    cli.use_huge_pages()
    cli.set_up_jax()
    if address := options.coordinator_address:
        import jax

        address = None if address == "auto" else address
        jax.distributed.initialize(address, options.num_processes, options.process_id)

    # Imported here: a wrong flag is reported at once.
    from fer_jax.reporting.report import print_report
    from fer_jax.train import train

    config_file = find_config(config_flags.get_config_filename(options["config"]))
    workdir = Path(options.workdir or Path("runs") / config_file.stem)
    report = train(options.config, workdir)["report"]
    if report is not None:
        print_report(report, f"best checkpoint, {options.config.validation_split}")
        print(f"\neverything is in {workdir}")
        print(
            f"for TensorBoard: tensorboard --logdir {shlex.quote(str(workdir))}, "
            "after `uv tool install tensorboard` or `pip install tensorboard`"
        )


if __name__ == "__main__":
    cli.run(main, define_flags)
