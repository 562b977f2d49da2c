"""Trains the model of a config, or resumes a run that was stopped.

It needs records, which `python -m data_prep` makes; configs/quickstart.py makes its own. Any knob
of fer_jax/config.py is a flag too.

Example:
  python -m fer_jax.main --config=configs/resnet.py --config.batch_size=256

It leaves in the workdir: config.json, checkpoints/ (the latest and the best), metrics.jsonl,
report.html, figures/, TensorBoard's events and eval/ with the validation split.

Several hosts run the same command, with --coordinator_address=auto on a TPU pod or under SLURM.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from fer_jax import cli

_CONFIG = config_flags.DEFINE_config_file("config", None, "What to train, see fer_jax/config.py.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the run goes; default: runs/<config>.")
_COORDINATOR = flags.DEFINE_string(
    "coordinator_address", None, "HOST:PORT of process 0, or auto to ask TPU pod, SLURM or MPI."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Processes in all; auto knows.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which process this is; auto knows.")
flags.mark_flag_as_required("config")


def main(arguments: Sequence[str]) -> None:
    """Starts JAX, trains, and says what came of it."""
    cli.refuse_arguments(arguments)
    cli.use_huge_pages()
    cli.set_up_jax()
    if _COORDINATOR.value:
        import jax

        address = None if _COORDINATOR.value == "auto" else _COORDINATOR.value
        jax.distributed.initialize(address, _NUM_PROCESSES.value, _PROCESS_ID.value)

    # Imported here, so that a wrong flag is told at once.
    from fer_jax.reporting.evaluation import print_report
    from fer_jax.train import train

    config_file = Path(config_flags.get_config_filename(flags.FLAGS["config"]))
    workdir = Path(_WORKDIR.value or Path("runs") / config_file.stem)
    report = train(_CONFIG.value, workdir)["report"]
    if report is not None:
        print_report(report, f"best checkpoint, {_CONFIG.value.validation_split}")
        print(f"\neverything is in {workdir}")


if __name__ == "__main__":
    cli.run(main)
