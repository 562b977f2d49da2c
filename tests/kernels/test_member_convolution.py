"""Merged convolutions of ensemble members against those of `jax.vmap`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from fer_jax.kernels.member_convolution import FULL, MOST, conv_general_dilated

HOW = {
    "lhs_dilation": (1, 1),
    "rhs_dilation": (1, 1),
    "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
}


def value_and_gradients(convolve, strides, padding, groups):
    def loss(images, kernel):
        return jnp.sin(
            convolve(images, kernel, strides, padding, feature_group_count=groups, **HOW)
        ).sum()

    return jax.vmap(jax.value_and_grad(loss, argnums=(0, 1)))


@pytest.mark.parametrize(
    ("members", "channels", "strides", "padding", "groups"),
    [
        (8, 3, (1, 1), "SAME", 1),
        (8, MOST // 6, (2, 2), ((1, 1), (1, 1)), 1),
        (3, FULL, (1, 1), "VALID", 1),
        (4, 6, (1, 1), "SAME", 6),
        (7, MOST // 6, (1, 1), "SAME", 1),
    ],
    ids=["all together", "in groups", "one by one", "depthwise", "prime number of members"],
)
def test_merged_members_equal_vmap(members, channels, strides, padding, groups):
    images = jax.random.normal(jax.random.key(0), (members, 2, 7, 6, channels))
    kernels = jax.random.normal(jax.random.key(1), (members, 3, 3, channels // groups, 6))
    kernels /= (9 * channels // groups) ** 0.5  # The sine of a large number would be inaccurate.
    ours, expected = (
        value_and_gradients(convolve, strides, padding, groups)(images, kernels)
        for convolve in (conv_general_dilated, lax.conv_general_dilated)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), ours, expected
    )


def test_no_weight_gradient_is_a_grouped_convolution():
    """`jax.vmap` makes one, with kernels as large as the images, at which cuDNN is slow."""
    shapes = [
        jax.ShapeDtypeStruct((8, 2, 12, 12, 3), "float32"),
        jax.ShapeDtypeStruct((8, 3, 3, 3, 4), "float32"),
    ]
    ours, by_vmap = (
        jax.jit(value_and_gradients(convolve, (1, 1), "SAME", 1)).lower(*shapes).as_text()
        for convolve in (conv_general_dilated, lax.conv_general_dilated)
    )
    assert "group_count = 8" in by_vmap
    assert "stablehlo.convolution" in ours
    assert "group_count = 8" not in ours
