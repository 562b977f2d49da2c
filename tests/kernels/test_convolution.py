"""The convolution against `lax`'s own: output, both gradients, ensembles, several devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fer_jax.devices import compiler_options, on_mesh
from fer_jax.kernels.convolution import GROUP, Conv

CHANNELS, DEVICES = 5, 2

pytestmark = pytest.mark.filterwarnings("ignore:Error writing persistent compilation cache entry")


DEPTHWISE = {"features": CHANNELS, "feature_group_count": CHANNELS}
"""Each channel is convolved by itself."""


def pair(kernel=(3, 3), features=7, **how):
    """Ours and the plain one, with the same parameters."""
    ours, plain = (
        conv(CHANNELS, features, kernel, rngs=nnx.Rngs(0), **how) for conv in (Conv, nnx.Conv)
    )
    return ours, plain


def pull_back(layer, params, x):
    """Returns the output, and the gradients of a generic function of it."""
    graph = nnx.graphdef(layer)
    y, back = jax.vjp(lambda params, x: nnx.merge(graph, params)(x), params, x)
    return y, back(jax.random.normal(jax.random.key(0), y.shape).astype(y.dtype))


def compute(layer, params, x):
    """Runs `pull_back` with the kernels of a training step."""
    pull = functools.partial(pull_back, layer)
    return jax.jit(pull, compiler_options=compiler_options())(params, x)


def assert_close(ours, plain):
    """Within 1e-5 of each tensor's largest entry."""
    for mine, theirs in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


@pytest.fixture(autouse=True)
def use_kernels(monkeypatch):
    """Undoes the settings of other tests."""
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    if not compiler_options():
        pytest.skip("there are none for this machine")


@pytest.fixture
def x():
    shape = (2 * GROUP * DEVICES, 9, 6, CHANNELS)  # Two groups on each device.
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape, np.float32))


@pytest.mark.parametrize("grouping", [{}, DEPTHWISE])
@pytest.mark.parametrize(
    ("kernel", "how"),
    [
        ((3, 3), {"padding": "SAME"}),
        ((3, 3), {"padding": "VALID"}),
        ((5, 2), {"padding": "SAME", "use_bias": False}),
        ((5, 5), {"padding": "SAME", "strides": 2}),
        ((3, 3), {"padding": 1, "strides": 2}),
        ((3, 3), {"padding": "SAME", "strides": (3, 2)}),
        ((3, 3), {"padding": ((2, 0), (1, 3))}),
        ((1, 1), {"padding": 0, "strides": 2}),
        ((3, 3), {"padding": "CIRCULAR"}),
        ((3, 3), {"kernel_dilation": 2}),
        ((2, 2), {"padding": 1, "input_dilation": 2}),
    ],
)
def test_output_and_gradients_equal_the_plain_convolutions(x, kernel, how, grouping):
    ours, plain = pair(kernel, **how, **grouping)
    params = nnx.state(plain)
    assert_close(compute(ours, params, x), pull_back(plain, params, x))
    assert_close(ours(x), plain(x))  # As in evaluation, without gradients.


def test_groups_equal_the_plain_convolutions(x):
    ours, plain = pair(3, features=10, feature_group_count=5)
    x = x[:, 0]
    assert_close(compute(ours, nnx.state(ours), x), pull_back(plain, nnx.state(plain), x))


def test_depthwise_bfloat16_is_rounded_float32(x):
    ours, plain = pair(dtype=jnp.bfloat16, **DEPTHWISE)[0], pair(**DEPTHWISE)[1]
    y, (params_gradient, x_gradient) = compute(ours, nnx.state(ours), x.astype(jnp.bfloat16))
    assert y.dtype == x_gradient.dtype == jnp.bfloat16
    expected = pull_back(plain, nnx.state(plain), x.astype(jnp.bfloat16).astype(jnp.float32))
    in_float32 = (y.astype(jnp.float32), (params_gradient, x_gradient.astype(jnp.float32)))
    for mine, theirs in zip(jax.tree.leaves(in_float32), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=0.02 * np.abs(theirs).max())


@pytest.mark.parametrize("strides", [1, 2])
def test_all_depthwise_convolutions_are_onednns(x, strides):
    """XLA's own convolutions take 10 to 200 times as long."""
    layer, _ = pair(strides=strides, **DEPTHWISE)
    pull = jax.jit(functools.partial(pull_back, layer), compiler_options=compiler_options())
    text = pull.lower(nnx.state(layer), x).compile().as_text()
    assert text.count('custom_call_target="__onednn$convolution"') == 3
    assert " convolution(" not in text


@pytest.mark.parametrize("grouping", [{}, DEPTHWISE])
def test_an_ensemble_of_kernels_equals_its_members(x, grouping):
    ours, plain = pair(**grouping)
    members = [jax.tree.map(lambda leaf, k=k: leaf * k + 0.1, nnx.state(plain)) for k in (1, -2)]
    images = jnp.stack([x, x[::-1]])
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    together = jax.jit(jax.vmap(lambda params, x: pull_back(ours, params, x)))(stacked, images)
    for k, params in enumerate(members):
        member = jax.tree.map(lambda leaf, k=k: leaf[k], together)
        assert_close(member, pull_back(plain, params, images[k]))


@pytest.mark.parametrize("grouping", [{}, DEPTHWISE])
def test_devices_keep_their_images_and_add_up_one_weight_gradient(x, grouping):
    ours, plain = pair(**grouping)
    mesh = Mesh(np.array(jax.devices()[:DEVICES]), "data")
    split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (["data"], []))
    step = jax.jit(
        on_mesh(mesh, lambda params, x: pull_back(ours, params, x)),
        in_shardings=(whole, split),
        out_shardings=(split, (whole, split)),
    )
    params = nnx.state(plain)
    compiled = step.lower(params, x).compile()
    assert "all-gather" not in (text := compiled.as_text())
    assert "all-reduce" in text
    placed = jax.device_put(params, whole), jax.device_put(x, split)
    assert_close(compiled(*placed), pull_back(plain, params, x))


@pytest.mark.parametrize(("images", "groups"), [(0, 2), (1, 1), (-1, 1)])
def test_a_weight_gradient_has_channels_along_the_width_and_images_in_groups(x, images, groups):
    """This form is fast on a CPU. Images that do not divide into groups form one group."""
    mesh = Mesh(np.array(jax.devices()[:DEVICES]), "data")
    x = jnp.concatenate([x, x[:images]]) if images >= 0 else x[:images]
    layer, _ = pair()
    pull = on_mesh(mesh, lambda params, x: pull_back(layer, params, x))
    jaxpr = str(jax.make_jaxpr(pull)(nnx.state(layer), x))
    assert f"rhs_dilation=(1, 1, {CHANNELS})" in jaxpr
    assert f"f32[1,{groups},9,{6 * CHANNELS},{len(x) // groups}]" in jaxpr


@pytest.mark.parametrize("backend", ["gpu", "tpu"])
def test_what_is_given_goes_before_our_options(backend, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=somewhere")
    options = compiler_options()
    assert bool(options) == (backend != "tpu")
    for name in options:
        monkeypatch.setenv("XLA_FLAGS", f"--{name}=")
        assert compiler_options() == {}
