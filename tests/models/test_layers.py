"""The parts that all networks share: prepared images, and frozen layers."""

import functools
import re

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType
from keras.src.applications.imagenet_utils import preprocess_input
from PIL import Image

from fer_jax.errors import UserError
from fer_jax.inference.grad_cam import make_grad_cam
from fer_jax.models import create_model
from fer_jax.models.pretrained import NAMES
from fer_jax.summary import list_layers

LAYERS = (
    *(("conv", 4), "batch_norm", ("dropout", 0.5), "max_pool"),
    *(("conv", 4), "batch_norm", ("dropout", 0.5), "flatten"),
)


def build(**changes):
    config = {"name": "cnn", "layers": LAYERS, "channels": 3, **changes}
    return create_model(config, num_classes=7, dtype="float32", rngs=nnx.Rngs(0))


@pytest.fixture
def images():
    return np.random.default_rng(0).random((3, 48, 48, 1), np.float32)


@pytest.mark.parametrize("size", [32, 48, 224])
def test_resizing_is_bilinear_between_centres(size, images):
    """OpenCV resizes in the same way, also without smoothing before downscaling."""
    prepared = np.asarray(build(image_size=size).prepare(images))
    expected = [cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR) for image in images]
    for channel in range(3):
        np.testing.assert_allclose(prepared[..., channel], expected, atol=1e-5)
    if size == 48:
        np.testing.assert_array_equal(prepared, np.repeat(images, 3, axis=-1))


@pytest.mark.parametrize(("normalization", "mode"), [("caffe", "caffe"), ("imagenet", "torch")])
def test_normalisation_equals_keras(normalization, mode, images):
    colours = np.repeat(images, 3, axis=-1) * 255
    expected = preprocess_input(colours.copy(), data_format="channels_last", mode=mode)
    found = build(normalization=normalization).prepare(images)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


def test_grey_normalisation_standardises_the_data_set(fer2013_source):
    paths = sorted((fer2013_source / "train").glob("*/*"))[::16]
    images = np.stack([np.asarray(Image.open(path)) for path in paths])[..., None] / np.float32(255)
    prepared = build(normalization="grey", channels=1).prepare(images)
    # The images are few, so the tolerances are wide.
    assert len(images) == pytest.approx(28_709 / 16, abs=1)
    assert float(prepared.mean()) == pytest.approx(0.0, abs=0.03)
    assert float(prepared.std()) == pytest.approx(1.0, abs=0.02)


def test_the_network_sees_prepared_images(images):
    model = build(image_size=32, normalization="imagenet")
    model.eval()
    expected = model.head(model.features(model.prepare(images)))
    np.testing.assert_array_equal(model(images), expected)


def test_summary_and_grad_cam_see_prepared_images(images):
    build_small = functools.partial(build, image_size=32, normalization="imagenet")
    assert list_layers(build_small)[0] == ("Conv", "32 x 32 x 4", 112)
    model = build_small()
    graph, params, statistics = nnx.split(model, nnx.Param, ...)
    mesh = jax.make_mesh((1,), ("data",), (AxisType.Auto,), devices=jax.devices()[:1])
    levels = np.uint8(images * 255)
    probabilities, heat = make_grad_cam(graph, mesh)(params, statistics, levels)
    model.eval()
    np.testing.assert_allclose(probabilities, nnx.softmax(model(levels / 255)), atol=1e-5)
    assert heat.shape == (3, 16, 16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalization": "vgg"}, "model.normalization is 'vgg'; choose one of none, grey, caffe"),
        ({"normalization": "caffe", "channels": 1}, "set model.channels = 3, not 1"),
    ],
)
def test_a_wrong_normalisation_is_named(changes, message):
    with pytest.raises(UserError, match=message):
        build(**changes)


FROZEN = 5  # The layers are convolution, ReLU, batch normalisation, dropout and max-pool.


def build_with_a_frozen_part():
    """Returns a network whose weights and statistics are all random, as if loaded."""
    graph, state = nnx.split(build(frozen=FROZEN))
    rng = np.random.default_rng(1)
    draw = functools.partial(rng.uniform, 0.1, 0.9)
    return nnx.merge(graph, jax.tree.map(lambda leaf: jnp.asarray(draw(leaf.shape)), state))


def test_a_frozen_part_does_not_change_while_the_rest_trains(images):
    graph, params, rest = nnx.split(build_with_a_frozen_part(), nnx.Param, ...)
    assert set(params["features"]["layers"]) == {FROZEN, FROZEN + 2}
    before = jax.tree.map(np.asarray, rest)

    @jax.jit
    def gradient_and_rest(params, rest):
        def loss(params):
            model = nnx.merge(graph, params, rest, copy=True)
            model.train()
            logits = model(images, rngs=nnx.Rngs(dropout=0))
            return (logits**2).mean(), nnx.state(model, nnx.filterlib.Not(nnx.Param))

        return jax.grad(loss, has_aux=True)(params)

    gradient, after = gradient_and_rest(params, rest)
    assert all(leaf.any() for leaf in jax.tree.leaves(gradient["features"]["layers"][FROZEN]))
    for index, module in before["features"]["layers"].items():
        for name, value in module.items():
            moved = (after["features"]["layers"][index][name][...] != value[...]).any()
            assert moved == (index >= FROZEN)


def test_a_frozen_part_computes_the_same_in_training(images):
    model = build_with_a_frozen_part()
    first = nnx.Sequential(*model.layers()[:FROZEN])
    model.eval()
    expected = first(model.prepare(images))
    model.train()
    found = first(model.prepare(images), rngs=nnx.Rngs(dropout=0))
    assert expected.std() > 0
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("name", "frozen_stages", "trained"),
    [
        ("vgg16", 5, {"fc1", "fc2"}),
        ("vgg16", 4, {"block5", "fc1", "fc2"}),
        ("resnet50_v1", 4, set()),
        ("resnet50_v1", 3, {"conv5"}),
    ],
)
def test_the_unfrozen_layers_train_beside_the_head(name, frozen_stages, trained):
    """`trained` holds the first parts of these layers' names in Keras."""
    config = {"name": name, "frozen_stages": frozen_stages}
    build = functools.partial(create_model, config, num_classes=7, dtype="float32")
    params = nnx.state(nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0))), nnx.Param)
    keras_name = NAMES[name](config).keras
    paths = [".".join(map(str, path)) for path, _ in nnx.to_flat_state(params)]
    features = [path for path in paths if not path.startswith("head.")]
    assert len(paths) == len(features) + 2
    assert {re.split("[_/]", keras_name(path))[0] for path in features} == trained


@pytest.mark.parametrize(("name", "stages"), [("vgg16", 5), ("resnet50_v1", 4)])
def test_an_impossible_number_of_frozen_stages_is_refused(name, stages):
    for wrong in (-1, stages + 1):
        config = {"name": name, "frozen_stages": wrong}
        with pytest.raises(UserError, match=f"frozen_stages is {wrong}; give 0 to {stages}"):
            create_model(config, num_classes=7, dtype="float32", rngs=nnx.Rngs(0))
