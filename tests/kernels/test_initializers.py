"""Our initialisers against JAX's, which give the same values."""

import jax
import numpy as np
import pytest

from fer_jax.kernels.initializers import glorot_uniform, truncated_normal, variance_scaling

JAX = jax.nn.initializers


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (glorot_uniform(), JAX.glorot_uniform()),
        (truncated_normal(0.02), JAX.truncated_normal(0.02)),
        *(
            (variance_scaling(2.0, mode), JAX.variance_scaling(2.0, mode, "truncated_normal"))
            for mode in ("fan_in", "fan_out")
        ),
    ],
)
def test_values_equal_jax(ours, theirs):
    key, shape = jax.random.key(1), (3, 2, 4, 5)
    np.testing.assert_array_equal(ours(key, shape), theirs(key, shape))
