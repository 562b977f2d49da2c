"""DenseNets against Keras's, and their names against Keras's and timm's."""

import pytest
from carried_over import abstract, compare_features, losses, paths, randomize, zeros
from keras.src.applications.densenet import DenseNet

from data_prep.contract import UserError
from fer_jax.models.densenet import keras_name, timm_name
from fer_jax.summary import count_parameters

DENSENET_121 = {
    "name": "densenet",
    "blocks": (6, 12, 24, 16),
    "growth": 32,
    "stem": "imagenet",
    "channels": 3,
}


def test_parameter_counts_are_those_of_keras_and_timm():
    model = abstract(DENSENET_121, num_classes=1000)
    assert count_parameters(model.features)["total"] == 7_037_504
    assert count_parameters(model)["trainable"] == 7_978_856


def test_features_equal_keras_under_keras_names():
    """With fewer layers in a block, and as many blocks."""
    with zeros():
        theirs = DenseNet(
            [1, 2, 1, 1], weights=None, include_top=False, pooling="avg", input_shape=(48, 48, 3)
        )
    ours = abstract({**DENSENET_121, "blocks": (1, 2, 1, 1)})
    compare_features(ours, theirs, keras_name, randomize(theirs))


def test_timm_names():
    def batch_norm(name):
        return {f"{name}.{x}" for x in ("weight", "bias", "running_mean", "running_var")}

    expected = {"features.conv0.weight"}
    expected |= batch_norm("features.norm0") | batch_norm("features.norm5")
    for block, layers in enumerate((6, 12, 24, 16), start=1):
        for layer in range(1, layers + 1):
            at = f"features.denseblock{block}.denselayer{layer}"
            for number in "12":
                expected |= {f"{at}.conv{number}.weight"} | batch_norm(f"{at}.norm{number}")
    for number in "123":
        at = f"features.transition{number}"
        expected |= {f"{at}.conv.weight"} | batch_norm(f"{at}.norm")
    names = [timm_name(path) for path in paths(abstract(DENSENET_121))]
    assert sorted(names) == sorted(expected)


def test_training_lowers_the_loss():
    config = {"name": "densenet", "blocks": (1, 1), "growth": 4, "stem": "small"}
    first, *_, last = losses(config, steps=2)
    assert last < first


def test_a_wrong_stem_is_named_with_the_known():
    with pytest.raises(UserError, match=r"model.stem is .tiny.; choose one of small, imagenet"):
        abstract({**DENSENET_121, "stem": "tiny"})
