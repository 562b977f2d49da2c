"""Trains the model of a config, or resumes a run that was stopped.

It needs records, which `python -m data_prep` makes; the config quickstart makes its own. --config
takes a path, or the name of a config that comes with fer_jax, such as resnet or
published/small_cnn. Every knob of fer_jax/config.py is a flag too.

Example:
  python -m fer_jax.main --config=configs/resnet.py --config.batch_size=256

It leaves in the workdir: config.json, checkpoints/ (the latest and the best), metrics.jsonl,
resources.json, report.html, figures/, TensorBoard's events and eval/ with the validation split.

Several hosts run the same command, with --coordinator_address=auto on a TPU pod or under SLURM.
Only process 0 uses the workdir and prints. See launch/README.md.
"""

import hashlib
import shlex
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from fer_jax import cli
from fer_jax.config import check, find_config, flatten
from fer_jax.paths import check_folder
from fer_jax.processes import worker
from fer_jax.processes.cluster import find_cluster
from fer_jax.processes.supervisor import supervise
from fer_jax.workdir import IMMATERIAL, versions


def define_flags() -> None:
    """Defines --config and the other flags."""
    cli.define_config(what="Config to train, see fer_jax/config.py.")
    cli.define_path("workdir", "Where the run goes; default: runs/<config>.", remote=True)
    flags.DEFINE_string(
        "coordinator_address",
        None,
        "HOST:PORT of process 0; auto on a TPU pod or under SLURM or MPI.",
    )
    flags.DEFINE_integer(
        "num_processes", None, "Number of processes; not needed with auto.", lower_bound=1
    )
    flags.DEFINE_integer(
        "process_id", None, "Number of this process, from 0; not needed with auto.", lower_bound=0
    )
    cli.define_path("log_dir", "Where all processes but 0 write process_<id>.log.")


def main(arguments: Sequence[str]) -> None:
    """Starts JAX, and trains."""
    options = flags.FLAGS
    cli.refuse_arguments(arguments)
    processes = (options.coordinator_address, options.num_processes, options.process_id)
    cluster = None if worker.is_worker() else find_cluster(*processes)
    check(options.config)
    config_file = find_config(config_flags.get_config_filename(options["config"]))
    workdir = options.workdir or Path("runs") / config_file.stem
    cli.use_huge_pages()

    def check_workdir() -> None:
        if isinstance(workdir, Path) and not workdir.is_dir():
            check_folder("--workdir", workdir)

    if cluster:
        check_here = None if cluster.number else check_workdir  # Only process 0 uses it.
        sys.exit(supervise(cluster, _facts(options.config), options.log_dir, check_here))
    if not worker.is_worker():
        check_workdir()
    cli.set_up_jax()
    worker.join()

    # Imported here: a wrong flag is reported at once.
    import jax

    # A GPU takes seconds to start, and so do the imports. An error comes again in `train`.
    ThreadPoolExecutor(1).submit(jax.devices)
    from fer_jax.train import train
    from fer_jax.training.resources import Clock, command_start

    clock = Clock(command_start())
    train(options.config, workdir, clock=clock)
    if jax.process_index() == 0:
        print(f"\neverything is in {workdir}")
        print(
            f"for TensorBoard: tensorboard --logdir {shlex.quote(str(workdir))}, "
            "after `uv tool install tensorboard` or `pip install tensorboard`"
        )
        print(f"\n{clock}")


def _facts(config: ConfigDict) -> dict[str, Any]:
    """Returns what must be the same in all processes before they begin."""
    code = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        code.update(path.read_bytes())
    values = flatten(config.to_dict())
    return {
        **{key: value for key, value in values.items() if key not in IMMATERIAL},
        **{f"version of {name}": text for name, text in versions().items()},
        "code of fer_jax": code.hexdigest()[:12],
    }


if __name__ == "__main__":
    cli.run(main, define_flags)
