"""Pieces that the networks share."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


def max_pool(
    x: Float[Array, "batch height width channels"], size: int = 2
) -> Float[Array, "batch height/size width/size channels"]:
    """Takes the maximum of each `size` x `size` block; rows and columns left over are dropped.

    Written as comparisons, which are their own gradient: on a CPU a training step of a small
    network takes less than half the time it takes with `reduce_window`'s select-and-scatter. Where
    several pixels of a block share the maximum one of them has its gradient.

    Not as `max` over axes, whose gradient asks which pixels equal the maximum: XLA may compute
    them anew, rounded otherwise, so that none does, and the gradient is 0 / 0.
    """
    batch, height, width, channels = x.shape
    rows, columns = height // size, width // size
    x = x[:, : rows * size, : columns * size].reshape(batch, rows, size, columns, size, channels)
    x = functools.reduce(_larger, [x[:, :, k] for k in range(size)])
    return functools.reduce(_larger, [x[:, :, :, k] for k in range(size)])


def _larger(one: Array, other: Array) -> Array:
    return jnp.where(one < other, other, one)


def flatten(x: Float[Array, "batch height width channels"]) -> Float[Array, "batch features"]:
    """Lays out each image's features in one row."""
    return x.reshape(len(x), -1)


def global_average_pool(
    x: Float[Array, "batch height width channels"],
) -> Float[Array, "batch channels"]:
    """Averages each channel over its pixels."""
    return x.mean(axis=(1, 2))


class Classifier(nnx.Module):
    """Features, then one dense layer to float32 logits: what every network here is.

    Args:
      features: layers from images, Float[batch, 48, 48, channels], to rows of features.
      width: features in a row.
      num_classes: logits in a row.
      channels: the grey image is repeated to this many channels.
      dtype: of the computation; parameters and logits are float32.
      kernel_init: of the dense layer.
      rngs: for the initial parameters.
    """

    def __init__(
        self,
        features: nnx.Sequential,
        width: int,
        *,
        num_classes: int,
        channels: int,
        dtype: jnp.dtype,
        kernel_init: jax.nn.initializers.Initializer,
        rngs: nnx.Rngs,
    ):
        self.features = features
        self.head = nnx.Linear(width, num_classes, kernel_init=kernel_init, dtype=dtype, rngs=rngs)
        self.channels = channels
        self.dtype = dtype

    def __call__(
        self, images: Float[Array, "batch height width 1"], rngs: nnx.Rngs | None = None
    ) -> Float[Array, "batch classes"]:
        """Returns logits; `rngs` feeds dropout while training."""
        x = jnp.repeat(images.astype(self.dtype), self.channels, axis=-1)
        return self.head(self.features(x, rngs=rngs)).astype(jnp.float32)

    def layers(self) -> list[Callable]:
        """Returns the layers in order, from the repeated image to the logits."""
        return [*self.features.layers, self.head]
