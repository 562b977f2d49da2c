"""`jax.nn.initializers`, to the same values, for networks of a hundred kernels.

XLA on a CPU takes over a second to compile the draw of a kernel of four axes, and a twentieth of
that for as many numbers along one axis, which are the same numbers (jax 0.12).
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def variance_scaling(scale: float, mode: str) -> Callable[..., Array]:
    """As `jax.nn.initializers.variance_scaling` with a truncated normal distribution.

    Args:
      scale: of the variance, which is `scale` / fan.
      mode: "fan_in" or "fan_out".
    """

    def initialize(key: Array, shape: Sequence[int], dtype=jnp.float32) -> Float[Array, "..."]:
        fan = dict(zip(("fan_in", "fan_out"), _fans(shape), strict=True))[mode]
        # What is cut off, beyond two standard deviations, leaves this much of one.
        deviation = np.sqrt(np.float32(scale / fan)) / np.float32(0.87962566103423978)
        return truncated_normal(deviation)(key, shape, dtype)

    return initialize


def glorot_uniform() -> Callable[..., Array]:
    """As `jax.nn.initializers.glorot_uniform`: within sqrt(6 / (fan-in + fan-out)) of zero."""

    def initialize(key: Array, shape: Sequence[int], dtype=jnp.float32) -> Float[Array, "..."]:
        limit = np.sqrt(3 * np.float32(2 / sum(_fans(shape))))
        return (jax.random.uniform(key, (math.prod(shape),), dtype, -1) * limit).reshape(shape)

    return initialize


def truncated_normal(deviation: float) -> Callable[..., Array]:
    """As `jax.nn.initializers.truncated_normal`: cut off beyond two deviations."""

    def initialize(key: Array, shape: Sequence[int], dtype=jnp.float32) -> Float[Array, "..."]:
        drawn = jax.random.truncated_normal(key, -2, 2, (math.prod(shape),), dtype)
        return (deviation * drawn).reshape(shape)

    return initialize


def _fans(shape: Sequence[int]) -> tuple[int, int]:
    """Returns fan-in and fan-out of a kernel, whose last axes are its inputs and outputs."""
    *window, inputs, outputs = shape
    return math.prod(window) * inputs, math.prod(window) * outputs
