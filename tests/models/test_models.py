"""The table of networks: the arguments each takes, and export with a symbolic batch size."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export

from fer_jax.errors import UserError
from fer_jax.models import MODELS, create_model

CNN = {"name": "cnn", "channels": 1, "layers": (("conv", 4), "max_pool", "flatten", ("dense", 8))}
RESNET = {"name": "resnet", "depth": 18, "stem": "small", "width": 4}


def create(config):
    return create_model(config, num_classes=7, dtype="float32", rngs=nnx.Rngs(0))


def message(config):
    with pytest.raises(UserError) as raised:
        create(config)
    return str(raised.value)


def test_a_model_section_of_another_model_names_its_owner():
    assert message(CNN | {"name": "resnet"}) == (
        "model 'resnet' takes no 'layers'; this config's model section belongs to 'cnn': "
        "choose a config of 'resnet', or set model.name back"
    )


def test_a_model_section_that_fits_two_models_names_both():
    assert "belongs to 'efficientnet' or 'resnet':" in message(RESNET | {"name": "vgg16"})


def test_the_owner_of_a_model_section_needs_nothing_more():
    vgg16 = {"name": "cnn", "dropout": 0.5, "frozen_stages": 4, "channels": 3}
    assert "belongs to 'vgg16':" in message(vgg16)


@pytest.mark.parametrize("name", ["depht", "num_classes", "rngs"])
def test_an_unknown_argument_is_named_with_the_known_ones(name):
    assert message(RESNET | {name: 18}) == (
        f"model 'resnet' takes no '{name}'; it takes depth, stem, width, frozen_stages, channels, "
        "image_size, normalization"
    )


def test_a_missing_argument_is_named():
    assert message({"name": "cnn"}) == "model 'cnn' needs 'layers'; set model.layers"
    assert message({"name": "resnet", "depth": 18}) == (
        "model 'resnet' needs 'stem' and 'width'; set model.stem and model.width"
    )


@pytest.mark.parametrize("config", [{}, {"layers": ()}, {"name": ""}, {"name": None}])
def test_a_missing_name_is_told_with_the_known_ones(config):
    assert message(config) == f"model.name is missing; choose one of {', '.join(MODELS)}"


def test_an_unknown_name_is_told_with_the_known_ones():
    assert message({"name": "lenet"}) == f"model.name is 'lenet'; choose one of {', '.join(MODELS)}"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (RESNET | {"width": "64"}, "model.width is '64'; give a whole number"),
        (RESNET | {"width": 6.5}, "model.width is 6.5; give a whole number"),
        (RESNET | {"stem": 3}, "model.stem is 3; give text"),
        (CNN | {"layers": "flatten"}, "model.layers is 'flatten'; give a list"),
        (
            {"name": "densenet", "blocks": 6, "growth": 4, "stem": "small"},
            "model.blocks is 6; give a list of whole numbers",
        ),
        (
            {"name": "densenet", "blocks": (6, 1.5), "growth": 4, "stem": "small"},
            "model.blocks is (6, 1.5); give a list of whole numbers",
        ),
        (
            {"name": "efficientnet", "width": None, "depth": 1, "stem": "small"},
            "model.width is None; give a number",
        ),
    ],
)
def test_an_argument_of_a_wrong_type_is_named(config, expected):
    assert message(config) == expected


CONVNEXT = {"name": "convnext", "depths": (1, 1), "widths": (8, 12), "patch": 2}
DENSENET = {"name": "densenet", "blocks": (1, 1, 1), "growth": 4, "stem": "small"}
EFFICIENTNET = {"name": "efficientnet", "width": 0.1, "depth": 0.1, "stem": "small"}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (RESNET | {"width": True}, "model.width is True; give a whole number"),
        (RESNET | {"width": 0}, "model.width is 0; give 1 or more, up to 1,048,576"),
        (RESNET | {"channels": 10**9}, "channels is 1000000000; give 1 or more, up to 1,048,576"),
        (RESNET | {"image_size": -1}, "model.image_size is -1; give 1 or more, up to 1,048,576"),
        (DENSENET | {"blocks": (1, 10**6)}, "blocks is (1, 1000000); give 1 or more, up to 1,000"),
        (CONVNEXT | {"depths": (0, 1)}, "model.depths is (0, 1); give 1 or more, up to 1,000"),
        *(
            (EFFICIENTNET | {key: value}, f"model.{key} is {value}; give 1 or more, up to {most}")
            for key, most in (("width", "1,048,576"), ("depth", "1,000"))
            for value in (math.nan, math.inf, -1.0, 0, 1e9)
        ),
        *(
            (EFFICIENTNET | {key: value}, f"model.{key} is {value}; give a fraction in [0, 1)")
            for key in ("dropout", "stochastic_depth")
            for value in (math.nan, -0.1, 1)
        ),
        (CNN | {"layers": ("flatten",), "frozen": -1}, "model.frozen is -1; give 0 to 1"),
        (CNN | {"layers": ("flatten",), "frozen": 2}, "model.frozen is 2; give 0 to 1"),
        (CONVNEXT | {"patch": 25}, "model.image_size is 48; this network needs 50 or more"),
        (DENSENET | {"image_size": 3}, "model.image_size is 3; this network needs 4 or more"),
        (
            DENSENET | {"image_size": 12, "stem": "imagenet"},
            "model.image_size is 12; this network needs 13 or more",
        ),
    ],
)
def test_a_number_that_a_network_does_not_take_is_named(config, expected):
    assert expected in message(config)


@pytest.mark.parametrize(
    "config",
    [
        *(CONVNEXT | {"patch": 24}, DENSENET | {"image_size": 4}),
        DENSENET | {"image_size": 13, "stem": "imagenet"},
    ],
)
def test_the_smallest_images_work(config):
    images = jnp.zeros((2, 48, 48, 1))
    logits = nnx.eval_shape(lambda: create(config)(images, rngs=nnx.Rngs(0)))
    assert logits.shape == (2, 7)


def test_an_error_inside_a_network_comes_through_as_it_is(monkeypatch):
    def broken(*, num_classes, dtype, rngs):
        return len(num_classes)

    monkeypatch.setitem(MODELS, "broken", broken)
    with pytest.raises(TypeError, match=re.escape("object of type 'int' has no len()")) as raised:
        create({"name": "broken"})
    assert raised.traceback[-1].name == "broken"


SMALL = [
    CNN | {"layers": (("conv", 4), "batch_norm", ("max_pool", 2), "flatten", ("dense", 8))},
    CNN | {"layers": (("conv", 4), "max_pool", "flatten"), "channels": 3, "image_size": 32},
    {"name": "convnext", "depths": (1, 1), "widths": (8, 12), "patch": 2},
    {"name": "densenet", "blocks": (1, 1), "growth": 4, "stem": "imagenet"},
    {"name": "efficientnet", "width": 0.1, "depth": 0.1, "stem": "small"},
    RESNET,
    {"name": "vgg16", "image_size": 32, "dense": (16, 16)},
]


@pytest.mark.parametrize("config", SMALL, ids=lambda config: config["name"])
def test_a_symbolic_batch_size_gives_the_same_numbers(config):
    graph, state = nnx.split(create(config))

    def infer(state, images):
        model = nnx.merge(graph, state)
        model.eval()
        return jax.nn.softmax(model(images))

    (batch,) = export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, 48, 48, 1), np.float32)
    exported = export.export(jax.jit(infer), platforms=["cpu"])(state, images)
    for size in (1, 6):
        images = np.random.default_rng(size).random((size, 48, 48, 1), np.float32)
        expected = jax.jit(infer)(state, images)
        np.testing.assert_allclose(exported.call(state, images), expected, rtol=1e-5)
