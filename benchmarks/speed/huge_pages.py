"""Times training on a CPU with small and with large memory pages, in turn.

Example:
  python -m benchmarks.speed.huge_pages --output=benchmarks/speed/huge_pages.md

Each page size has a process of its own, `benchmarks.speed.time_fer_jax`, on random images in
memory. Training uses large pages, see `fer_jax.cli.use_huge_pages`. Linux with the GNU C library
only.
"""

import functools
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from benchmarks import table
from benchmarks.speed import sides
from benchmarks.speed.sides import Side, make_job, take_turns
from fer_jax import cli

_HEADINGS = ("network", "pages", "step", "ratio", "end to end", "ratio", "peak MiB")
_PAGES = {"small": 0, "large": 1}
"""Values of glibc.malloc.hugetlb."""


def main(arguments: Sequence[str]) -> None:
    """Times both page sizes in turn on each network, and prints and writes the table."""
    cli.refuse_arguments(arguments)
    options = flags.FLAGS
    jobs = [
        make_job(config, batch_size=options.batch_size, seconds=options.seconds, host_only=True)
        for config in options.configs
    ]
    page = make_page(jobs, rounds=options.rounds, command=table.command("speed.huge_pages"))
    table.publish(page, options.output)


def make_page(
    jobs: Sequence[dict], *, rounds: int, command: str, python: str = sys.executable
) -> str:
    """Times our side on each job, run by an interpreter; returns the page as Markdown."""
    side = [python, "-m", "benchmarks.speed.time_fer_jax"]
    rows = []
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
            cells = [name, pages]
            for timing in ("step", "end_to_end"):
                rates = [figure[timing] for figure in taken]
                cells.append(table.median(rates))
                cells.append(table.median_ratio(rates, [figure[timing] for figure in small]))
            peak_mib = statistics.median(figure["peak_mib"] for figure in taken)
            rows.append([*cells, f"{peak_mib:,.0f}"])
    turn = turns[name, "small"][0]
    text = (
        f"Images/s in batches of {job['batch_size']}: median of n = {rounds} turns (least to "
        "most). A ratio is the rate divided by that with small pages in the same turn. "
        f"{table.circumstances(turn['version'], turn['hardware'])}"
    )
    lines = table.table(_HEADINGS, rows, words=2)
    return table.page("Memory pages on a CPU", text, command, lines)


if __name__ == "__main__":
    cli.run(main, functools.partial(sides.define_flags, seconds=5.0))
