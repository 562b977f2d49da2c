"""Kills runs at random moments, starts them again, and compares them with unbroken runs.

Example:
  python -m benchmarks.faults --kills=50

Each trial starts `python -m fer_jax.main` on drawn faces and gives it one to three faults, SIGKILL
or, one time in four, SIGTERM. After each it starts the same command again. When the run has ended,
its parameters, optimiser state, history and predictions are compared with those of an unbroken run.

The kinds of runs take turns, two at a time. The moments are random: half of them are in the loop
over the epochs, the others before and after. The phase is read from the stack of the process. Of
two processes that train one gets the signal, and the other must end by itself.

The exit status is 1 if any run differs. With --workdir its folder stays there. Linux only.
"""

import itertools
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

from absl import flags, logging

from benchmarks import record, table
from benchmarks.faults.phases import PHASES
from benchmarks.faults.trial import KINDS, Fault, Reference, Trial, Trials, describe
from fer_jax import cli
from fer_jax.errors import UserError

_AT_ONCE = 2
_SIGNALS = ("SIGKILL", "SIGTERM")
_PACKAGES = ("jax", "flax", "orbax-checkpoint", "grain")


def define_flags() -> None:
    """Defines --kills and the other flags."""
    flags.DEFINE_integer("kills", 50, "Number of faults, at least.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Seed of the moments and signals.", lower_bound=0)
    flags.DEFINE_list("kinds", list(KINDS), "Kinds of runs.")
    flags.DEFINE_string("workdir", None, "Folder for the runs; default: a temporary one.")
    record.define_flags()


def main(arguments: Sequence[str]) -> None:
    """Makes the trials; prints and records the tables."""
    cli.refuse_arguments(arguments)
    options = flags.FLAGS
    if unknown := [kind for kind in options.kinds if kind not in KINDS]:
        raise UserError(f"--kinds has {', '.join(unknown)}; choose from {', '.join(KINDS)}")
    logging.set_verbosity(logging.ERROR)  # Orbax warns that an item alone is no checkpoint.
    import jax

    jax.config.update("jax_platforms", "cpu")  # GPUs and TPUs are for the commands started here.
    with tempfile.TemporaryDirectory() as folder:
        trials = make_trials(Path(options.workdir or folder))
    found = record.keep(
        "faults",
        make_figures(trials),
        command=table.command("faults"),
        n=len(trials),
        versions={name: version(name) for name in _PACKAGES},
    )
    print(table.page(found), *_problems(trials), sep="\n")
    if any(trial.problem for trial in trials):
        sys.exit(1)


def make_trials(folder: Path) -> list[Trial]:
    """Makes trials of all kinds in turn until there are enough faults."""
    options = flags.FLAGS
    trials: list[Trial] = []
    numbers = itertools.count()

    def work(references: Mapping[str, Reference]) -> None:
        while (left := options.kills - sum(len(trial.faults) for trial in trials)) > 0:
            number = next(numbers)
            kind = options.kinds[number % len(options.kinds)]
            seed = (options.seed, number)
            trials.append(runs.run(kind, references[kind], seed=seed, most=left))
            print(f"{kind}: {describe(trials[-1])}", file=sys.stderr)

    with ThreadPoolExecutor(_AT_ONCE) as pool, Trials(folder) as runs:
        references = dict(zip(options.kinds, pool.map(runs.reference, options.kinds), strict=True))
        for worker in [pool.submit(work, references) for _ in range(_AT_ONCE)]:
            worker.result()
    return trials


def make_figures(trials: Sequence[Trial]) -> dict[str, Any]:
    """Returns a table of the kinds of runs, one of the phases, and what differed."""
    faults = [fault for trial in trials for fault in trial.faults]
    equal = sum(not trial.problem for trial in trials)
    about = (
        f"{len(faults)} faults in {len(trials)} runs, {equal} of which ended equal to an unbroken "
        "run: parameters, optimiser state and input position of the latest checkpoint bit for bit, "
        "history (without times) and predictions. Seconds are from a SIGTERM to the end of the "
        "process."
    )
    kinds: list[list[Any]] = []
    for kind in dict.fromkeys(trial.kind for trial in trials):
        own = [trial for trial in trials if trial.kind == kind]
        equal = sum(not trial.problem for trial in own)
        struck = [fault for trial in own for fault in trial.faults]
        hit = [phase for phase in PHASES if any(fault.phase == phase for fault in struck)]
        kinds.append([kind, ", ".join(hit), len(own), *_count(struck), f"{equal} of {len(own)}"])
    phases: list[list[Any]] = []
    for phase in PHASES:
        struck = [fault for fault in faults if fault.phase == phase]
        terminated = [fault for fault in struck if fault.signal == "SIGTERM"]
        statuses = ", ".join(map(str, sorted({fault.status for fault in terminated})))
        slowest = max((fault.seconds for fault in terminated), default=None)
        phases.append([phase, *_count(struck), statuses, slowest])
    counts = dict.fromkeys(_SIGNALS, "d")
    tables = [
        table.make({"run": "", "phases hit": "", "runs": "d", **counts, "equal": ""}, kinds),
        table.make({"phase": "", **counts, "statuses": "", "slowest, s": ".1f"}, phases),
    ]
    return table.figures("Runs that were killed", about, *tables, problems=_problems(trials))


def _problems(trials: Sequence[Trial]) -> list[str]:
    return [f"- {trial.kind}: {describe(trial)}" for trial in trials if trial.problem]


def _count(faults: Sequence[Fault]) -> list[int]:
    return [sum(fault.signal == name for fault in faults) for name in _SIGNALS]


if __name__ == "__main__":
    cli.run(main, define_flags)
