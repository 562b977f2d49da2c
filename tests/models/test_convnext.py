"""ConvNeXts against Keras's, with Keras's weights from files of Keras and of timm."""

import re

import h5py
import jax
import numpy as np
import pytest
from carried_over import (
    abstract,
    assert_equal_weights,
    compare_features,
    load,
    randomize,
    save_keras,
    save_timm,
    trained_layers,
    zeros,
)
from flax import nnx
from keras.src.applications.convnext import ConvNeXt

from fer_jax.errors import UserError
from fer_jax.summary import count_parameters

TINY = {
    "name": "convnext",
    "depths": (3, 3, 9, 3),
    "widths": (96, 192, 384, 768),
    "patch": 4,
    "channels": 3,
}
SMALL = {**TINY, "depths": (1, 2, 1, 1), "widths": (8, 12, 16, 20)}

# NumPy warns when Keras saves its variables.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def test_parameter_counts_are_those_of_keras_and_timm():
    model = abstract(TINY, num_classes=1000)
    assert count_parameters(model.features)["total"] == 27_820_128
    assert count_parameters(model)["trainable"] == 28_589_128
    atto = {**TINY, "depths": (2, 2, 6, 2), "widths": (40, 80, 160, 320)}
    assert count_parameters(abstract(atto, num_classes=1000))["trainable"] == 3_695_520


def timm_layer(name):
    name = name.removeprefix("convnext_small_")
    ends = {
        "stem_conv": "stem.0",
        "stem_layernorm": "stem.1",
        # Keras gives this layer a name of its own only in a network with a top.
        "layer_normalization": "head.norm",
    }
    if name in ends:
        return ends[name]
    if match := re.fullmatch(r"downsampling_(layernorm|conv)_(\d)", name):
        return f"stages.{int(match[2]) + 1}.downsample.{('layernorm', 'conv').index(match[1])}"
    stage, block, part = re.fullmatch(r"stage_(\d)_block_(\d)_(\w+)", name).groups()
    layers = {"depthwise_conv": "conv_dw", "layernorm": "norm", "layer_scale": "gamma"}
    layers |= {"pointwise_conv_1": "mlp.fc1", "pointwise_conv_2": "mlp.fc2"}
    return f"stages.{stage}.blocks.{block}.{layers[part]}"


def test_features_equal_keras_from_files(tmp_path):
    with zeros():
        theirs = ConvNeXt(
            SMALL["depths"],
            SMALL["widths"],
            name="convnext_small",
            include_preprocessing=False,
            include_top=False,
            pooling="avg",
            input_shape=(48, 48, 3),
        )
    theirs.layers[-1].name = "layer_normalization"  # Drops the number that Keras appends.
    weights = randomize(theirs)
    save_keras(theirs, tmp_path / "notop.h5")
    ours = load(tmp_path / "notop.h5", {**SMALL, "frozen_stages": 2})
    compare_features(ours, theirs)
    save_timm(weights, timm_layer, tmp_path / "timm.safetensors")
    assert_equal_weights(load(tmp_path / "timm.safetensors", SMALL), ours)

    with h5py.File(tmp_path / "notop.h5", "a") as file:  # Adds a top.
        file.move("layer_normalization", "convnext_small_head_layernorm")
        top = file.create_group("convnext_small_head_dense")
        top.attrs["weight_names"] = ["convnext_small_head_dense/bias:0"]
        top["convnext_small_head_dense/bias:0"] = np.zeros(1000)
    assert_equal_weights(load(tmp_path / "notop.h5", SMALL), ours)

    with h5py.File(tmp_path / "notop.h5", "a") as file:
        file.copy("convnext_small_head_layernorm", "layer_normalization_1")
    with pytest.raises(UserError, match="has head_layernorm/gamma twice; give another file"):
        load(tmp_path / "notop.h5", SMALL)


@pytest.mark.parametrize("stages", [0, 1, 4])
def test_frozen_stages_and_the_stem_do_not_train(stages):
    trained = trained_layers(abstract({**SMALL, "frozen_stages": stages}))
    assert trained == [*range(stages, 4), 5]  # 4 is the average, 5 the last normalisation.


@pytest.mark.parametrize("stages", [-1, 5])
def test_an_impossible_number_of_frozen_stages_is_refused(stages):
    with pytest.raises(UserError, match=f"model.frozen_stages is {stages}; give 0 to 4"):
        abstract({**SMALL, "frozen_stages": stages})


def test_stochastic_depth_drops_a_block_for_whole_images():
    config = {**SMALL, "depths": (2,), "widths": (8,), "stochastic_depth": 0.5}
    rng = np.random.default_rng(0)
    graph, state = nnx.split(abstract(config))
    state = jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype("f"), state)
    block = nnx.merge(graph, state).features.layers[0].layers[-1]  # The last has the full rate.
    x = rng.normal(0, 1, (16, 3, 3, 8)).astype("f")
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


def test_depths_and_widths_of_different_lengths_are_refused():
    with pytest.raises(UserError, match="differ in length"):
        abstract({**TINY, "depths": (3, 3, 9)})
