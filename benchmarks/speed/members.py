"""Times steps of several members on this machine, and records them.

Example:
  python -m benchmarks.speed.members --name=8 8
  python -m benchmarks.speed.members --name=sweep 1 "learning_rate=1e-3,3e-4;mixup=0,0.2"
"""

import resource
import time
from collections.abc import Sequence

import jax

from benchmarks import record, table
from benchmarks.speed.training import Training, Way
from fer_jax import cli
from fer_jax.config import load_config
from fer_jax.errors import UserError

CALLS = 5
_COLUMNS = {
    **{"members": ",", "sweep": "", "start, s": ".1f", "start, CPU s": ".1f"},
    **{"a member's step, ms": ".1f", "a member's step, CPU ms": ".1f"},
}


def define_flags() -> None:
    """Defines the flags."""
    record.define_flags()


def main(arguments: Sequence[str]) -> None:
    """Times and records seconds to compile, and milliseconds of a member's step."""
    _, *given = arguments
    if not given or not given[0].isdecimal() or len(given) > 2:
        raise UserError("give the number of members, and perhaps a sweep")
    members, sweep = int(given[0]), "".join(given[1:])
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
    count = training.members.count
    about = (
        "Steps of `published/small_cnn`, batch 64 each, host input with repeated batches. Start: "
        "seconds to draw the states, compile and take the first step, with no compilation cache. "
        "A member's step: the least of n steps of all members, divided by their number."
    )
    row = [count, sweep or "none", wall, cpu, 1e3 * min(walls), 1e3 * min(steps)]
    found = record.keep(
        "members",
        table.figures("Members of a CPU run", about, table.make(_COLUMNS, [row])),
        command=table.command("speed.members"),
        n=CALLS,
    )
    print(table.page(found))


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    cli.run(main, define_flags)
