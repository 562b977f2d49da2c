"""Puts runs side by side: what they reach on one split, whether that is chance, how they differ.

Prints tables and writes a page. Each run needs its evaluation on that split, as
`python -m fer_jax.evaluate` leaves it; training leaves that of the validation split.

Example:
  python -m fer_jax.compare runs/small_cnn runs/resnet --split=private_test
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from fer_jax import cli
from fer_jax.errors import UserError

_SPLIT = flags.DEFINE_string("split", None, "Which images; default: those that all validated on.")
_OUTPUT = flags.DEFINE_string("output", "compare.html", "Page to write.")


def main(arguments: Sequence[str]) -> None:
    """Compares, prints and writes the page."""
    # Imported here, so that a wrong flag is told at once.
    from fer_jax.reporting import comparison

    workdirs = [Path(argument) for argument in arguments[1:]]
    split, runs = comparison.read_runs(workdirs, _SPLIT.value)
    pairs = comparison.compare_pairs(runs)
    comparison.print_comparison(split, runs, pairs)
    try:
        comparison.write_comparison(Path(_OUTPUT.value), split, runs, pairs)
    except OSError as error:
        raise UserError(f"cannot write the page: {error}; choose another --output") from error
    print(f"\nthe same, with curves, is in {_OUTPUT.value}")


if __name__ == "__main__":
    cli.run(main)
