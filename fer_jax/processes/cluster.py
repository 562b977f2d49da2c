"""Where the processes of a run are: from flags, or from SLURM, a TPU pod or another scheduler."""

import dataclasses
import re

from fer_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Cluster:
    """One process's place among several.

    Attributes:
      host: name or address of process 0's host.
      port: port at which process 0 waits for the others.
      count: number of processes.
      number: number of this process, from 0.
      devices: numbers of the host's devices that are this process's; None: all.
    """

    host: str
    port: int
    count: int
    number: int
    devices: tuple[int, ...] | None = None


def find_cluster(address: str | None, count: int | None, number: int | None) -> Cluster | None:
    """Returns what the flags say, or None for a single process.

    Args:
      address: HOST:PORT of process 0; "auto" asks the scheduler; None for a single process.
      count: number of processes, which "auto" may leave out.
      number: number of this process, which "auto" may leave out.

    Raises:
      UserError: the flags do not describe several processes, or there is no scheduler to ask.
    """
    if address is None:
        if (count, number) != (None, None):
            raise UserError(
                "--num_processes and --process_id need --coordinator_address; "
                "give it as HOST:PORT of process 0, or leave out all three for a single process"
            )
        return None
    if count is not None and number is not None and number >= count:
        raise UserError(
            f"--process_id={number} is not one of --num_processes={count}; give 0 to {count - 1}"
        )
    devices = None
    if address == "auto":
        address, count, number, devices = _ask_scheduler(count, number)
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
    return Cluster(match[1].strip("[]"), int(match[2]), count, number, devices)


def _ask_scheduler(
    count: int | None, number: int | None
) -> tuple[str, int | None, int | None, tuple[int, ...] | None]:
    """Asks the schedulers that JAX knows, as `jax.distributed.initialize` does.

    Its own answer comes too late: the processes meet before JAX starts.
    """
    from jax._src import clusters

    try:
        address, count, number, devices = clusters.ClusterEnv.auto_detect_unset_distributed_params(
            None, count, number, None, None, 300
        )
    except Exception as error:  # It has many types, from a missing variable to an HTTP error.
        raise UserError(
            f"--coordinator_address=auto: {type(error).__name__}: {error}; give HOST:PORT"
        ) from error
    if address is None:
        raise UserError(
            "--coordinator_address=auto needs a TPU pod, SLURM or MPI, which are not here; give "
            "HOST:PORT of process 0, --num_processes and --process_id"
        )
    return address, count, number, None if devices is None else tuple(devices)
