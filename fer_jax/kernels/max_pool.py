"""Max-pooling with a fast gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt

from fer_jax.kernels.context import in_use

Blocks = Float[Array, "batch rows size columns size channels"]
Maxima = Float[Array, "batch rows columns channels"]
Places = UInt[Array, "batch rows columns channels"]


def max_pool(
    x: Float[Array, "batch height width channels"], size: int
) -> Float[Array, "batch height/size width/size channels"]:
    """Takes the maximum of each `size` x `size` block; rows and columns left over are dropped.

    If several pixels of a block share the maximum, the first of them gets the gradient.

    XLA runs this form fast on a CPU. Comparisons record the place of each maximum in a byte, and
    the gradient is one pass over these places. A training step of a small network takes
    less than half as long as with `reduce_window`'s select-and-scatter.
    """
    if not in_use("max_pool"):
        return nnx.max_pool(x, (size, size), strides=(size, size))
    batch, height, width, channels = x.shape
    rows, columns = height // size, width // size
    x = x[:, : rows * size, : columns * size].reshape(batch, rows, size, columns, size, channels)
    return _max_of_blocks(x, size)


def _places(size: int) -> UInt[np.ndarray, "size size"]:
    """Numbers the pixels of a block, in the smallest unsigned type that holds the numbers."""
    return np.arange(size**2, dtype=np.min_scalar_type(size**2 - 1)).reshape(size, size)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _max_of_blocks(x: Blocks, size: int) -> Maxima:
    return _find_maxima(x, size)[0]


def _find_maxima(x: Blocks, size: int) -> tuple[Maxima, Places]:
    maxima, places = x[:, :, 0, :, 0], jnp.zeros((), _places(size).dtype)
    for (i, j), place in np.ndenumerate(_places(size)):
        larger = maxima < x[:, :, i, :, j]
        maxima = jnp.where(larger, x[:, :, i, :, j], maxima)
        places = jnp.where(larger, place, places)
    return maxima, places


def _keep_places(x: Blocks, size: int) -> tuple[Maxima, Places]:
    # Without this barrier XLA recomputes the places from the whole blocks for the gradient.
    return jax.lax.optimization_barrier(_find_maxima(x, size))


def _give_back(size: int, places: Places, gradient: Maxima) -> tuple[Blocks]:
    places, gradient = (x[:, :, None, :, None] for x in (places, gradient))
    return (jnp.where(places == _places(size)[:, None, :, None], gradient, 0),)


_max_of_blocks.defvjp(_keep_places, _give_back)
