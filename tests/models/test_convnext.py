"""ConvNeXts against Keras's, and their names against Keras's and timm's."""

import jax
import numpy as np
import pytest
from carried_over import abstract, compare_features, losses, paths, randomize, zeros
from flax import nnx
from keras.src.applications.convnext import ConvNeXt

from data_prep.contract import UserError
from fer_jax.models import create_model
from fer_jax.models.convnext import keras_name, timm_name
from fer_jax.summary import count_parameters

TINY = {
    "name": "convnext",
    "depths": (3, 3, 9, 3),
    "widths": (96, 192, 384, 768),
    "patch": 4,
    "channels": 3,
}
SMALL = {**TINY, "depths": (1, 2, 1, 1), "widths": (8, 12, 16, 20)}


def test_parameter_counts_are_those_of_keras_and_timm():
    model = abstract(TINY, num_classes=1000)
    assert count_parameters(model.features)["total"] == 27_820_128
    assert count_parameters(model)["trainable"] == 28_589_128
    atto = {**TINY, "depths": (2, 2, 6, 2), "widths": (40, 80, 160, 320)}
    assert count_parameters(abstract(atto, num_classes=1000))["trainable"] == 3_695_520


def test_features_equal_keras_under_keras_names():
    """Of a smaller network, under the names of the tiny one."""
    with zeros():
        theirs = ConvNeXt(
            SMALL["depths"],
            SMALL["widths"],
            name="convnext_tiny",
            include_preprocessing=False,
            include_top=False,
            pooling="avg",
            input_shape=(48, 48, 3),
        )
    weights = randomize(theirs)
    # Keras names the last normalisation only in the network with its top.
    for kind in ("gamma", "beta"):
        weights[f"convnext_tiny_head_layernorm/{kind}"] = weights.pop(f"layer_normalization/{kind}")
    compare_features(abstract(SMALL), theirs, keras_name, weights)


def test_timm_names():
    def with_bias(*names):
        return {f"{name}.{x}" for name in names for x in ("weight", "bias")}

    expected = with_bias("stem.0", "stem.1", "head.norm")
    for stage, depth in enumerate((3, 3, 9, 3)):
        if stage:
            expected |= with_bias(*(f"stages.{stage}.downsample.{x}" for x in "01"))
        for block in range(depth):
            at = f"stages.{stage}.blocks.{block}"
            expected |= {f"{at}.gamma"}
            expected |= with_bias(*(f"{at}.{x}" for x in ("conv_dw", "norm", "mlp.fc1", "mlp.fc2")))
    names = [timm_name(path) for path in paths(abstract(TINY))]
    assert sorted(names) == sorted(expected)


def test_a_block_is_left_out_of_whole_images():
    config = {**SMALL, "depths": (2,), "widths": (8,), "stochastic_depth": 0.5}
    model = create_model(config, num_classes=7, dtype="float32", rngs=nnx.Rngs(0))
    block = model.features.layers[0].layers[-1]  # The last, at the whole rate.
    block.layer_scale[...] = jax.numpy.ones(8)
    x = jax.random.normal(jax.random.key(0), (16, 3, 3, 8))
    block.eval()
    branch = np.asarray(block(x) - x)
    block.train()
    trained = np.asarray(block(x, rngs=nnx.Rngs(dropout=0)) - x)
    dropped = ~trained.any(axis=(1, 2, 3))
    assert 0 < dropped.sum() < 16
    np.testing.assert_allclose(trained[~dropped], 2 * branch[~dropped], rtol=1e-3, atol=1e-5)


def test_stochastic_depth_rises_to_its_rate():
    stages = abstract({**SMALL, "stochastic_depth": 0.4}).features.layers[:4]
    rates = [block.drop.rate for stage in stages for block in stage.layers[1:]]
    np.testing.assert_allclose(rates, [0, 0.1, 0.2, 0.3, 0.4])


def test_training_lowers_the_loss():
    config = {"name": "convnext", "depths": (1, 1), "widths": (8, 12), "patch": 4}
    first, *_, last = losses(config, steps=2)
    assert last < first


def test_depths_and_widths_of_other_numbers_of_stages():
    with pytest.raises(UserError, match="differ in length"):
        abstract({**TINY, "depths": (3, 3, 9)})
