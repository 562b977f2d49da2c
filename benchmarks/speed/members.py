"""Times steps of several members on this machine: `members.md` has the figures.

Example:
  python -m benchmarks.speed.members 8
  python -m benchmarks.speed.members 1 "learning_rate=1e-3,3e-4;weight_decay=0,1e-4;mixup=0,0.2"
"""

import resource
import sys
import time

import jax

from benchmarks.speed.training import Training, Way
from fer_jax import cli
from fer_jax.config import load_config

CALLS = 5


def main(members: int, sweep: str = "") -> None:
    """Prints wall and CPU seconds to compile, and CPU milliseconds of a member's step."""
    cli.use_huge_pages()
    cli.set_up_jax()
    jax.config.update("jax_enable_compilation_cache", False)
    config = load_config("published/small_cnn")
    if sweep:
        config.sweep = sweep
    started, before = time.perf_counter(), _cpu_seconds()
    training = Training(config, images=4_000, batch_size=64, members=members)
    jax.block_until_ready(training.state)
    way = Way(training, "host")
    wall, cpu = time.perf_counter() - started, _cpu_seconds() - before
    steps, walls = [], []
    for _ in range(CALLS):
        before = _cpu_seconds()
        walls.append(way.call(repeat=True) / training.members.count)
        steps.append((_cpu_seconds() - before) / training.members.count)
    print(
        f"{training.members.count} members on {training.members.mesh.size} devices: start "
        f"{wall:.1f} s, {cpu:.1f} CPU s; a member's step {1e3 * min(walls):.1f} ms, "
        f"{1e3 * min(steps):.1f} CPU ms (minimum of {CALLS})",
        flush=True,
    )


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
