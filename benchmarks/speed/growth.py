"""Measures time per image by amount of data and by batch size.

Example:
  python -m benchmarks.speed.growth

The small CNN is timed on random images in memory, drawn and augmented as in training. The first
table has more and more data, in batches of 64. The second has larger and larger batches, of as many
images as FER-2013 has to train on. The sizes take turns.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence

from absl import flags

from benchmarks import record, table
from fer_jax import cli
from fer_jax.config import load_config
from fer_jax.data.contract import PUBLISHED_COUNTS

_CONFIG = "configs/published/small_cnn.py"
_TIMES = (1, 4, 16)
_BATCH_SIZES = (32, 64, 128, 256, 512, 1024)

Times = Mapping[int, Sequence[float]]
"""Microseconds per image in each round, by size."""


def define_flags() -> None:
    """Defines --rounds and the other flags."""
    record.define_flags()
    flags.DEFINE_integer("rounds", 3, "Number of timings of each size.")
    flags.DEFINE_float("seconds", 5.0, "Length of each timing.")
    flags.DEFINE_enum("input", "host", ["host", "device"], "Where batches come from.")


def main(arguments: Sequence[str]) -> None:
    """Measures; prints and records the tables."""
    cli.refuse_arguments(arguments)
    cli.use_huge_pages()
    cli.set_up_jax()
    options = flags.FLAGS
    images = sum(PUBLISHED_COUNTS["train"])
    by_data = _time(_TIMES, lambda times: (times * images, 64))
    by_batch = _time(_BATCH_SIZES, lambda size: (images, size))

    about = f"Microseconds per image: median (least to most), `{_CONFIG}`, input = {options.input}."
    tables = [
        table.make(
            {title: ",", "µs per image": ",.0f"},
            ([size, table.spread(taken)] for size, taken in times.items()),
        )
        for title, times in (("times FER-2013", by_data), ("images in a batch", by_batch))
    ]
    found = record.keep(
        "growth",
        table.figures("Growth of training", about, *tables),
        command=table.command("speed.growth"),
        n=options.rounds,
    )
    print(table.page(found))


def _time(sizes: Sequence[int], arguments: Callable[[int], tuple[int, int]]) -> Times:
    from benchmarks.speed.training import Training, Way

    options = flags.FLAGS
    times: dict[int, list[float]] = {size: [] for size in sizes}
    for _, size in itertools.product(range(options.rounds), sizes):
        images, batch_size = arguments(size)
        training = Training(load_config(_CONFIG), images=images, batch_size=batch_size)
        times[size].append(1e6 / Way(training, options.input).rate(options.seconds))
    return times


if __name__ == "__main__":
    cli.run(main, define_flags)
