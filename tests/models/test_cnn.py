"""The layer list against the same network in Keras: outputs, statistics and gradients."""

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from flax import nnx

from fer_jax.errors import UserError
from fer_jax.kernels.batch_norm import BatchNorm
from fer_jax.models import create_model

LAYERS = (
    *(("conv", 8), ("conv", 6), "batch_norm", "max_pool", ("dropout", 0.3)),
    *(("conv", 8, 5), ("conv", 4, 3, "VALID"), "batch_norm", ("max_pool", 3)),
    *("flatten", ("dense", 16), "batch_norm", ("dropout", 0.5)),
)


def build(layers=LAYERS, **changes):
    arguments = {"num_classes": 7, "dtype": "float32", "rngs": nnx.Rngs(0), **changes}
    channels = arguments.pop("channels", 3)
    return create_model({"name": "cnn", "layers": layers, "channels": channels}, **arguments)


def keras_network() -> keras.Model:
    k = keras.layers
    return keras.Sequential(
        [
            keras.Input((48, 48, 3)),
            k.Conv2D(8, 3, padding="same", activation="relu"),
            k.Conv2D(6, 3, padding="same", activation="relu"),
            k.BatchNormalization(),
            k.MaxPooling2D(),
            k.Conv2D(8, 5, padding="same", activation="relu"),
            k.Conv2D(4, 3, activation="relu"),
            k.BatchNormalization(),
            k.MaxPooling2D(3),
            k.Flatten(),
            k.Dense(16, activation="relu"),
            k.BatchNormalization(),
            k.Dense(7),
        ]
    )


@pytest.fixture
def images():
    return np.random.default_rng(0).random((4, 48, 48, 1), np.float32)


@pytest.fixture
def twins():
    """Returns our network without dropout and Keras's, with equal random weights and statistics."""
    ours = build([entry for entry in LAYERS if entry[0] != "dropout"])
    theirs = keras_network()
    rng = np.random.default_rng(1)
    pairs = zip(
        [layer for layer in ours.layers() if isinstance(layer, nnx.Module) and nnx.state(layer)],
        [layer for layer in theirs.layers if layer.weights],
        strict=True,
    )
    for mine, reference in pairs:
        names = (
            ("scale", "bias", "mean", "var") if "batch" in reference.name else ("kernel", "bias")
        )
        values = [rng.uniform(0.1, 1.0, w.shape) / w.shape[0] for w in reference.weights]
        reference.set_weights(values)
        for name, value in zip(names, values, strict=True):
            getattr(mine, name)[...] = jnp.asarray(value)
    return ours, theirs


def test_inference_equals_keras(twins, images):
    ours, theirs = twins
    ours.eval()
    expected = theirs(np.repeat(images, 3, axis=-1), training=False)
    np.testing.assert_allclose(ours(images), expected, rtol=1e-4, atol=1e-5)


def test_training_and_its_statistics_equal_keras(twins, images):
    ours, theirs = twins
    ours.train()
    expected = theirs(np.repeat(images, 3, axis=-1), training=True)
    np.testing.assert_allclose(ours(images), expected, rtol=1e-3, atol=1e-4)
    mine = [layer for layer in ours.layers() if isinstance(layer, BatchNorm)]
    reference = [layer for layer in theirs.layers if "batch" in layer.name]
    for a, b in zip(mine, reference, strict=True):
        np.testing.assert_allclose(a.mean[...], b.moving_mean, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(a.var[...], b.moving_variance, rtol=1e-4, atol=1e-6)


def test_initial_kernels_are_glorot_uniform_and_biases_zero():
    head = build([*LAYERS[:5], "flatten", ("dense", 64)]).layers()[-3]
    limit = np.sqrt(6 / sum(head.kernel.shape))
    kernel = np.asarray(head.kernel[...])
    assert np.abs(kernel).max() <= limit
    np.testing.assert_allclose(kernel.std(), limit / np.sqrt(3), rtol=0.02)
    assert not head.bias[...].any()


def test_dropout_acts_only_in_training(images):
    model = build()
    model.train()
    one, other = (model(images, rngs=nnx.Rngs(dropout=k)) for k in (1, 2))
    assert not np.allclose(one, other)
    model.eval()
    np.testing.assert_array_equal(model(images), model(images))


def test_the_gradient_of_max_pool_is_finite_when_compiled():
    """The network is so large that XLA could recompute pixels, with other rounding."""
    layers = [("conv", 128, 3, "VALID"), "batch_norm", "max_pool", "flatten"]
    model = build(layers, channels=1)
    images = jnp.asarray(np.random.default_rng(0).random((2, 48, 48, 1), np.float32))
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    @jax.jit
    @jax.grad
    def gradient(params):
        return nnx.merge(graph, params, rest, copy=True)(images)[:, 0].sum()

    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient(params)))


def test_bfloat16_is_for_the_computation_and_float32_for_the_state(images):
    exact, rounded = build(), build(dtype="bfloat16")
    for leaf in jax.tree.leaves(nnx.state(rounded)):
        assert leaf.dtype == jnp.float32
    for model in (exact, rounded):
        model.train()
    a, b = (model(images, rngs=nnx.Rngs(dropout=0)) for model in (exact, rounded))
    assert b.dtype == jnp.float32
    assert 0 < np.abs(a - b).max() < 0.1
    for leaf in jax.tree.leaves(nnx.state(rounded, nnx.BatchStat)):
        assert leaf.dtype == jnp.float32
        assert (leaf != leaf.astype(jnp.bfloat16)).any()


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((("conf", 8),), "layer 1, .*'conf' is no layer; choose one of conv, dense"),
        ((("conv", 8), "max_pool"), "add 'flatten'"),
        ((("dense", 8),), r"layer 1.*\(48, 48, 1\): .*add 'flatten' before it"),
        (("flatten", ("conv", 8)), r"layer 2.*\(2304,\): .*put it before 'flatten'"),
        (("conv",), "layer 1, 'conv', .*missing a required argument: 'features'"),
        (("batch_norm", ("flatten", 2)), "layer 2, .*too many positional arguments"),
        ((("max_pool", 50),), "50x50 blocks do not fit into 48x48"),
        ((("max_pool", 0),), "size is 0"),
        ((("conv", 0),), "features is 0"),
        ((("conv", 8, 0),), "kernel is 0"),
        (("flatten", ("dense", 8.0)), "features is 8.0"),
        ((("conv", 8, 3, "same"),), "'SAME' or 'VALID'"),
        (("flatten", ("dropout", 1.5)), "1.5"),
        (("flatten", ("dropout", "half")), "rate is 'half'"),
        (("flatten", ("dropout", float("nan"))), "rate is nan"),
        (("flatten", ("dense", True)), "features is True; give a whole number"),
        ((("conv", 10**9),), "features is 1000000000; give .* up to 1,048,576"),
        ((7,), "layer 1, 7"),
        (((),), r"layer 1, \(\)"),
    ],
)
def test_a_wrong_layer_is_named(layers, message):
    with pytest.raises(UserError, match=message):
        build(layers, channels=1)


@pytest.mark.parametrize("error", [TypeError, ValueError])
def test_an_error_inside_a_layer_comes_through_as_it_is(error, monkeypatch):
    def fail(*_, **__):
        raise error("inside")

    monkeypatch.setattr("fer_jax.models.cnn.Conv", fail)
    with pytest.raises(error, match="inside"):
        build()
