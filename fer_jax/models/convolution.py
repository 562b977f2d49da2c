"""The convolution that `nnx.Conv` is given, whose weight gradient is fast on a CPU too."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Pads = tuple[tuple[int, int], ...]

_LEAST_CHANNELS = 128  # With fewer the products below are too narrow to gain.


def conv_general_dilated(
    lhs: Float[Array, "batch height width inputs"],
    rhs: Float[Array, "rows columns inputs features"],
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **how: Any,
) -> Float[Array, "batch height/stride width/stride features"]:
    """Computes `lax.conv_general_dilated`, and on a CPU its weight gradient in another way.

    XLA takes it as a convolution by kernels the size of the image. Where a layer widens 128
    channels or more, one matrix product for each pixel of the kernel is faster as a rule: on one
    core (AMD EPYC, jax 0.12.0.1, least of repeated runs) from 128 channels to 256 at 24x24 pixels
    without padding 144 ms instead of 661. Whole steps of 32 images, in turn in one process whose
    glibc was told to keep freed memory, took of `large_cnn` 1,696 ms instead of 2,462, of
    `medium_cnn` 846 instead of 861, of ResNet-18 3,785 instead of 3,945, but of `three_emotions`
    354 instead of 338.
    """
    widens = rhs.shape[-1] > rhs.shape[-2] >= _LEAST_CHANNELS and rhs.shape[-2] == lhs.shape[-1]
    plain = rhs.ndim == 4 and {*how["lhs_dilation"], *how["rhs_dilation"]} == {1}
    if jax.default_backend() != "cpu" or not (widens and plain):
        return lax.conv_general_dilated(lhs, rhs, window_strides, padding, **how)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], window_strides, padding)
    return _convolve(lhs, rhs, tuple(window_strides), tuple(map(tuple, padding)))


def _plain(x: Array, kernel: Array, strides: tuple[int, int], pads: Pads) -> Array:
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=layout)


_convolve = jax.custom_vjp(_plain, nondiff_argnums=(2, 3))


def _forward(
    x: Array, kernel: Array, strides: tuple[int, int], pads: Pads
) -> tuple[Array, tuple[Array, Array]]:
    return _plain(x, kernel, strides, pads), (x, kernel)


def _backward(
    strides: tuple[int, int], pads: Pads, saved: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    x, kernel = saved
    of_x = functools.partial(_plain, kernel=kernel, strides=strides, pads=pads)
    (x_gradient,) = jax.linear_transpose(of_x, x)(gradient)
    padded = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    _, height, width, _ = gradient.shape
    down, right = strides
    products = [
        # The input pixels that this pixel of the kernel meets, times what came of them.
        jnp.tensordot(
            padded[:, i : i + down * height : down, j : j + right * width : right],
            gradient,
            ((0, 1, 2), (0, 1, 2)),
        )
        for i in range(kernel.shape[0])
        for j in range(kernel.shape[1])
    ]
    return x_gradient, jnp.stack(products).reshape(kernel.shape)


_convolve.defvjp(_forward, _backward)
