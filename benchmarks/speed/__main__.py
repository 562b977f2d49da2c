"""Times our training against PyTorch's and Keras's, in turn and in one run, and records it.

Example:
  python -m benchmarks.speed --torch_python=torch_env/bin/python --keras_python=tf_env/bin/python

PyTorch and Keras on TensorFlow are peers, not dependencies: make an environment for each, and name
its interpreter. A peer without an interpreter is listed as not measured.

All sides train the same network from the same layer list on random images in memory, with shift and
flip. Each is timed twice: on the same batches over and over (the step), and on batches drawn and
augmented as in training (end to end). Each side is a process of its own, and the sides take turns.
JAX and PyTorch use a GPU if they see one. With `--at_once` the processes of all networks compile at
the same time, before the first turn.

`--isa=AVX2` stands in for a processor that has AVX2 at most: XLA, oneDNN and PyTorch are told to
use nothing newer. YNNPACK cannot be told. It computes our matrix products, and here oneDNN does.
Parts of TensorFlow cannot be told either.

Our side has a row for each `config.input`, but with `--isa` only one, for the host's. On a GPU it
also has a row without our compiler options and, for the smallest network, a row for eight members
together. On a GPU PyTorch has a row for each way to train. Ratios compare each row with our first
row.
"""

import json
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks import record, table
from benchmarks.speed import sides
from benchmarks.speed.sides import Side, Turn, make_job, take_turns
from fer_jax import cli

_MEMBERS = {"small_cnn": 8}
"""Number of members that an additional row of ours trains together on a GPU or TPU, by network."""

_COLUMNS = {
    **{"network": "", "framework": "", "n": "d", "step": ",.0f", "step ratio": ".2f"},
    **{"end to end": ",.0f", "end-to-end ratio": ".2f", "of step": ".0%", "first step, s": ".1f"},
    **{"peak MiB": ",.0f", "GFLOP/s": ",.0f", "of peak": ".1%"},
}


def define_flags() -> None:
    """Defines --torch_python and the other flags."""
    sides.define_flags(seconds=10.0)
    flags.DEFINE_string("torch_python", None, "Interpreter that has PyTorch.")
    flags.DEFINE_string("keras_python", None, "Interpreter that has Keras and TensorFlow.")
    flags.DEFINE_bool("at_once", False, "Start the processes of all networks at once.")
    flags.DEFINE_enum("isa", None, ["AVX2"], "Newest vector instructions to use; default: any.")


def main(arguments: Sequence[str]) -> None:
    """Times all sides in turn on each network; records and prints the table."""
    cli.refuse_arguments(arguments)
    options = flags.FLAGS
    folder = Path(__file__).parent
    commands = {
        "fer_jax": [sys.executable, "-m", "benchmarks.speed.time_fer_jax"],
        "PyTorch": options.torch_python and [options.torch_python, f"{folder}/time_pytorch.py"],
        "Keras": options.keras_python and [options.keras_python, f"{folder}/time_keras.py"],
    }
    # Ours starts last, so that a peer that cannot run is reported at once, not after minutes.
    there = {side: command for side, command in reversed(commands.items()) if command}
    size, seconds = options.batch_size, options.seconds
    jobs = {}
    for config in options.configs:
        name = Path(config).stem
        members = _MEMBERS.get(name, 1)
        more = dict.fromkeys(("host_only", "without_ynnpack"), bool(options.isa))
        jobs[name] = make_job(config, batch_size=size, seconds=seconds, members=members, **more)
    environment = limit(options.isa) if options.isa else {}
    turns: dict[tuple[str, str], list[Turn]] = {}
    for names in [list(jobs)] if options.at_once else [[name] for name in jobs]:
        group = {
            (name, side): Side(command, jobs[name], environment)
            for name in names
            for side, command in there.items()
        }
        turns |= take_turns(group, options.rounds)
    by_network = {name: {side: turns.get((name, side), []) for side in commands} for name in jobs}
    first = [taken[0] for taken in turns.values()]
    (hardware,) = {json.dumps(turn["hardware"]) for turn in first if "hardware" in turn}
    limited = {"instructions": options.isa} if options.isa else {}
    found = record.keep(
        "speed",
        make_figures(by_network, batch_size=size, at_once=options.at_once, isa=options.isa),
        command=table.command("speed"),
        n=options.rounds,
        hardware=json.loads(hardware) | limited,
        versions=sides.versions(first),
    )
    print(table.page(found))


def limit(isa: str) -> dict[str, str]:
    """Returns the environment in which all sides use these vector instructions, and none newer."""
    return {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_max_isa={isa}",
        "ONEDNN_MAX_CPU_ISA": isa,  # XLA's, PyTorch's and TensorFlow's.
        "ATEN_CPU_CAPABILITY": isa.lower(),  # PyTorch's own kernels.
        "MKL_ENABLE_INSTRUCTIONS": isa,  # PyTorch's matrix products.
    }


def make_figures(
    turns: Mapping[str, Mapping[str, Sequence[Turn]]],
    *,
    batch_size: int,
    at_once: bool = False,
    isa: str | None = None,
) -> dict[str, Any]:
    """Returns the figures of each side's turns on each network; "fer_jax" is ours."""
    ours = next(iter(turns.values()))["fer_jax"][0]
    beside = ", while the other networks compile too" if at_once else ""
    about = (
        f"Images/s: median of n turns (least to most), batches of {batch_size}, Adam, "
        f"{ours['dtype']}. A ratio is fer_jax's rate divided by the row's, in neighbouring turns. "
        "`of step` is the end-to-end rate divided by the step's. The first step includes "
        f"compilation, without a cache{beside}. GFLOP/s are the network's: three times those of "
        "its forward pass, as XLA counts them, at the step's rate. The peak is "
        f"{ours['peak']}. Peak memory is {ours['memory']}."
        + (f" All sides use {isa} at most; for fer_jax this leaves out YNNPACK." if isa else "")
    )
    rows: list[list[Any]] = []
    for network, by_side in turns.items():
        for side, taken in by_side.items():
            if not taken:
                rows.append([network, side, 0, "not measured", *[None] * (len(_COLUMNS) - 4)])
            for row in taken[0]["rows"] if taken else ():
                rows.append([network, row, *_cells(row, by_side["fer_jax"], taken)])
    title = "Speed of training, side by side"
    return table.figures(title, about, table.make(_COLUMNS, rows), batch_size=batch_size)


def _cells(row: str, ours: Sequence[Turn], theirs: Sequence[Turn]) -> list[Any]:
    figures = [turn["rows"][row] for turn in theirs]
    baseline = [next(iter(turn["rows"].values())) for turn in ours]
    cells: list[Any] = [len(theirs)]
    for key in ("step", "end_to_end"):
        rates = [figure[key] for figure in figures]
        cells.append(table.spread(rates))
        cells.append(table.ratio([figure[key] for figure in baseline], rates))
    cells.append(statistics.median(f["end_to_end"] / f["step"] for f in figures))
    cells.append(statistics.median(figure["first_step"] for figure in figures))
    peaks_mib = [figure["peak_mib"] for figure in figures]
    cells.append(statistics.median(peaks_mib) if all(peaks_mib) else "not known")
    flops = ours[0]["flops_per_image"] * statistics.median(figure["step"] for figure in figures)
    peaks = [turn["peak_flops"] for turn in ours]
    share = flops / statistics.median(peaks) if all(peaks) else "not known"
    return [*cells, flops / 1e9, share]


if __name__ == "__main__":
    cli.run(main, define_flags)
