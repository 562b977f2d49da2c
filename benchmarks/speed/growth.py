"""Measures how training grows: time per image with data and batch, memory with epochs. Linux only.

Example:
  python -m benchmarks.speed.growth --output=benchmarks/speed/growth.md

Writes a table, and a figure beside it. Time is that of the small CNN on random images in memory,
drawn and augmented as in training, in batches of 64 where the data grow, and on as many images as
FER-2013 has to train on where the batch grows; the sizes take turns. Memory is that of a run of
many short epochs on drawn faces, with all it does after each: evaluation, checkpoint, TensorBoard.
"""

import datetime
import itertools
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import flags

from benchmarks.speed.resident import watch
from benchmarks.speed.time_fer_jax import Training, hardware
from fer_jax import cli
from fer_jax.config import load_config
from fer_jax.data.contract import PUBLISHED_COUNTS
from fer_jax.errors import write_atomically
from fer_jax.training.input import INPUTS

_OUTPUT = flags.DEFINE_string("output", None, "Markdown file; the figure gets the ending .png.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "How often each size is timed.")
_SECONDS = flags.DEFINE_float("seconds", 5.0, "How long each timing lasts.")
_EPOCHS = flags.DEFINE_integer("epochs", 100, "Of the run whose memory is watched.")

_INPUT = flags.DEFINE_enum("input", "host", list(INPUTS), "Where batches come from.")

_CONFIG = "configs/published/small_cnn.py"
_STEPS = 5  # in an epoch of that run
_TIMES = (1, 4, 16)
_BATCH_SIZES = (32, 64, 128, 256, 512, 1024)

Times = Mapping[int, Sequence[float]]
"""From a size to microseconds per image, one for each round."""


def main(arguments: Sequence[str]) -> None:
    """Measures, prints the tables, and draws the figure."""
    cli.refuse_arguments(arguments)
    cli.use_huge_pages()
    cli.set_up_jax()
    memory = _watch_epochs()
    images = sum(PUBLISHED_COUNTS["train"])
    by_data = _time(_TIMES, lambda times: (times * images, 64))
    by_batch = _time(_BATCH_SIZES, lambda size: (images, size))
    text = _page(by_data, by_batch, memory)
    print(text)
    if _OUTPUT.value:
        write_atomically(_OUTPUT.value, text)
        _plot(by_data, by_batch, memory, Path(_OUTPUT.value).with_suffix(".png"))


def _time(sizes: Sequence[int], arguments: Callable[[int], tuple[int, int]]) -> Times:
    times: dict[int, list[float]] = {size: [] for size in sizes}
    for _, size in itertools.product(range(_ROUNDS.value), sizes):
        images, batch_size = arguments(size)
        config = load_config("published/small_cnn")
        training = Training(config, images=images, batch_size=batch_size)
        times[size].append(1e6 / training.rate(training.feed(_INPUT.value), _SECONDS.value))
    return times


def _watch_epochs() -> np.ndarray:
    """Returns epochs done and the median of resident MiB while so many were, float[epochs, 2]."""
    with tempfile.TemporaryDirectory() as folder:
        metrics = Path(folder) / "run" / "metrics.jsonl"
        command = [sys.executable, "-m", "fer_jax.main", f"--config={_CONFIG}"]
        command += [f"--config.data_dir={folder}/data", "--config.data_source=sample"]
        command += [f"--config.epochs={_EPOCHS.value}", f"--config.steps_per_epoch={_STEPS}"]
        looks = watch(
            [*command, f"--workdir={metrics.parent}"],
            at=lambda: len(metrics.read_text().splitlines()) if metrics.exists() else 0,
        )
    # After the last epoch comes the report, which takes memory of its own.
    done = range(1, _EPOCHS.value)
    return np.array([(epoch, np.median(looks[looks[:, 0] == epoch, 1])) for epoch in done])


def _page(by_data: Times, by_batch: Times, memory: np.ndarray) -> str:
    lines = [
        "# Growth of training",
        "",
        f"Microseconds per image, median of n = {_ROUNDS.value} (least to most), `{_CONFIG}`, "
        f"input = {_INPUT.value}; {hardware()}; {datetime.date.today()}.",
        "",
        f"    python -m benchmarks.speed.growth {' '.join(sys.argv[1:])}",
    ]
    for title, times in (("times FER-2013", by_data), ("images in a batch", by_batch)):
        lines += ["", f"| {title} | µs per image |", "|---:|---:|"]
        for size, taken in times.items():
            spread = f"({min(taken):,.0f} to {max(taken):,.0f})"
            lines.append(f"| {size:,} | {statistics.median(taken):,.0f} {spread} |")
    lines += ["", f"| epoch of {_STEPS} steps | resident MiB |", "|---:|---:|"]
    for epoch, resident in memory[np.linspace(0, len(memory) - 1, 5).astype(int)]:
        lines.append(f"| {epoch:.0f} | {resident:,.0f} |")
    return "\n".join([*lines, ""])


def _plot(by_data: Times, by_batch: Times, memory: np.ndarray, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.2), dpi=150, layout="constrained")
    data, batch, epochs = figure.subplots(1, 3)
    for axes, times, label in (
        (data, by_data, "times FER-2013"),
        (batch, by_batch, "images in a batch"),
    ):
        middle = np.array([statistics.median(taken) for taken in times.values()])
        least, most = np.array([(min(taken), max(taken)) for taken in times.values()]).T
        axes.errorbar(
            list(times), middle, (middle - least, most - middle), fmt="o-", color="#0072B2"
        )
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(times), [f"{size:,}" for size in times])
        axes.minorticks_off()
        axes.set_xlabel(label)
        axes.set_ylabel("µs per image")
    epochs.plot(*memory.T, color="#0072B2", linewidth=1)
    epochs.set_xlabel("epoch")
    epochs.set_ylabel("resident memory (MiB)")
    for axes in (data, batch, epochs):
        axes.set_ylim(0, 1.1 * axes.dataLim.ymax)
        axes.spines[["top", "right"]].set_visible(False)
    FigureCanvasAgg(figure).print_png(path)


if __name__ == "__main__":
    cli.run(main)
