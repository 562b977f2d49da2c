"""DenseNets against Keras's, with Keras's weights from files of Keras and of timm."""

import re

import h5py
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
from keras.src.applications.densenet import DenseNet

from fer_jax.errors import UserError
from fer_jax.summary import count_parameters

DENSENET_121 = {
    "name": "densenet",
    "blocks": (6, 12, 24, 16),
    "growth": 32,
    "stem": "imagenet",
    "channels": 3,
}
SMALL = {**DENSENET_121, "blocks": (1, 2, 1, 1)}

# NumPy warns when Keras saves its variables.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def test_parameter_counts_are_those_of_keras_and_timm():
    model = abstract(DENSENET_121, num_classes=1000)
    assert count_parameters(model.features)["total"] == 7_037_504
    assert count_parameters(model)["trainable"] == 7_978_856


def timm_layer(name):
    if name == "bn":
        return "features.norm5"
    block, part = re.fullmatch(r"(conv\d_block\d+|conv1|pool\d)_(\w+)", name).groups()
    if block == "conv1":
        return {"conv": "features.conv0", "bn": "features.norm0"}[part]
    number = int(block.removeprefix("pool")[-1 if "pool" in block else 4]) - 1
    if "pool" in block:
        return f"features.transition{number}.{'norm' if part == 'bn' else 'conv'}"
    layer = {"0_bn": "norm1", "1_conv": "conv1", "1_bn": "norm2", "2_conv": "conv2"}[part]
    return f"features.denseblock{number}.denselayer{block.split('_block')[1]}.{layer}"


def test_features_equal_keras_from_files(tmp_path):
    """The network has fewer layers per block than published ones, and as many blocks."""
    with zeros():
        theirs = DenseNet(
            SMALL["blocks"], weights=None, include_top=False, pooling="avg", input_shape=(48, 48, 3)
        )
    weights = randomize(theirs)
    save_keras(theirs, tmp_path / "notop.h5")
    ours = load(tmp_path / "notop.h5", SMALL)
    compare_features(ours, theirs)

    with h5py.File(tmp_path / "notop.h5", "a") as file:
        for part in ("conv", "bn"):  # Renames these two as in the published files.
            file.move(f"conv1_{part}", f"conv1/{part}")
            layer = file[f"conv1/{part}"]
            layer.move(f"conv1_{part}", f"conv1/{part}")
            for name in list(layer[f"conv1/{part}"]):
                layer.move(f"conv1/{part}/{name}", f"conv1/{part}/{name}:0")
            names = [name.replace("_", "/", 1) + ":0" for name in layer.attrs["weight_names"]]
            layer.attrs["weight_names"] = names
    assert_equal_weights(load(tmp_path / "notop.h5", {**SMALL, "frozen_stages": 2}), ours)
    save_timm(weights, timm_layer, tmp_path / "timm.safetensors")
    assert_equal_weights(load(tmp_path / "timm.safetensors", SMALL), ours)


@pytest.mark.parametrize(("stages", "first"), [(0, 0), (1, 3), (3, 7), (4, 9)])
def test_frozen_stages_and_their_transitions_do_not_train(stages, first):
    trained = trained_layers(abstract({**SMALL, "frozen_stages": stages}))
    assert trained == list(range(first, 9))


@pytest.mark.parametrize("stages", [-1, 5])
def test_an_impossible_number_of_frozen_stages_is_refused(stages):
    with pytest.raises(UserError, match=f"model.frozen_stages is {stages}; give 0 to 4"):
        abstract({**SMALL, "frozen_stages": stages})


def test_an_unknown_stem_is_named_with_the_known_ones():
    with pytest.raises(UserError, match=r"model.stem is .tiny.; choose one of small, imagenet"):
        abstract({**SMALL, "stem": "tiny"})
