"""Batch normalisation with a fast gradient."""

import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

Images = Float[Array, "batch *pixels features"]
Row = Float[Array, " features"]


class BatchNorm(nnx.Module):
    """Batch normalisation over all axes but the last, with statistics in float32.

    Ioffe and Szegedy, "Batch Normalization", ICML 2015. It computes the same as `nnx.BatchNorm`.
    The gradient is written out as in the paper. It takes two passes over the batch: one for two
    sums, one for the result.

    Args:
      features: length of the last axis.
      momentum: momentum of the running mean and variance, which inference uses.
      epsilon: number added to the variance.
      dtype: type of the result; parameters and statistics are float32.
    """

    def __init__(self, features: int, *, momentum: float, epsilon: float, dtype: jnp.dtype):
        self.scale = nnx.Param(jnp.ones(features))
        self.bias = nnx.Param(jnp.zeros(features))
        self.mean = nnx.BatchStat(jnp.zeros(features))
        self.var = nnx.BatchStat(jnp.ones(features))
        self.momentum, self.epsilon, self.dtype = momentum, epsilon, dtype
        self.use_running_average = False  # `eval` and `train` of a module set it.

    def __call__(self, x: Images) -> Images:
        """Normalises by the batch's statistics in training, by the running ones in inference.

        Training also updates the running statistics.
        """
        x, scale, bias = x.astype(self.dtype), self.scale[...], self.bias[...]
        if self.use_running_average:
            return _normalize(x, self.mean[...], self.var[...], scale, bias, self.epsilon)
        y, mean, var = _normalize_by_batch(x, scale, bias, self.epsilon)
        self.mean[...] = self.momentum * self.mean[...] + (1 - self.momentum) * mean
        self.var[...] = self.momentum * self.var[...] + (1 - self.momentum) * var
        return y


def _normalize(x: Images, mean: Row, var: Row, scale: Row, bias: Row, epsilon: float) -> Images:
    """Normalises in float32; the result has the type of `x`."""
    multiplier = scale * lax.rsqrt(var + epsilon)
    return ((x - mean) * multiplier + bias).astype(x.dtype)


def _sums(*arrays: Images) -> list[Row]:
    """Sums each array over all axes but the last.

    It sums over each image first, then over the batch. XLA would compute a single sum over few
    large rows on only some of a GPU's processors.
    """
    if arrays[0].ndim > 2:
        arrays = lax.optimization_barrier(
            tuple(x.sum(axis=tuple(range(1, x.ndim - 1))) for x in arrays)
        )
    return [x.sum(axis=0) for x in arrays]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _normalize_by_batch(
    x: Images, scale: Row, bias: Row, epsilon: float
) -> tuple[Images, Row, Row]:
    """Returns the normalised batch, its mean and its variance; only the batch has a gradient."""
    return _forward(x, scale, bias, epsilon)[0]


def _forward(x, scale, bias, epsilon):
    count = math.prod(x.shape[:-1])
    x32 = x.astype(jnp.float32)
    mean, square = (total / count for total in _sums(x32, x32 * x32))
    # Rounding can make the difference negative.
    var = jnp.maximum(square - mean * mean, 0)
    return (_normalize(x, mean, var, scale, bias, epsilon), mean, var), (x, mean, var, scale)


def _backward(epsilon, saved, gradients):
    x, mean, var, scale = saved
    gradient = gradients[0].astype(jnp.float32)
    count = math.prod(x.shape[:-1])
    deviation = lax.rsqrt(var + epsilon)
    standardized = (x - mean) * deviation
    bias_gradient, scale_gradient = _sums(gradient, gradient * standardized)
    lost = (bias_gradient + standardized * scale_gradient) / count
    x_gradient = (gradient - lost) * (scale * deviation)
    return x_gradient.astype(x.dtype), scale_gradient, bias_gradient


_normalize_by_batch.defvjp(_forward, _backward)
