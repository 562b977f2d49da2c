"""Times training on a CPU with small and with large memory pages, in turn.

Example:
  python -m benchmarks.speed.huge_pages

Each page size has a process of its own, `benchmarks.speed.time_fer_jax`, on random images in
memory. Training uses large pages, see `fer_jax.cli.use_huge_pages`. Linux with the GNU C library
only.
"""

import functools
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks import record, table
from benchmarks.speed import sides
from benchmarks.speed.sides import Side, make_job, take_turns
from fer_jax import cli

_COLUMNS = {
    **{"network": "", "pages": "", "step": ",.0f", "step ratio": ".2f", "end to end": ",.0f"},
    **{"end-to-end ratio": ".2f", "peak MiB": ",.0f"},
}
_PAGES = {"small": 0, "large": 1}
"""Values of glibc.malloc.hugetlb."""


def main(arguments: Sequence[str]) -> None:
    """Times both page sizes in turn on each network; records and prints the table."""
    cli.refuse_arguments(arguments)
    options = flags.FLAGS
    jobs = [
        make_job(config, batch_size=options.batch_size, seconds=options.seconds, host_only=True)
        for config in options.configs
    ]
    facts = measure(jobs, rounds=options.rounds)
    found = record.keep(
        "huge_pages", **facts, command=table.command("speed.huge_pages"), n=options.rounds
    )
    print(table.page(found))


def measure(jobs: Sequence[dict], *, rounds: int, python: str = sys.executable) -> dict[str, Any]:
    """Times our side on each job, run by an interpreter; returns figures, hardware, versions."""
    side = [python, "-m", "benchmarks.speed.time_fer_jax"]
    rows: list[list[Any]] = []
    for job in jobs:
        name = Path(job["config"]).stem
        both = {
            (name, pages): Side(side, job, {"GLIBC_TUNABLES": f"glibc.malloc.hugetlb={value}"})
            for pages, value in _PAGES.items()
        }
        turns = take_turns(both, rounds)
        figures = {key: [turn["rows"]["fer_jax"] for turn in taken] for key, taken in turns.items()}
        small = figures[name, "small"]
        for (_, pages), taken in figures.items():
            cells: list[Any] = [name, pages]
            for timing in ("step", "end_to_end"):
                rates = [figure[timing] for figure in taken]
                cells.append(table.spread(rates))
                cells.append(table.ratio(rates, [figure[timing] for figure in small]))
            rows.append([*cells, statistics.median(figure["peak_mib"] for figure in taken)])
    turn = turns[name, "small"][0]
    about = (
        f"Images/s in batches of {job['batch_size']}: median of n turns (least to most). A ratio "
        "is the rate divided by that with small pages in the same turn."
    )
    return {
        "figures": table.figures("Memory pages on a CPU", about, table.make(_COLUMNS, rows)),
        "hardware": turn["hardware"],
        "versions": sides.versions([turn]),
    }


if __name__ == "__main__":
    cli.run(main, functools.partial(sides.define_flags, seconds=5.0))
