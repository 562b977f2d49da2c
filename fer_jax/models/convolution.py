"""The convolution that `nnx.Conv` is given, and what makes it fast on a CPU."""

import functools
import os
import platform
from collections.abc import Sequence
from typing import Any

import jax
from jax import lax
from jaxtyping import Array, Float

Pads = tuple[tuple[int, int], ...]

GROUP = 16
"""Images a device takes at once in a weight gradient on a CPU: what it reads stays in the cache."""


def kernels() -> dict[str, str | bool]:
    """Returns the compiler's options for a training step, by which XLA computes it fastest.

    On x86-64 under Linux: oneDNN for convolutions, YNNPACK for products and sums, see
    `benchmarks/convolution.md`. `XLA_FLAGS` goes before where it names either. Elsewhere none.

    What is compiled by them cannot be kept in the compilation cache: not worth it for a program
    that starts often, or compiles longer than it computes, such as an evaluation.
    """
    products_and_sums = "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE"
    options: dict[str, str | bool] = {
        "xla_cpu_experimental_onednn_custom_call": True,
        "xla_cpu_experimental_ynn_fusion_type": products_and_sums,
    }
    given = os.environ.get("XLA_FLAGS", "")
    known = (platform.system(), platform.machine()) == ("Linux", "x86_64")
    if jax.default_backend() != "cpu" or not known or any(name in given for name in options):
        return {}
    return options


def conv_general_dilated(
    lhs: Float[Array, "batch height width inputs"],
    rhs: Float[Array, "rows columns inputs features"],
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **how: Any,
) -> Float[Array, "batch height/stride width/stride features"]:
    """Computes `lax.conv_general_dilated`; its weight gradient so as `kernels` are fast at it.

    XLA takes a weight gradient as a convolution of the input by the output's gradient. That has as
    many outputs in a row as the kernel has columns: too few to fill oneDNN's registers. With the
    input's channels side by side along the width it has columns times channels of them, and is as
    fast as the convolution itself: `benchmarks/convolution.md` has the figures.
    """
    plain = rhs.ndim == 4 and {*how["lhs_dilation"], *how["rhs_dilation"]} == {1}
    if not kernels() or not plain or rhs.shape[-2] != lhs.shape[-1]:
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

    images, _, _, channels = x.shape
    # Padding behind the input's rows and columns up to the last window's end; they may exceed it.
    behind = [
        (outputs - 1) * stride + window - size - before
        for outputs, stride, window, size, (before, _) in zip(
            gradient.shape[1:3], strides, kernel.shape[:2], x.shape[1:3], pads, strict=True
        )
    ]
    height, width = (size + min(pad, 0) for size, pad in zip(x.shape[1:3], behind, strict=True))
    # Of the images that a device has, every group has some, so that none moves to another device.
    groups = images // (GROUP * jax.device_count())
    groups = groups if groups and images % groups == 0 else 1
    # Transposed by themselves: in one with what computes them, as XLA has it, is far slower.
    x, gradient = lax.optimization_barrier((x[:, :height, :width], gradient))
    x = x.reshape(-1, groups, height, width * channels)
    gradient = gradient.reshape(-1, groups, *gradient.shape[1:])
    kernel_gradient = lax.conv_general_dilated(
        x.transpose(1, 2, 3, 0)[None],
        gradient.transpose(1, 2, 3, 0, 4),
        (1, 1, 1),
        (
            (0, 0),
            (pads[0][0], max(behind[0], 0)),
            (pads[1][0] * channels, max(behind[1], 0) * channels),
        ),
        rhs_dilation=(1, strides[0], strides[1] * channels),
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )
    return x_gradient, kernel_gradient.reshape(kernel.shape)


_convolve.defvjp(_forward, _backward)
