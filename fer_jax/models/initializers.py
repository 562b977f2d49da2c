"""`jax.nn.initializers`, to the same values, for networks of a hundred kernels.

XLA on a CPU takes over a second to compile the draw of a kernel of four axes, and a twentieth of
that for as many numbers along one axis, which are the same numbers (jax 0.12).
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def variance_scaling(scale: float, mode: str) -> Callable[..., Array]:
    """As `jax.nn.initializers.variance_scaling` with a truncated normal distribution.

    Args:
      scale: of the variance, which is `scale` / fan.
      mode: "fan_in" or "fan_out".
    """

    def initialize(key: Array, shape: Sequence[int], dtype=jnp.float32) -> Float[Array, "..."]:
        inputs, outputs = shape[-2:]
        fan = math.prod(shape[:-2]) * {"fan_in": inputs, "fan_out": outputs}[mode]
        # What is cut off, beyond two standard deviations, leaves this much of one.
        return truncated_normal(math.sqrt(scale / fan) / 0.87962566103423978)(key, shape, dtype)

    return initialize


def truncated_normal(deviation: float) -> Callable[..., Array]:
    """As `jax.nn.initializers.truncated_normal`: cut off beyond two deviations."""

    def initialize(key: Array, shape: Sequence[int], dtype=jnp.float32) -> Float[Array, "..."]:
        drawn = jax.random.truncated_normal(key, -2, 2, (math.prod(shape),), dtype)
        return (deviation * drawn).reshape(shape)

    return initialize
