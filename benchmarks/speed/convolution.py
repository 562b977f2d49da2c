"""Times a training step on a CPU with each choice of convolution, in turn in one process.

Example:
  python -m benchmarks.speed.convolution
  python -m benchmarks.speed.convolution --configs=efficientnet,convnext --name=depthwise

The first choice is XLA's own convolution. The second uses oneDNN's kernels. The third adds our
forms of the gradients, and the fourth adds Winograd's algorithm where it saves multiplications.
Runs use the fourth, see `fer_jax.kernels.convolution`. These four are in float32; a fifth is in
bfloat16 if the processor supports it. All train with Adam on one batch. The choices take turns of
two steps, and only the second step is timed, because its memory is warm.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks import record, table
from fer_jax import cli
from fer_jax.config import load_config

CONFIGS = (
    *("published/small_cnn", "published/medium_cnn", "published/large_cnn"),
    *("published/three_emotions", "resnet"),
)
_COLUMNS = {"network": "", "convolutions": "", "images/s": ",.0f", "speed-up": ".2f"}
CHOICES = {
    "XLA's own": (False, (), "float32"),
    "oneDNN": (True, (), "float32"),
    "oneDNN, our gradients": (True, ("gradients",), "float32"),
    "oneDNN, our gradients, Winograd": (True, ("gradients", "winograd"), "float32"),
    "oneDNN, our gradients, bfloat16": (True, ("gradients", "winograd"), "bfloat16"),
}
"""Each choice: whether with our compiler options, our convolution forms in use, and the type."""


def define_flags() -> None:
    """Defines --configs and the other flags."""
    flags.DEFINE_list("configs", list(CONFIGS), "Networks to time: names or files of configs.")
    flags.DEFINE_integer("steps", 20, "Number of timed steps of each choice.")
    flags.DEFINE_integer("batch_size", 64, "Images in a batch.")
    record.define_flags()


def main(arguments: Sequence[str]) -> None:
    """Times all choices; prints and records the table."""
    cli.refuse_arguments(arguments)
    options = flags.FLAGS
    for name in options.configs:
        load_config(name)  # A wrong name is reported at once.
    cli.use_huge_pages()
    cli.set_up_jax()
    rows: list[list[Any]] = []
    for name in options.configs:
        for row in measure(name, steps=options.steps, batch_size=options.batch_size):
            rows.append([Path(name).stem, *row])
            print(*rows[-1], flush=True)
    about = (
        f"Images/s of whole training steps of {options.batch_size} images: median of n steps "
        "(least to most). The speed-up is over the first row's step in the same turn, again the "
        "median."
    )
    found = record.keep(
        "convolution",
        table.figures("Convolutions on a CPU", about, table.make(_COLUMNS, rows)),
        command=table.command("speed.convolution"),
        n=options.steps,
    )
    print(table.page(found))


def measure(name: str, *, steps: int, batch_size: int) -> Iterator[tuple[str, dict, float]]:
    """Yields choice, images/s and speed-up over the first choice, for one network."""
    from benchmarks.speed.training import Training, Way
    from fer_jax.devices import supported_dtype
    from fer_jax.kernels.context import convolutions

    config = load_config(name)
    config.optimizer = "adam"
    trainings: dict[str, Training] = {}
    ways: dict[str, Way] = {}
    for choice, (ours, forms, config.dtype) in CHOICES.items():
        if config.dtype != supported_dtype(config.dtype, training=True):
            continue
        if config.dtype not in trainings:
            trainings[config.dtype] = Training(config, images=1_000, batch_size=batch_size)
        with convolutions(*forms):  # The step is traced here.
            ways[choice] = Way(trainings[config.dtype], "host", None if ours else {})
    seconds: dict[str, list[float]] = {choice: [] for choice in ways}
    for _ in range(steps):
        for choice, way in ways.items():
            way.call(repeat=True)
            seconds[choice].append(way.call(repeat=True))
    first = next(iter(seconds.values()))
    for choice, own in seconds.items():
        rates = [batch_size / each for each in own]
        yield choice, table.spread(rates), table.ratio(first, own)


if __name__ == "__main__":
    cli.run(main, define_flags)
