"""The convolution against `lax`'s own: output, both gradients, ensembles, several devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fer_jax.models.convolution import BAND, conv_general_dilated

CHANNELS = 5


def pair(kernel=(3, 3), **how):
    """Ours and the plain one, with the same parameters."""
    ours, plain = (
        nnx.Conv(CHANNELS, 7, kernel, rngs=nnx.Rngs(0), **how, **function)
        for function in ({"conv_general_dilated": conv_general_dilated}, {})
    )
    return ours, plain


def pull_back(layer, params, x):
    """Returns the output, and the gradients of a generic function of it."""
    graph = nnx.graphdef(layer)
    y, back = jax.vjp(lambda params, x: nnx.merge(graph, params)(x), params, x)
    return y, back(jnp.cos(jnp.arange(y.size)).reshape(y.shape).astype(y.dtype))


def assert_close(ours, plain):
    """Within 1e-5 of each tensor's largest entry."""
    for mine, theirs in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


@pytest.fixture
def x():
    shape = (2, 2 * BAND + 3, 6, CHANNELS)  # Three bands.
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape, np.float32))


@pytest.mark.parametrize(
    ("kernel", "how"),
    [
        ((3, 3), {"padding": "SAME"}),
        ((3, 3), {"padding": "VALID"}),
        ((5, 2), {"padding": "SAME", "use_bias": False}),
        ((3, 3), {"padding": 1, "strides": 2}),
        ((3, 3), {"padding": "SAME", "strides": (3, 2)}),
        ((3, 3), {"padding": ((2, 0), (1, 3))}),
        ((1, 1), {"padding": 0, "strides": 2}),
        ((3, 3), {"padding": "CIRCULAR"}),
        ((3, 3), {"kernel_dilation": 2}),
        ((2, 2), {"padding": 1, "input_dilation": 2}),
    ],
)
def test_output_and_gradients_equal_the_plain_convolutions(x, kernel, how):
    ours, plain = pair(kernel, **how)
    params = nnx.state(plain)
    assert_close(pull_back(ours, params, x), pull_back(plain, params, x))


def test_groups_equal_the_plain_convolutions(x):
    ours, plain = (
        nnx.Conv(CHANNELS, 10, 3, feature_group_count=5, rngs=nnx.Rngs(0), **function)
        for function in ({"conv_general_dilated": conv_general_dilated}, {})
    )
    x = x[:, 0]
    assert_close(pull_back(ours, nnx.state(ours), x), pull_back(plain, nnx.state(plain), x))


def test_an_ensemble_of_kernels_equals_its_members(x):
    ours, plain = pair()
    members = [jax.tree.map(lambda leaf, k=k: leaf * k + 0.1, nnx.state(plain)) for k in (1, -2)]
    images = jnp.stack([x, x[::-1]])
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    together = jax.jit(jax.vmap(lambda params, x: pull_back(ours, params, x)))(stacked, images)
    for k, params in enumerate(members):
        member = jax.tree.map(lambda leaf, k=k: leaf[k], together)
        assert_close(member, pull_back(plain, params, images[k]))


def test_devices_keep_their_images_and_add_up_one_weight_gradient(x):
    ours, plain = pair()
    mesh = Mesh(np.array(jax.devices()[:2]), "data")
    split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (["data"], []))
    step = jax.jit(
        lambda params, x: pull_back(ours, params, x),
        in_shardings=(whole, split),
        out_shardings=(split, (whole, split)),
    )
    params = nnx.state(plain)
    compiled = step.lower(params, x).compile()
    assert "all-gather" not in (text := compiled.as_text())
    assert "all-reduce" in text
    placed = jax.device_put(params, whole), jax.device_put(x, split)
    assert_close(compiled(*placed), pull_back(plain, params, x))


def test_a_weight_gradient_is_taken_in_bands(x):
    """Which makes it fast on a CPU."""
    count = {}
    for name, layer in zip(("ours", "plain"), pair(), strict=True):
        jaxpr = jax.make_jaxpr(lambda x, layer=layer: pull_back(layer, nnx.state(layer), x))(x)
        count[name] = str(jaxpr).count("conv_general_dilated[")
    assert count == {"ours": 5, "plain": 3}  # Three bands of 2 * BAND + 3 rows.
