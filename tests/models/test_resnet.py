"""ResNets against the same networks in Keras, and against PyTorch's parameter counts."""

import jax
import keras
import numpy as np
import pytest
from flax import nnx

from fer_jax.errors import UserError
from fer_jax.kernels.batch_norm import BatchNorm
from fer_jax.models import create_model
from fer_jax.summary import count_parameters


def build(**changes):
    arguments = {"num_classes": 7, "dtype": "float32", "rngs": nnx.Rngs(0)}
    config = {"name": "resnet", "depth": 18, "stem": "small", "width": 8, "channels": 1}
    for key, value in changes.items():
        (arguments if key in arguments else config)[key] = value
    return create_model(config, **arguments)


@pytest.mark.parametrize(
    ("depth", "trainable"), [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032)]
)
def test_imagenet_form_has_torchvisions_parameter_count(depth, trainable):
    model = nnx.eval_shape(
        lambda: build(depth=depth, stem="imagenet", width=64, channels=3, num_classes=1000)
    )
    assert count_parameters(model)["trainable"] == trainable


def keras_resnet(*, depth: int, stem: str, width: int) -> tuple[keras.Model, list[keras.Layer]]:
    """Returns the model, and its layers with weights in order of creation."""
    relu, made = keras.ops.relu, []

    def conv_norm(x, features, kernel, stride=1):
        if kernel > 1:
            x = keras.layers.ZeroPadding2D(kernel // 2)(x)
        made.append(keras.layers.Conv2D(features, kernel, stride, use_bias=False))
        made.append(keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5))
        return made[-1](made[-2](x))

    inputs = keras.Input((48, 48, 1))
    if stem == "small":
        x = relu(conv_norm(inputs, width, 3))
    else:
        x = keras.layers.ZeroPadding2D(1)(relu(conv_norm(inputs, width, 7, 2)))
        x = keras.layers.MaxPooling2D(3, 2)(x)
    for stage, count in enumerate({18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}[depth]):
        features = width * 2**stage
        outputs = features if depth == 18 else 4 * features
        for index in range(count):
            stride = 2 if stage and not index else 1
            if depth == 18:
                y = relu(conv_norm(x, features, 3, stride))
                y = conv_norm(y, features, 3)
            else:
                y = relu(conv_norm(x, features, 1))
                y = relu(conv_norm(y, features, 3, stride))
                y = conv_norm(y, outputs, 1)
            if stride == 2 or x.shape[-1] != outputs:
                x = conv_norm(x, outputs, 1, stride)
            x = relu(x + y)
    made.append(keras.layers.Dense(7))
    x = made[-1](keras.layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, x), made


def layers_in_order(model):
    """Returns convolutions, normalisations and head in Keras's order: branch, then shortcut."""
    found = []
    for module in model.layers():
        parts = [module]
        if hasattr(module, "branch"):
            parts = [*module.branch.layers, module.shortcut]
        for part in parts:
            found += [part.conv, part.norm] if hasattr(part, "norm") else [part]
    return [layer for layer in found if isinstance(layer, nnx.Module)]


@pytest.mark.parametrize(("depth", "stem"), [(18, "imagenet"), (50, "small")])
def test_outputs_and_statistics_equal_keras(depth, stem):
    ours = build(depth=depth, stem=stem)
    theirs, references = keras_resnet(depth=depth, stem=stem, width=8)
    rng = np.random.default_rng(0)
    pairs = list(zip(layers_in_order(ours), references, strict=True))
    for mine, reference in pairs:
        if isinstance(mine, BatchNorm):
            names, low, high = ("scale", "bias", "mean", "var"), 0.5, 1.5
        else:
            names, low, high = ("kernel", "bias")[: len(reference.weights)], -0.1, 0.1
        values = [rng.uniform(low, high, w.shape).astype(np.float32) for w in reference.weights]
        reference.set_weights(values)
        for name, value in zip(names, values, strict=True):
            getattr(mine, name)[...] = jax.numpy.asarray(value)
    images = rng.random((3, 48, 48, 1), np.float32)
    for training, set_mode in ((False, ours.eval), (True, ours.train)):
        set_mode()
        expected = np.asarray(theirs(images, training=training))
        scale = np.abs(expected).max()
        np.testing.assert_allclose(ours(images) / scale, expected / scale, atol=1e-4)
    mine, reference = pairs[-2]
    np.testing.assert_allclose(mine.mean[...], reference.moving_mean, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("depth", [18, 50])
def test_every_convolution_has_a_gradient_from_the_start(depth):
    """With an initial scale of zero the convolution before it has none, and learning is slow."""
    graph, params, rest = nnx.split(build(depth=depth, width=4), nnx.Param, ...)
    images = jax.random.uniform(jax.random.key(0), (4, 48, 48, 1))

    def loss(params):
        model = nnx.merge(graph, params, rest, copy=True)
        model.train()
        return jax.nn.logsumexp(model(images), axis=-1).sum()

    for path, gradient in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(params)):
        assert gradient.ndim < 4 or np.abs(gradient).max() > 1e-6, jax.tree_util.keystr(path)


@pytest.mark.parametrize(("key", "value"), [("depth", 19), ("stem", "tiny")])
def test_an_unknown_choice_is_named_with_the_known_ones(key, value):
    with pytest.raises(UserError, match=f"model.{key} is {value!r}; choose one of"):
        build(**{key: value})
