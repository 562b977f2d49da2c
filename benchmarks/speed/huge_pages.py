"""Times training on a CPU with small pages of memory and with large ones, in turn.

Example:
  python -m benchmarks.speed.huge_pages --output=benchmarks/speed/huge_pages.md

Each turn is a process of its own, `benchmarks.speed.time_fer_jax`, on random images held in memory.
`fer_jax.cli.use_huge_pages` says what is chosen. Linux with the GNU C library only.
"""

import datetime
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from fer_jax import cli
from fer_jax.errors import UserError, write_atomically

CONFIGS = (
    *("configs/published/small_cnn.py", "configs/published/medium_cnn.py"),
    *("configs/published/large_cnn.py", "configs/resnet.py"),
)
PAGES = {"small": 0, "large": 1}
"""Values of glibc.malloc.hugetlb."""

_CONFIGS = flags.DEFINE_list("configs", list(CONFIGS), "Files of the networks to time.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "How often each takes its turn.")
_SECONDS = flags.DEFINE_float("seconds", 5.0, "How long each timing of a turn lasts.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images in a batch.")
_OUTPUT = flags.DEFINE_string("output", None, "Markdown file to write the table to.")


def main(arguments: Sequence[str]) -> None:
    """Lets both take turns on each network, and prints and writes the table."""
    cli.refuse_arguments(arguments)
    if missing := [file for file in _CONFIGS.value if not Path(file).is_file()]:
        raise UserError(f"--configs has {missing[0]}, which is no file; name files of configs/")
    rows = []
    for file in _CONFIGS.value:
        turns: dict[str, list[Mapping[str, Any]]] = {pages: [] for pages in PAGES}
        for _ in range(_ROUNDS.value):
            for pages, value in PAGES.items():
                turns[pages].append(_take_turn(file, f"glibc.malloc.hugetlb={value}"))
        for pages, taken in turns.items():
            rows.append(f"| {Path(file).stem} | {pages} | {' | '.join(_cells(taken, turns))} |")
            print(rows[-1], flush=True)
    text = "\n".join(
        [
            "# Pages of memory on a CPU",
            "",
            f"Images/s in batches of {_BATCH_SIZE.value}, median of n = {_ROUNDS.value} turns "
            "(least to most); a ratio is the rate by that with small pages of the same turn. "
            f"{taken[0]['version']}; {taken[0]['hardware']}; {datetime.date.today()}.",
            "",
            f"    python -m benchmarks.speed.huge_pages {' '.join(sys.argv[1:])}",
            "",
            "| network | pages | step | ratio | end to end | ratio | peak MiB |",
            "|---|---|---:|---:|---:|---:|---:|",
            *rows,
            "",
        ]
    )
    print(text)
    if _OUTPUT.value:
        write_atomically(_OUTPUT.value, text)


def _take_turn(config: str, tunables: str) -> Mapping[str, Any]:
    job = {"config": config, "members": 1, "batch_size": _BATCH_SIZE.value}
    job["seconds"] = _SECONDS.value
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.speed.time_fer_jax", json.dumps(job)],
        env={**os.environ, "GLIBC_TUNABLES": tunables},
        input="\n",
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(result.stdout.splitlines()[-1])


def _cells(taken: Sequence[Mapping[str, Any]], turns: Mapping[str, Sequence]) -> list[str]:
    figures, baseline = (
        [turn["rows"]["fer_jax"] for turn in each] for each in (taken, turns["small"])
    )
    cells = []
    for key in ("step", "end_to_end"):
        rates = [figure[key] for figure in figures]
        cells.append(f"{statistics.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})")
        ratios = [rate / small[key] for rate, small in zip(rates, baseline, strict=True)]
        cells.append(f"{statistics.median(ratios):.2f}")
    return [*cells, f"{statistics.median(figure['peak_mib'] for figure in figures):,.0f}"]


if __name__ == "__main__":
    cli.run(main)
