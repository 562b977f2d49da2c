"""Compares runs on one split: their results, whether the differences are chance, their configs.

It prints tables and writes a page. Each run needs an evaluation on that split, which
`python -m fer_jax.evaluate` writes; training writes that of the validation split.

Example:
  python -m fer_jax.compare runs/small_cnn runs/resnet --split=private_test
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from fer_jax import cli
from fer_jax.errors import UserError


def define_flags() -> None:
    """Defines --split and --output."""
    flags.DEFINE_string(
        "split",
        None,
        "Images to compare on, or a folder below eval/, such as test+ten_crop; default: the "
        "validation split.",
    )
    cli.define_path("output", "Page to write.", "compare.html")


def main(arguments: Sequence[str]) -> None:
    """Prints the comparison and writes its page."""
    # Imported here so that a wrong flag is reported at once.
    from fer_jax.reporting import comparison

    options = flags.FLAGS
    split, runs = comparison.read_runs(arguments[1:], options.split)
    pairs = comparison.compare_pairs(runs)
    comparison.print_comparison(split, runs, pairs)
    try:
        comparison.write_comparison(Path(options.output), split, runs, pairs)
    except OSError as error:
        raise UserError(f"cannot write the page: {error}; choose another --output") from error
    print(f"\nthe same comparison with curves is in {options.output}")


if __name__ == "__main__":
    cli.run(main, define_flags)
