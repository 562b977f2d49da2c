"""Times a training step with each choice of convolution on a CPU, in turn in one process.

Example:
  python -m benchmarks.speed.convolution --output=benchmarks/speed/convolution.md
  python -m benchmarks.speed.convolution --configs=configs/efficientnet.py,configs/convnext.py

The first choice is XLA's own, the second takes oneDNN's kernels, the third our forms of gradients
besides, and the fourth Winograd's convolution where it has fewer multiplications: what we train
with, see `fer_jax.kernels.convolution`. In float32, and the last in bfloat16 where the processor is
made for it; Adam, one and the same batch; each takes two steps, of which the second is timed, for
its memory is warm, and gives way to the next.
"""

import datetime
import functools
import runpy
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
from absl import flags

from benchmarks.speed.time_fer_jax import Training, hardware
from fer_jax import cli
from fer_jax.devices import compiler_options, supported_dtype
from fer_jax.errors import UserError, write_atomically
from fer_jax.kernels.context import convolutions

CONFIGS = (
    *("configs/published/small_cnn.py", "configs/published/medium_cnn.py"),
    *("configs/published/large_cnn.py", "configs/published/three_emotions.py", "configs/resnet.py"),
)


CHOICES: dict[str, tuple[Callable[[], dict], tuple[str, ...], str]] = {
    "XLA's own": (dict, (), "float32"),
    "oneDNN": (compiler_options, (), "float32"),
    "oneDNN, our gradients": (compiler_options, ("gradients",), "float32"),
    "oneDNN, our gradients, Winograd": (compiler_options, ("gradients", "winograd"), "float32"),
    "oneDNN, our gradients, bfloat16": (compiler_options, ("gradients", "winograd"), "bfloat16"),
}
"""The compiler's options, our forms of a convolution, and the type to compute in."""

_CONFIGS = flags.DEFINE_list("configs", list(CONFIGS), "Files of the networks to time.")
_STEPS = flags.DEFINE_integer("steps", 20, "How many steps of each choice are timed.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images in a batch.")
_OUTPUT = flags.DEFINE_string("output", None, "Markdown file to write the table to.")


def main(arguments: Sequence[str]) -> None:
    """Times all choices, prints the table and writes it."""
    cli.refuse_arguments(arguments)
    if missing := [file for file in _CONFIGS.value if not Path(file).is_file()]:
        raise UserError(f"--configs has {missing[0]}, which is no file; name files of configs/")
    cli.use_huge_pages()
    cli.set_up_jax()
    jax.config.update("jax_enable_compilation_cache", False)  # As nothing of oneDNN's can be kept.
    lines = [
        "# Convolutions on a CPU",
        "",
        f"Images/s by whole training steps of {_BATCH_SIZE.value} images, median of "
        f"n = {_STEPS.value} (least to most), and the median of the speed-up over the first row's "
        f"step of the same turn. jax {jax.__version__}; {hardware()}; {datetime.date.today()}.",
        "",
        f"    python -m benchmarks.speed.convolution {' '.join(sys.argv[1:])}",
        "",
        "| network | convolutions | images/s | speed-up |",
        "|---|---|---:|---:|",
    ]
    for file in _CONFIGS.value:
        times = _time(file)
        baseline = next(iter(times.values()))
        for choice, seconds in times.items():
            rates = [_BATCH_SIZE.value / each for each in seconds]
            ratio = statistics.median(a / b for a, b in zip(baseline, seconds, strict=True))
            lines.append(
                f"| {Path(file).stem} | {choice} | {statistics.median(rates):,.0f} "
                f"({min(rates):,.0f} to {max(rates):,.0f}) | {ratio:.2f} |"
            )
            print(lines[-1], flush=True)
    text = "\n".join([*lines, ""])
    print(text)
    if _OUTPUT.value:
        write_atomically(_OUTPUT.value, text)


def _time(config_file: str) -> dict[str, list[float]]:
    """Returns the seconds of each step of each choice."""
    config = runpy.run_path(config_file)["get_config"]()
    config.optimizer = "adam"
    trained = {}
    for choice, (options, forms, config.dtype) in CHOICES.items():
        if config.dtype != supported_dtype(config.dtype, training=True):
            continue
        training = Training(config, images=1_000, batch_size=_BATCH_SIZE.value)
        make = functools.partial(training.one_batch, options())
        with convolutions(*forms):  # The step is traced here.
            trained[choice] = training, training.first_step(make)[0]
    times: dict[str, list[float]] = {choice: [] for choice in trained}
    for _ in range(_STEPS.value):
        for choice, (training, advance) in trained.items():
            training.advance(advance)
            started = time.perf_counter()
            training.advance(advance)
            times[choice].append(time.perf_counter() - started)
    return times


if __name__ == "__main__":
    cli.run(main)
