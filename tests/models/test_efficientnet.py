"""EfficientNets against Keras's, and their names against Keras's and timm's."""

import jax
import keras
import numpy as np
import pytest
from carried_over import abstract, compare_features, losses, paths, randomize, zeros
from flax import nnx

from data_prep.contract import UserError
from fer_jax.models import create_model
from fer_jax.models.efficientnet import keras_name, timm_name
from fer_jax.summary import count_parameters

B0 = {"name": "efficientnet", "width": 1.0, "depth": 1.0, "stem": "imagenet", "channels": 3}
SMALL = {"name": "efficientnet", "width": 0.25, "depth": 0.25, "stem": "imagenet"}


def test_parameter_counts_are_those_of_keras_and_timm():
    model = abstract(B0, num_classes=1000)
    # Keras counts the seven numbers of its Normalization too.
    assert count_parameters(model.features)["total"] == 4_049_571 - 7
    assert count_parameters(model)["trainable"] == 5_288_548
    b1 = abstract({**B0, "depth": 1.1}, num_classes=1000)
    assert count_parameters(b1)["trainable"] == 7_794_184
    b2 = abstract({**B0, "width": 1.1, "depth": 1.2}, num_classes=1000)
    assert count_parameters(b2)["trainable"] == 9_109_994


def test_features_equal_keras_under_keras_names():
    with zeros():
        theirs = keras.applications.EfficientNetB0(
            weights=None, include_top=False, pooling="avg", input_shape=(48, 48, 3)
        )
    compare_features(abstract(B0), theirs, keras_name, randomize(theirs), scale=255.0)


def test_timm_names():
    def batch_norm(name):
        return {f"{name}.{x}" for x in ("weight", "bias", "running_mean", "running_var")}

    expected = {"conv_stem.weight", "conv_head.weight"} | batch_norm("bn1") | batch_norm("bn2")
    for stage, repeats in enumerate((1, 2, 2, 3, 3, 4, 1)):
        for block in range(repeats):
            at = f"blocks.{stage}.{block}"
            convs = ["conv_dw", "conv_pw"] if stage == 0 else ["conv_pw", "conv_dw", "conv_pwl"]
            for number, conv in enumerate(convs, start=1):
                expected |= {f"{at}.{conv}.weight"} | batch_norm(f"{at}.bn{number}")
            for conv in ("conv_reduce", "conv_expand"):
                expected |= {f"{at}.se.{conv}.weight", f"{at}.se.{conv}.bias"}
    names = [timm_name(path) for path in paths(abstract(B0))]
    assert sorted(names) == sorted(expected)


def test_pytorchs_convention_pads_both_sides_and_has_its_epsilon():
    tensorflow, pytorch = (
        abstract({**B0, "convention": name}).features.layers[0]
        for name in ("tensorflow", "pytorch")
    )
    assert (tensorflow.norm.epsilon, pytorch.norm.epsilon) == (1e-3, 1e-5)
    assert (tensorflow.conv.padding, pytorch.conv.padding) == ("SAME", 1)


def test_the_small_stem_keeps_twice_the_resolution():
    def last_map(stem):
        config = {**SMALL, "stem": stem}
        *layers, _, _, _ = create_model(
            config, num_classes=7, dtype="float32", rngs=nnx.Rngs(0)
        ).layers()
        x = jax.numpy.zeros((1, 48, 48, 1))
        for layer in layers:
            x = layer(x, rngs=nnx.Rngs(0)) if isinstance(layer, nnx.Sequential) else layer(x)
        return x

    assert nnx.eval_shape(lambda: last_map("small")).shape == (1, 3, 3, 320)
    assert nnx.eval_shape(lambda: last_map("imagenet")).shape == (1, 2, 2, 320)


def test_blocks_that_keep_the_shape_are_left_out_at_rising_rates():
    stages = abstract(B0).features.layers[1:8]
    blocks = [block for stage in stages for block in stage.layers]
    np.testing.assert_allclose([block.drop.rate for block in blocks], np.arange(16) * 0.2 / 16)
    residual = [stage.layers[k].residual for stage in stages for k in range(len(stage.layers))]
    assert sum(residual) == 9


def test_training_lowers_the_loss():
    first, *_, last = losses(SMALL, steps=3)
    assert last < first


@pytest.mark.parametrize("key", ["stem", "convention"])
def test_a_wrong_choice_is_named_with_the_known(key):
    with pytest.raises(UserError, match=f"model.{key} is 'tiny'; choose one of"):
        abstract({**B0, key: "tiny"})
