"""Our batch normalisation against Flax's, with the gradient that JAX derives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fer_jax.kernels.batch_norm import BatchNorm

FEATURES = 6


def both(dtype):
    ours = BatchNorm(FEATURES, momentum=0.9, epsilon=1e-3, dtype=dtype)
    flax = nnx.BatchNorm(FEATURES, momentum=0.9, epsilon=1e-3, dtype=dtype, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(1)
    for name in ("scale", "bias", "mean", "var"):
        values = rng.uniform(0.5, 2, FEATURES).astype(np.float32)
        for layer in (ours, flax):
            getattr(layer, name)[...] = jnp.asarray(values)
    return ours, flax


def batch(shape, dtype="float32"):
    """A batch whose features differ in mean and spread."""
    values = np.random.default_rng(0).normal(size=(*shape, FEATURES)) * np.arange(1, 7) + 3
    return jnp.asarray(values, dtype)


def trained(layer, x):
    """Returns the output, the gradients of a loss by parameters and input, and the state."""
    graph, params, statistics = nnx.split(layer, nnx.Param, ...)
    weights = jnp.cos(jnp.arange(x.size)).reshape(x.shape)

    def loss(params, x):
        model = nnx.merge(graph, params, statistics, copy=True)
        model.train()
        y = model(x)
        return (weights * jnp.tanh(y.astype(jnp.float32))).sum(), (y, nnx.state(model))

    gradients, (y, state) = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, x)
    return y, gradients, state


@pytest.mark.parametrize("shape", [(16,), (4, 5, 3)], ids=["rows", "images"])
def test_outputs_gradients_and_statistics_equal_flax(shape):
    (y, by_ours, state), (expected, by_flax, flax_state) = (
        trained(layer, batch(shape)) for layer in both("float32")
    )
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    for ours, theirs in ((by_ours, by_flax), (state, flax_state)):
        # A scale's gradient is a sum in which large terms cancel.
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, theirs
        )


def test_inference_uses_the_running_statistics():
    ours, flax = both("float32")
    for layer in (ours, flax):
        layer.eval()
    x = batch((4, 5, 3))
    np.testing.assert_allclose(ours(x), flax(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_bfloat16_is_rounded_once_at_the_end(mode):
    x = batch((8, 4, 4), "bfloat16")
    results = []
    for dtype in ("bfloat16", "float32"):
        layer, _ = both(dtype)
        getattr(layer, mode)()
        results.append(layer(x))
    assert results[0].dtype == jnp.bfloat16
    np.testing.assert_array_equal(results[0], results[1].astype(jnp.bfloat16))


def test_a_constant_feature_has_a_finite_gradient():
    """Rounding can make its variance negative."""
    ours, _ = both("float32")
    y, gradients, state = trained(ours, jnp.full((7, 3, 3, FEATURES), 1e3 + 0.1))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((y, gradients, state)))
