"""Measures one network over several devices and processes, and says what many chips would do.

Example:
  python -m benchmarks.scaling

It trains on 1, 2, 4 and 8 CPU devices of one process, and in 2 and 4 processes of one device each
(Gloo on localhost). The model of `step_time.py` is fitted to the pieces and set beside the measured
steps. The picture goes beside the record.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from benchmarks import record, table
from benchmarks.scaling.measuring import measure
from benchmarks.scaling.page import draw, make_parts
from fer_jax import cli


def define_flags() -> None:
    """Defines --networks and the other flags."""
    record.define_flags()
    flags.DEFINE_list(
        "networks",
        ["small_cnn", "resnet/width 16"],
        "Networks to time: small_cnn, resnet/width 16.",
    )
    flags.DEFINE_integer("most", 8, "Largest number of devices.", lower_bound=2)
    flags.DEFINE_integer("rounds", 3, "Number of timings of each program.", lower_bound=1)
    flags.DEFINE_float("seconds", 1.0, "About the length of each timing.")


def main(arguments: Sequence[str]) -> None:
    """Measures; prints and records the numbers, and draws the picture."""
    cli.refuse_arguments(arguments)
    options = flags.FLAGS
    figures, hardware = measure(
        options.networks, most=options.most, rounds=options.rounds, length=options.seconds
    )
    command = table.command("scaling")
    found = record.keep("scaling", figures, command=command, n=options.rounds, hardware=hardware)
    draw(found["figures"], Path(options.results, "scaling", f"{found['name']}.png"))
    print("\n\n".join(make_parts(found).values()))


if __name__ == "__main__":
    cli.run(main, define_flags)
