"""Our max-pooling against XLA's `reduce_window`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.kernels.max_pool import max_pool


@pytest.mark.parametrize("size", [1, 2, 3, 17])
def test_max_pool_and_its_gradient_equal_reduce_window(size):
    x = jnp.asarray(np.random.default_rng(0).random((2, 19, 35, 3), np.float32))
    window = (1, size, size, 1)

    def reference(x):
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")

    np.testing.assert_array_equal(max_pool(x, size), reference(x))
    weights = jnp.arange(1.0, reference(x).size + 1).reshape(reference(x).shape)
    ours, theirs = (
        jax.grad(lambda x, pool=pool: (weights * pool(x)).sum())(x)
        for pool in (lambda x: max_pool(x, size), reference)
    )
    np.testing.assert_array_equal(ours, theirs)


def test_the_gradient_of_max_pool_goes_to_the_first_of_equal_pixels():
    x = jnp.tile(jnp.asarray([[0.0, 1.0], [1.0, 1.0]]), (2, 3))[None, :, :, None]
    gradient = jax.grad(lambda x: (jnp.arange(1.0, 7.0) * max_pool(x, 2).ravel()).sum())(x)
    expected = [[0, 1, 0, 2, 0, 3], [0] * 6, [0, 4, 0, 5, 0, 6], [0] * 6]
    np.testing.assert_array_equal(gradient[0, :, :, 0], expected)
