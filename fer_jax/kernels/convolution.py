"""The convolution of every network, in forms that a CPU is fast at."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from fer_jax.devices import compiler_options
from fer_jax.kernels import member_convolution, winograd
from fer_jax.kernels.context import batch_shards, in_use

Pads = tuple[tuple[int, int], ...]

GROUP = 16
"""Images in a block of a weight gradient on a CPU, few enough to stay in the cache."""


def conv_general_dilated(
    lhs: Float[Array, "batch height width channels"],
    rhs: Float[Array, "rows columns channels/groups features"],
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **how: Any,
) -> Float[Array, "batch height/stride width/stride features"]:
    """Computes `lax.conv_general_dilated` and its gradients in forms that a CPU is fast at.

    * Winograd's algorithm where it saves multiplications, see `winograd.convolve`.
    * Otherwise oneDNN's convolution, with weight gradients in a form that oneDNN is fast at. XLA's
      form convolves the input by the output's gradient. Its result has as many columns as the
      kernel, too few to fill oneDNN's registers. Our form lays the input's channels side by side
      along the width. Its result has columns times channels columns, and it is as fast as the
      forward convolution.
    * For depthwise convolutions, gradients in forms that oneDNN supports, see
      `_depthwise_backward`. XLA computes its own forms without oneDNN.

    `convolution.md` and `depthwise.md` in `benchmarks/speed/` have the figures. On a GPU or TPU
    this is XLA's convolution, except under `jax.vmap`, see `member_convolution`.
    """
    if jax.default_backend() != "cpu":
        return member_convolution.conv_general_dilated(lhs, rhs, window_strides, padding, **how)
    dense, depthwise = rhs.shape[-2] == lhs.shape[-1], rhs.shape[-2:] == (1, lhs.shape[-1])
    undilated = rhs.ndim == 4 and {*how["lhs_dilation"], *how["rhs_dilation"]} == {1}
    if not compiler_options() or not undilated or not (dense or depthwise):
        return lax.conv_general_dilated(lhs, rhs, window_strides, padding, **how)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], window_strides, padding)
    down, right = window_strides
    strides = (down, right)
    pads = tuple((before, after) for before, after in padding)
    if dense and in_use("winograd") and winograd.is_faster(lhs, rhs, strides, pads):
        return winograd.convolve(lhs, rhs, pads)
    if not in_use("gradients"):
        return _plain(lhs, rhs, strides, pads)
    if dense:
        return _convolve(lhs, rhs, strides, pads)
    # oneDNN has no fast depthwise convolution in bfloat16.
    lhs32, rhs32 = lhs.astype(jnp.float32), rhs.astype(jnp.float32)
    return _convolve_depthwise(lhs32, rhs32, strides, pads).astype(lhs.dtype)


def _plain(x: Array, kernel: Array, strides: tuple[int, int], pads: Pads) -> Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        pads,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1] // kernel.shape[-2],
    )


def _forward(
    x: Array, kernel: Array, strides: tuple[int, int], pads: Pads
) -> tuple[Array, tuple[Array, Array]]:
    return _plain(x, kernel, strides, pads), (x, kernel)


def _add_up(x: Array, kernel: Array, strides: tuple[int, int], pads: Pads) -> Array:
    """Convolves depthwise as a weighted sum of shifted images, which is fast without oneDNN."""
    rows, columns = (
        (before + size + after - window) // stride + 1
        for size, window, stride, (before, after) in zip(
            x.shape[1:3], kernel.shape[:2], strides, pads, strict=True
        )
    )
    down, right = strides
    padded = lax.pad(x, 0.0, ((0, 0, 0), *((*pad, 0) for pad in pads), (0, 0, 0)))
    shifted = (
        padded[:, i : i + rows * down : down, j : j + columns * right : right][:, :rows, :columns]
        * kernel[i, j, 0]
        for i in range(kernel.shape[0])
        for j in range(kernel.shape[1])
    )
    return functools.reduce(jnp.add, shifted)


def _behind(
    x: Array, kernel: Array, gradient: Array, strides: tuple[int, int], pads: Pads
) -> list[int]:
    """Returns the padding behind rows and columns, up to the end of the last window.

    It is negative where the image extends beyond that window.
    """
    return [
        (outputs - 1) * stride + window - size - before
        for outputs, stride, window, size, (before, _) in zip(
            gradient.shape[1:3], strides, kernel.shape[:2], x.shape[1:3], pads, strict=True
        )
    ]


def _backward(
    strides: tuple[int, int], pads: Pads, saved: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    x, kernel = saved
    of_x = functools.partial(_plain, kernel=kernel, strides=strides, pads=pads)
    (x_gradient,) = jax.linear_transpose(of_x, x)(gradient)

    images, _, _, channels = x.shape
    behind = _behind(x, kernel, gradient, strides, pads)
    height, width = (size + min(pad, 0) for size, pad in zip(x.shape[1:3], behind, strict=True))
    # Each group takes its share of every device's images, so that no image moves between devices.
    groups = images // (GROUP * batch_shards())
    groups = groups if groups and images % groups == 0 else 1
    # The barrier keeps XLA from fusing the transposes below with their producers, which is slower.
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


def _depthwise_backward(
    strides: tuple[int, int], pads: Pads, saved: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    x, kernel = saved
    behind = _behind(x, kernel, gradient, strides, pads)
    # Zeros in place of strides, since oneDNN has no fast dilated convolution.
    between = [(0, 0, stride - 1) for stride in strides]
    gradient = lax.pad(gradient, 0.0, ((0, 0, 0), *between, (0, 0, 0)))
    # With the barrier XLA reverses the kernel once, outside the convolution.
    x, turned, gradient = lax.optimization_barrier((x, kernel[::-1, ::-1], gradient))
    x_pads = tuple(
        (window - 1 - before, window - 1 - after)
        for window, (before, _), after in zip(kernel.shape[:2], pads, behind, strict=True)
    )
    # The images become the depth of one volume, so that the convolution sums over them.
    kernel_gradient = lax.conv_general_dilated(
        x[None],
        gradient[:, :, :, None],
        (1, 1, 1),
        ((0, 0), (pads[0][0], behind[0]), (pads[1][0], behind[1])),
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
        feature_group_count=x.shape[-1],
    )
    return _plain(gradient, turned, (1, 1), x_pads), kernel_gradient.reshape(kernel.shape)


_convolve = jax.custom_vjp(_plain, nondiff_argnums=(2, 3))
_convolve.defvjp(_forward, _backward)

# `_add_up` is for inference, without oneDNN. With gradients JAX traces `_forward` in its place.
_convolve_depthwise = jax.custom_vjp(_add_up, nondiff_argnums=(2, 3))
_convolve_depthwise.defvjp(_forward, _depthwise_backward)

Conv = functools.partial(nnx.Conv, conv_general_dilated=conv_general_dilated)
"""The convolution layer of every network."""
