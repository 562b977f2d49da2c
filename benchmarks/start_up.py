"""Times a run from the command to its first step, with an empty cache of programs and a full one.

Example:
  python -m benchmarks.start_up --run_config=configs/published/small_cnn.py

The records must be prepared, in $FER2013_DIR or data/fer2013. Each start is a process of its own,
with a workdir of its own.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from fer_jax import cli
from fer_jax.errors import UserError

_CONFIG = flags.DEFINE_string("run_config", "configs/published/small_cnn.py", "Of the run.")
_STARTS = flags.DEFINE_integer("starts", 5, "How often it is started each way.")


def main(arguments: Sequence[str]) -> None:
    """Starts the run over and over, and prints the medians."""
    cli.refuse_arguments(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ways = {
            "empty": [folder / f"cache{k}" for k in range(_STARTS.value)],
            "full": [folder / "cache0"] * _STARTS.value,
        }
        print("cache  until the end of    seconds (least to most)   of processor time")
        for way, caches in ways.items():
            starts = [_start(folder / f"{way}{k}", cache) for k, cache in enumerate(caches)]
            for part in starts[0]:
                walls, busy = zip(*(start[part] for start in starts), strict=True)
                spread = f"({min(walls):.1f} to {max(walls):.1f})"
                print(
                    f"{way:5}  {part:17}  {statistics.median(walls):7.1f} {spread:16}"
                    f"  {statistics.median(busy):17.1f}"
                )
    print(f"n = {_STARTS.value}, {len(os.sched_getaffinity(0))} CPU cores, {_CONFIG.value}")


def _start(workdir: Path, cache: Path) -> dict[str, tuple[float, float]]:
    """Returns, for each part in order, the seconds at its end, and those of processor time."""
    command = [sys.executable, "-m", "benchmarks.time_start", str(time.monotonic())]
    process = subprocess.run(
        [*command, f"--config={_CONFIG.value}", f"--workdir={workdir}"],
        env={**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        raise UserError(f"{_CONFIG.value} did not start: {process.stderr.splitlines()[-1]}")
    return json.loads(process.stdout.splitlines()[-1])


if __name__ == "__main__":
    cli.run(main)
