"""Measures one network over several devices and processes, and says what many chips would do.

Example:
  python -m benchmarks.scaling --output=benchmarks/scaling.md

It trains on 1, 2, 4 and 8 CPU devices of one process, and in 2 and 4 processes of one device each
(Gloo on localhost). The model of `step_time.py` is fitted to the pieces and set beside the measured
steps. The picture and all numbers go beside the page, as .png and .json. With `--numbers=FILE` the
page and the picture are made from such numbers, without measuring.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from benchmarks import table
from benchmarks.scaling.measuring import measure
from benchmarks.scaling.page import draw, make_page
from fer_jax import cli
from fer_jax.errors import write_atomically


def define_flags() -> None:
    """Defines --output and the other flags."""
    flags.DEFINE_string("output", None, "Markdown file to write; .png and .json go beside it.")
    flags.DEFINE_string("numbers", None, "JSON of an earlier call: nothing is measured.")
    flags.DEFINE_list(
        "networks",
        ["small_cnn", "resnet/width 16"],
        "Networks to time: small_cnn, resnet/width 16.",
    )
    flags.DEFINE_integer("most", 8, "Largest number of devices.", lower_bound=2)
    flags.DEFINE_integer("rounds", 3, "Number of timings of each program.", lower_bound=1)
    flags.DEFINE_float("seconds", 1.0, "About the length of each timing.")


def main(arguments: Sequence[str]) -> None:
    """Measures, and prints and writes the page, the picture and the numbers."""
    cli.refuse_arguments(arguments)
    options = flags.FLAGS
    if options.numbers:
        found = json.loads(Path(options.numbers).read_text())
    else:
        found = {
            "command": table.command("scaling"),
            **measure(
                options.networks, most=options.most, rounds=options.rounds, length=options.seconds
            ),
        }
    page = make_page(found)
    if options.output:
        output = Path(options.output)
        write_atomically(output.with_suffix(".json"), json.dumps(found, indent=1) + "\n")
        draw(found, output.with_suffix(".png"))
    table.publish(page, options.output)


if __name__ == "__main__":
    cli.run(main, define_flags)
