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

import re
import shlex
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from fer_jax import cli
from fer_jax.config import check, find_config
from fer_jax.errors import UserError
from fer_jax.paths import check_folder


def define_flags() -> None:
    """Defines --config and the other flags."""
    cli.define_config(what="Config to train, see fer_jax/config.py.")
    cli.define_path("workdir", "Where the run goes; default: runs/<config>.")
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


def main(arguments: Sequence[str]) -> None:
    """Starts JAX, trains, and prints the result."""
    options = flags.FLAGS
    cli.refuse_arguments(arguments)
    processes = (options.coordinator_address, options.num_processes, options.process_id)
    check_processes(*processes)
    check(options.config)
    config_file = find_config(config_flags.get_config_filename(options["config"]))
    workdir = options.workdir or Path("runs") / config_file.stem
    if not workdir.is_dir():
        check_folder("--workdir", workdir)
    cli.use_huge_pages()
    cli.set_up_jax()
    if options.coordinator_address:
        _join(*processes)

    # Imported here: a wrong flag is reported at once.
    from fer_jax.reporting.report import print_report
    from fer_jax.train import train

    report = train(options.config, workdir)["report"]
    if report is not None:
        print_report(report, f"best checkpoint, {options.config.validation_split}")
        print(f"\neverything is in {workdir}")
        print(
            f"for TensorBoard: tensorboard --logdir {shlex.quote(str(workdir))}, "
            "after `uv tool install tensorboard` or `pip install tensorboard`"
        )


def check_processes(address: str | None, count: int | None, number: int | None) -> None:
    """Raises `UserError` if the flags of several processes do not describe any."""
    if address is None and (count, number) != (None, None):
        raise UserError(
            "--num_processes and --process_id need --coordinator_address; "
            "give it as HOST:PORT of process 0, or leave out all three for a single process"
        )
    if count is not None and number is not None and number >= count:
        raise UserError(
            f"--process_id={number} is not one of --num_processes={count}; give 0 to {count - 1}"
        )
    if address is None or address == "auto":
        return
    match = re.fullmatch(r"(\[[^\s\[\]]+\]|[^\s:/\[\]]+):(\d{1,5})", address)
    if not match or not 0 < int(match[2]) < 2**16:
        raise UserError(
            f"--coordinator_address is {address!r}; "
            "give HOST:PORT of process 0, with a port from 1 to 65535, or auto"
        )
    if count is None or number is None:
        raise UserError(
            f"--coordinator_address={address} needs --num_processes and --process_id; "
            "only auto finds them out"
        )


def reach(address: str, *, number: int, seconds: float = 300) -> None:
    """Waits until process 0 listens at HOST:PORT; in process 0, looks whether the port is free.

    JAX would wait as long, and then abort the process.

    Raises:
      UserError: no process listens there after `seconds`, or the port is taken.
    """
    host, _, port = address.rpartition(":")
    end = time.monotonic() + seconds
    while True:
        try:
            if number:
                socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
            else:
                both = socket.has_dualstack_ipv6()
                family = socket.AF_INET6 if both else socket.AF_INET
                socket.create_server(("", int(port)), family=family, dualstack_ipv6=both).close()
            return
        except OSError as error:
            if not number or time.monotonic() > end:
                raise UserError(
                    f"--coordinator_address={address}: {error.strerror or error}; give the address "
                    "at which process 0 runs, with a free port"
                ) from None
            time.sleep(1)


def _join(address: str, count: int | None, number: int | None) -> None:
    """Connects this process with the others.

    Raises:
      UserError: auto finds no cluster, or the others do not answer.
    """
    if address != "auto":
        reach(address, number=number or 0)
    import jax

    try:
        jax.distributed.initialize(None if address == "auto" else address, count, number)
    except (RuntimeError, ValueError, TypeError) as error:
        raise UserError(
            f"--coordinator_address={address} does not connect this process with others: {error}; "
            "auto needs a TPU pod, SLURM or MPI, and HOST:PORT a process 0 that this host reaches"
        ) from error


if __name__ == "__main__":
    cli.run(main, define_flags)
