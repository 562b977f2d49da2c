"""Prints the layers of a config's network, their output shapes and parameters, and the totals.

Example:
  python -m fer_jax.summary --config=configs/resnet.py --format=json
"""

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from absl import flags

from fer_jax import cli
from fer_jax.config import check
from fer_jax.data.contract import CLASS_NAMES, IMAGE_SIZE

if TYPE_CHECKING:
    from flax import nnx

    from fer_jax.models.layers import Classifier


def count_parameters(module: "nnx.Module") -> dict[str, int]:
    """Returns the number of trainable values, of others (statistics, frozen), and in total."""
    import jax

    from fer_jax.models.functional import split

    _, *states = split(module)
    trainable, fixed = (sum(leaf.size for leaf in jax.tree.leaves(state)) for state in states)
    return {"total": trainable + fixed, "trainable": trainable, "non_trainable": fixed}


def list_layers(build: "Callable[[], Classifier]") -> list[tuple[str, str, int]]:
    """Returns each layer's name, output shape for one image and number of parameters, in order."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    def outputs() -> list[jax.Array]:
        model = build()
        model.eval()
        results = [model.prepare(jnp.zeros((1, IMAGE_SIZE, IMAGE_SIZE, 1)))]
        for layer in model.layers():
            results.append(layer(results[-1]))
        return results[1:]

    rows = []
    layers = nnx.eval_shape(build).layers()
    for layer, output in zip(layers, jax.eval_shape(outputs), strict=True):
        if isinstance(layer, nnx.Module):
            name, size = type(layer).__name__.strip("_"), count_parameters(layer)["total"]
        else:
            name, size = layer.__name__, 0
        rows.append((name, " x ".join(map(str, output.shape[1:])), size))
    return rows


def define_flags() -> None:
    """Defines --config and --format."""
    cli.define_config(what="Config of the network, see fer_jax/config.py.")
    flags.DEFINE_enum("format", "text", ["text", "json"], "A table, or the totals only.")


def main(arguments: Sequence[str]) -> None:
    """Builds the network without its values and prints its layers and totals."""
    cli.refuse_arguments(arguments)
    config = flags.FLAGS.config
    check(config)
    from flax import nnx

    from fer_jax.models import create_model

    def build() -> "Classifier":
        classes = config.classes or CLASS_NAMES
        return create_model(
            config.model, num_classes=len(classes), dtype=config.dtype, rngs=nnx.Rngs(0)
        )

    totals = count_parameters(nnx.eval_shape(build))
    if flags.FLAGS.format == "json":
        print(json.dumps(totals))
        return

    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table("layer", "output", box=box.SIMPLE_HEAD)
    table.add_column("parameters", justify="right")
    for name, shape, size in list_layers(build):
        table.add_row(name, shape, f"{size:,}" if size else "")
    table.add_section()
    for name, size in totals.items():
        table.add_row(name.replace("_", "-"), "", f"{size:,}")
    Console(width=80, highlight=False).print(table)


if __name__ == "__main__":
    cli.run(main, define_flags)
