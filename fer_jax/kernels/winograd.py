"""Winograd's convolution for float32 on a CPU: a third to a quarter of the multiplications.

S. Winograd, Arithmetic complexity of computations, SIAM 1980. For neural networks: A. Lavin and
S. Gray, Fast algorithms for convolutional neural networks, CVPR 2016.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fer_jax.kernels.context import batch_shards

WINDOW = 3
"""Rows and columns of a kernel."""

CHANNELS = 64
"""Fewest channels at which the saved multiplications outweigh the transforms."""

TILES = 128
"""Fewest tiles in a block: enough for a fast matrix product, few enough to stay in the cache."""

POINTS = (0.0, 1.0, -1.0, 0.5, -2.0)
"""Points at which polynomials are evaluated, besides infinity; smaller tiles use fewer of them.

These have the smallest rounding errors: B. Barabasz et al., Error analysis and improving the
accuracy of Winograd convolution for deep neural networks, ACM TOMS 46, 2020.
"""

Images = Float[Array, "batch height width channels"]
Kernel = Float[Array, "3 3 channels features"]
Pads = Sequence[tuple[int, int]]
Matrix = tuple[tuple[float, ...], ...]


def is_faster(x: Images, kernel: Kernel, strides: Sequence[int], pads: Pads) -> bool:
    """Returns whether `convolve` supports this convolution and is faster than a plain one.

    It does not support a symbolic batch size, because it cuts the batch into blocks.
    """
    return (
        x.dtype == jnp.float32
        and kernel.shape[:2] == (WINDOW, WINDOW)
        and tuple(strides) == (1, 1)
        and min(kernel.shape[2:]) >= CHANNELS
        and isinstance(x.shape[0], int)
        and x.shape[0] // _shards(x) * math.prod(_tiling(x, pads)[1]) >= TILES
    )


def convolve(x: Images, kernel: Kernel, pads: Pads) -> Float[Array, "batch rows columns features"]:
    """Convolves without strides: transforms tiles and kernel, multiplies them, transforms back.

    For 4 x 4 pixels of the output and each pair of channels it takes 36 multiplications in place of
    144. Its gradients, which JAX derives, save as much. The error is below 1e-5 of the largest
    result.
    """
    # Each shard has its own copy of the kernel, so that its gradient is transformed back to the
    # kernel's small size before the devices add it up.
    shards = _shards(x)
    kernels = jnp.broadcast_to(kernel, (shards, *kernel.shape))
    # The backward pass transforms the kernel again, which takes little time. Kept from the forward
    # pass, the transformed kernels of ResNet-18 would take 140 MiB on each device.
    convolve_shard = jax.vmap(jax.checkpoint(functools.partial(_convolve_shard, pads)))
    y = convolve_shard(x.reshape(shards, -1, *x.shape[1:]), kernels)
    return _materialize(y.reshape(-1, *y.shape[2:]))


def _shards(x: Images) -> int:
    """Returns how many devices the images are split over; 1 if they do not divide."""
    shards = batch_shards()
    return 1 if x.shape[0] % shards else shards


def _output_size(x: Images, pads: Pads) -> list[int]:
    return [size + sum(pad) - WINDOW + 1 for size, pad in zip(x.shape[1:3], pads, strict=True)]


def _tiling(x: Images, pads: Pads) -> tuple[int, list[int]]:
    """Returns the rows of a square output tile, and the number of tiles along height and width."""

    def count(tile: int) -> list[int]:
        return [-(-size // tile) for size in _output_size(x, pads)]

    # A smaller tile would reach beyond its neighbour; a larger one needs more points.
    choices = range(WINDOW - 1, len(POINTS) + 3 - WINDOW)
    tile = min(choices, key=lambda tile: math.prod(count(tile)) * (tile + WINDOW - 1) ** 2)
    return tile, count(tile)


@functools.cache
def _transforms(tile: int) -> tuple[Matrix, Matrix, Matrix]:
    """Returns the matrices that transform to output, kernel and input along one axis.

    Convolving a tile is the transpose of multiplying two polynomials. Their product is determined
    by the products of their values at as many points as it has coefficients.
    """
    points = tile + WINDOW - 1

    def evaluate(coefficients: int) -> np.ndarray:
        finite = np.vander(POINTS[: points - 1], coefficients, increasing=True)
        return np.vstack([finite, np.eye(coefficients)[-1]])

    inverse = np.linalg.inv(evaluate(points)).T.round(12)
    # Each row's smallest factor becomes 1, which leaves whole numbers and halves.
    scale = [[1 / np.abs(row[row != 0]).min()] for row in inverse]
    to_output, to_kernel, to_input = (
        tuple(map(tuple, matrix.tolist()))
        for matrix in (evaluate(tile).T, evaluate(WINDOW) / scale, (inverse * scale).round(12))
    )
    return to_output, to_kernel, to_input


def _convolve_shard(pads: Pads, x: Images, kernel: Kernel) -> Images:
    """Convolves on one device, in blocks of images whose intermediate results fit the cache."""
    tile, tiles = _tiling(x, pads)
    rows, columns = _output_size(x, pads)
    to_output, to_kernel, to_input = _transforms(tile)
    points, channels, features = len(to_input), *kernel.shape[2:]
    kernel = _materialize(_multiply(to_kernel, kernel, 0, 0))
    kernel = _materialize(_multiply(to_kernel, kernel, 1, 1)).reshape(points**2, channels, features)
    padding = [
        (before, (count + 1) * tile - before - size)
        for size, count, (before, _) in zip(x.shape[1:3], tiles, pads, strict=True)
    ]

    def convolve_block(x: Images) -> Images:
        images = x.shape[0]
        x = _materialize(jnp.pad(x, ((0, 0), *padding, (0, 0))))
        x = _transform_tiles(to_input, _transform_tiles(to_input, x, 1, 0), 3, 1)
        y = _materialize(jnp.matmul(x.reshape(points**2, -1, channels), kernel))
        y = y.reshape(points, points, images, *tiles, features)
        y = _materialize(_multiply(to_output, _materialize(_multiply(to_output, y, 0, 3)), 0, 4))
        y = y.reshape(images, tiles[0] * tile, tiles[1] * tile, features)
        return y[:, :rows, :columns]

    total = x.shape[0]
    sizes = (n for n in range(1, total) if total % n == 0 and n * math.prod(tiles) >= TILES)
    if not (block := next(sizes, None)):
        return convolve_block(x)
    # The backward pass transforms the tiles again: that is faster than reading them from memory.
    y = jax.lax.map(jax.checkpoint(convolve_block), x.reshape(-1, block, *x.shape[1:]))
    return y.reshape(-1, *y.shape[2:])


def _transform_tiles(to_input: Matrix, x: Array, axis: int, to: int) -> Array:
    """Transforms all tiles along an axis; each tile overlaps the first rows of the next one."""
    tile = len(to_input) - WINDOW + 1
    blocks = x.reshape(*x.shape[:axis], -1, tile, *x.shape[axis + 1 :])
    own = jax.lax.slice_in_dim(blocks, 0, -1, axis=axis)
    beyond = jax.lax.slice_in_dim(blocks, 1, None, axis=axis)
    beyond = jax.lax.slice_in_dim(beyond, 0, WINDOW - 1, axis=axis + 1)
    to_own = tuple(row[:tile] for row in to_input)
    to_beyond = tuple(row[tile:] for row in to_input)
    return _materialize(
        _multiply(to_own, own, axis + 1, to) + _multiply(to_beyond, beyond, axis + 1, to)
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 2, 3))
def _multiply(matrix: Matrix, x: Array, axis: int, to: int) -> Array:
    """Multiplies by a matrix along an axis, which becomes axis `to` of the result.

    It is a sum over the matrix's columns, because XLA's product by so small a matrix is slow. Its
    gradient is the same sum with the transposed matrix; JAX's own would reduce over an axis.
    """
    terms = [
        np.array(column, np.float32).reshape(-1, *[1] * (x.ndim - 1 - to))
        * jnp.expand_dims(jax.lax.index_in_dim(x, k, axis, keepdims=False), to)
        for k, column in enumerate(zip(*matrix, strict=True))
    ]
    return jnp.asarray(sum(terms[1:], terms[0]))


def _multiply_forward(matrix: Matrix, x: Array, axis: int, to: int) -> tuple[Array, None]:
    return _multiply(matrix, x, axis, to), None


def _multiply_backward(
    matrix: Matrix, axis: int, to: int, _: None, gradient: Array
) -> tuple[Array]:
    return (_multiply(tuple(zip(*matrix, strict=True)), gradient, to, axis),)


_multiply.defvjp(_multiply_forward, _multiply_backward)

# Without this barrier XLA fuses the producer into every consumer and recomputes it.
_materialize = jax.lax.optimization_barrier
