"""The convolution that `nnx.Conv` is given, whose weight gradient is fast on a CPU too."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Pads = tuple[tuple[int, int], ...]

BAND = 6
"""Rows of a gradient that are taken together in the weight gradient on a CPU."""


def conv_general_dilated(
    lhs: Float[Array, "batch height width inputs"],
    rhs: Float[Array, "rows columns inputs features"],
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **how: Any,
) -> Float[Array, "batch height/stride width/stride features"]:
    """Computes `lax.conv_general_dilated`, and on a CPU its weight gradient band by band.

    XLA takes the weight gradient as a convolution of the input by the gradient, which it reads
    anew for each input channel. Taken of `BAND` rows at a time and added up, what it reads stays in
    the cache: `benchmarks/convolution.md` has the figures.
    """
    plain = rhs.ndim == 4 and {*how["lhs_dilation"], *how["rhs_dilation"]} == {1}
    if jax.default_backend() != "cpu" or not plain or rhs.shape[-2] != lhs.shape[-1]:
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
    kernel_gradient = jnp.zeros_like(kernel)
    for start in range(0, gradient.shape[1], BAND):
        rows = gradient[:, start : start + BAND]
        # The input's rows that these came of, of which some may be padding.
        first = start * strides[0] - pads[0][0]
        last = first + (rows.shape[1] - 1) * strides[0] + kernel.shape[0]
        above, below = max(-first, 0), max(last - x.shape[1], 0)
        of_kernel = functools.partial(
            _plain,
            x[:, first + above : last - below],
            strides=strides,
            pads=((above, below), pads[1]),
        )
        kernel_gradient += jax.linear_transpose(of_kernel, kernel)(rows)[0]
    return x_gradient, kernel_gradient


_convolve.defvjp(_forward, _backward)
