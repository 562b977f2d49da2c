"""Convolution by fewer multiplications than its definition has: Winograd's, for float32 on a CPU.

S. Winograd, Arithmetic complexity of computations, SIAM 1980; for networks A. Lavin and S. Gray,
Fast algorithms for convolutional neural networks, CVPR 2016.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

WINDOW = 3
"""Rows and columns of a kernel."""

CHANNELS = 64
"""From which on multiplications outweigh what is done to each channel by itself."""

TILES = 128
"""Tiles taken at once, at least: enough for a fast product, few enough to stay in the cache."""

POINTS = (0.0, 1.0, -1.0, 0.5, -2.0)
"""Where polynomials are evaluated, besides at infinity; the smaller the tile, the fewer.

Of those that round least: B. Barabasz and others, Error analysis and improving the accuracy of
Winograd convolution for deep neural networks, ACM TOMS 46, 2020.
"""

Images = Float[Array, "batch height width channels"]
Kernel = Float[Array, "3 3 channels features"]
Pads = Sequence[tuple[int, int]]
Matrix = tuple[tuple[float, ...], ...]


def is_faster(x: Images, kernel: Kernel, strides: Sequence[int], pads: Pads) -> bool:
    """Returns whether `convolve` can do this convolution, and faster than a convolution does."""
    return (
        x.dtype == jnp.float32
        and kernel.shape[:2] == (WINDOW, WINDOW)
        and tuple(strides) == (1, 1)
        and min(kernel.shape[2:]) >= CHANNELS
        and len(x) // _devices(x) * math.prod(_tiling(x, pads)[1]) >= TILES
    )


def convolve(x: Images, kernel: Kernel, pads: Pads) -> Float[Array, "batch rows columns features"]:
    """Convolves without strides: transforms tiles and kernel, multiplies these, transforms back.

    For 4 x 4 pixels of the output it multiplies 36 times for each pair of channels, in place of
    144, and so do its gradients, which JAX derives. The error is below 1e-5 of the largest result.
    """
    # A kernel for each device: their gradients are added up once they are back at its size.
    devices = _devices(x)
    kernels = jnp.broadcast_to(kernel, (devices, *kernel.shape))
    on_a_device = jax.vmap(functools.partial(_convolve, pads))
    y = on_a_device(x.reshape(devices, -1, *x.shape[1:]), kernels)
    return _keep(y.reshape(-1, *y.shape[2:]))


def _devices(x: Images) -> int:
    """Returns how many devices the images are split over.

    A power of two, as in the mesh for batches that divide over it together with those of 512 for
    evaluation. Were it another, the devices would exchange images, which is slow.
    """
    return math.gcd(len(x), 1 << (jax.device_count().bit_length() - 1))


def _output_size(x: Images, pads: Pads) -> list[int]:
    return [size + sum(pad) - WINDOW + 1 for size, pad in zip(x.shape[1:3], pads, strict=True)]


def _tiling(x: Images, pads: Pads) -> tuple[int, list[int]]:
    """Returns rows of a square tile of the output, and how many tiles lie along its two axes."""

    def count(tile: int) -> list[int]:
        return [-(-size // tile) for size in _output_size(x, pads)]

    # A smaller one would reach beyond the next, and a larger one needs more points.
    choices = range(WINDOW - 1, len(POINTS) + 3 - WINDOW)
    tile = min(choices, key=lambda tile: math.prod(count(tile)) * (tile + WINDOW - 1) ** 2)
    return tile, count(tile)


@functools.cache
def _transforms(tile: int) -> tuple[Matrix, Matrix, Matrix]:
    """Returns what takes products to the output, a kernel to its factors, and an input to its own.

    Along one axis. What a kernel makes of a tile is the transpose of a product of two polynomials,
    which is the product of their values at as many points as it has coefficients.
    """
    points = tile + WINDOW - 1

    def evaluate(coefficients: int) -> np.ndarray:
        finite = np.vander(POINTS[: points - 1], coefficients, increasing=True)
        return np.vstack([finite, np.eye(coefficients)[-1]])

    inverse = np.linalg.inv(evaluate(points)).T.round(12)
    # The least factor of a row becomes 1: whole numbers and halves remain.
    scale = [[1 / np.abs(row[row != 0]).min()] for row in inverse]
    to_output, to_kernel, to_input = (
        tuple(map(tuple, matrix.tolist()))
        for matrix in (evaluate(tile).T, evaluate(WINDOW) / scale, (inverse * scale).round(12))
    )
    return to_output, to_kernel, to_input


def _convolve(pads: Pads, x: Images, kernel: Kernel) -> Images:
    """Convolves on one device, so many images at a time that what is made of them stays near."""
    tile, tiles = _tiling(x, pads)
    rows, columns = _output_size(x, pads)
    to_output, to_kernel, to_input = _transforms(tile)
    points, channels, features = len(to_input), *kernel.shape[2:]
    kernel = _keep(_multiply(to_kernel, kernel, 0, 0))
    kernel = _keep(_multiply(to_kernel, kernel, 1, 1)).reshape(points**2, channels, features)
    padding = [
        (before, (count + 1) * tile - before - size)
        for size, count, (before, _) in zip(x.shape[1:3], tiles, pads, strict=True)
    ]

    def of_some(x: Images) -> Images:
        images = len(x)
        x = _keep(jnp.pad(x, ((0, 0), *padding, (0, 0))))
        x = _transform_tiles(to_input, _transform_tiles(to_input, x, 1, 0), 3, 1)
        y = _keep(jnp.matmul(x.reshape(points**2, -1, channels), kernel))
        y = y.reshape(points, points, images, *tiles, features)
        y = _keep(_multiply(to_output, _keep(_multiply(to_output, y, 0, 3)), 0, 4))
        y = y.reshape(images, tiles[0] * tile, tiles[1] * tile, features)
        return y[:, :rows, :columns]

    enough = (n for n in range(1, len(x)) if len(x) % n == 0 and n * math.prod(tiles) >= TILES)
    if not (images := next(enough, None)):
        return of_some(x)
    # Its gradients transform the tiles anew, which takes less time than to read them from memory.
    y = jax.lax.map(jax.checkpoint(of_some), x.reshape(-1, images, *x.shape[1:]))
    return y.reshape(-1, *y.shape[2:])


def _transform_tiles(to_input: Matrix, x: Array, axis: int, to: int) -> Array:
    """Multiplies all tiles along an axis, each of which reaches into the next one's first rows."""
    tile = len(to_input) - WINDOW + 1
    blocks = x.reshape(*x.shape[:axis], -1, tile, *x.shape[axis + 1 :])
    own = jax.lax.slice_in_dim(blocks, 0, -1, axis=axis)
    beyond = jax.lax.slice_in_dim(blocks, 1, None, axis=axis)
    beyond = jax.lax.slice_in_dim(beyond, 0, WINDOW - 1, axis=axis + 1)
    of_own = tuple(row[:tile] for row in to_input)
    of_beyond = tuple(row[tile:] for row in to_input)
    return _keep(_multiply(of_own, own, axis + 1, to) + _multiply(of_beyond, beyond, axis + 1, to))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 2, 3))
def _multiply(matrix: Matrix, x: Array, axis: int, to: int) -> Array:
    """Multiplies by a matrix along an axis, which becomes axis `to` of the result.

    As a sum over columns, for XLA has no fast product by so small a matrix. So is its gradient,
    where JAX's own would be sums over an axis.
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

# What is not kept XLA computes inside of what needs it, as often as that does.
_keep = jax.lax.optimization_barrier
