"""Max-pooling, and what makes its gradient fast."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt

Blocks = Float[Array, "batch rows size columns size channels"]
Maxima = Float[Array, "batch rows columns channels"]
Places = UInt[Array, "batch rows columns channels"]


def max_pool(
    x: Float[Array, "batch height width channels"], size: int = 2
) -> Float[Array, "batch height/size width/size channels"]:
    """Takes the maximum of each `size` x `size` block; rows and columns left over are dropped.

    Where several pixels of a block share the maximum the first of them has its gradient.

    Written so as XLA is fast at it on a CPU: comparisons, which keep the place of each maximum, in
    a byte, for a gradient that goes back in one pass. A training step of a small network takes
    less than half the time it takes with `reduce_window`'s select-and-scatter.
    """
    batch, height, width, channels = x.shape
    rows, columns = height // size, width // size
    x = x[:, : rows * size, : columns * size].reshape(batch, rows, size, columns, size, channels)
    return _max_of_blocks(x, size)


def _places(size: int) -> UInt[np.ndarray, "size size"]:
    """Returns what each pixel of a block is called, in a byte where that does."""
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
    # Or XLA finds them anew where the gradient needs them, from the whole blocks.
    return jax.lax.optimization_barrier(_find_maxima(x, size))


def _give_back(size: int, places: Places, gradient: Maxima) -> tuple[Blocks]:
    places, gradient = (x[:, :, None, :, None] for x in (places, gradient))
    return (jnp.where(places == _places(size)[:, None, :, None], gradient, 0),)


_max_of_blocks.defvjp(_keep_places, _give_back)
