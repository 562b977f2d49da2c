"""Helpers that carry weights from keras.applications' networks to ours, through files."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from keras.src.legacy.saving import legacy_h5_format

from fer_jax.models import create_model
from fer_jax.models.pretrained import load_pretrained

Weights = dict[str, np.ndarray]


@contextlib.contextmanager
def zeros() -> Iterator[None]:
    """Makes Keras start from zeros, because JAX would compile a slow draw for each shape."""
    with pytest.MonkeyPatch.context() as patch:
        initializer = keras.initializers.VarianceScaling
        patch.setattr(initializer, "__call__", lambda self, shape, **_: np.zeros(shape, np.float32))
        yield


def abstract(config: dict, **changes) -> nnx.Module:
    """Returns the network without values, which is cheap at any size."""
    arguments = {"num_classes": 7, "dtype": "float32", **changes}
    return nnx.eval_shape(lambda: create_model(config, rngs=nnx.Rngs(0), **arguments))


def trained_layers(network: nnx.Module) -> list[int]:
    """Returns the indices of the layers, among the features, that have parameters."""
    keys = [key for key, _ in nnx.to_flat_state(nnx.state(network, nnx.Param))]
    return sorted({key[2] for key in keys if key[0] == "features"})


def randomize(theirs: keras.Model) -> Weights:
    """Gives Keras's network random weights; returns them in our layout, by "<layer>/<kind>"."""
    rng = np.random.default_rng(0)
    kinds = {"variable": "gamma"}  # Keras 3 does not name a LayerScale's weight.
    weights = {}
    for layer in theirs._flatten_layers(include_self=False):
        if isinstance(layer, keras.Model | keras.layers.Normalization):
            continue
        for variable in layer.weights:
            kind = variable.name.rstrip("_0123456789")
            if variable.ndim > 1:
                value = rng.normal(0, np.prod(variable.shape[:-1]) ** -0.5, variable.shape)
            elif kind in ("gamma", "moving_variance", "variable"):
                value = rng.uniform(0.5, 1.5, variable.shape)
            else:
                value = rng.normal(0, 0.1, variable.shape)
            variable.assign(value)
            if isinstance(layer, keras.layers.DepthwiseConv2D):
                value = value.swapaxes(2, 3)
            weights[f"{layer.name}/{kinds.get(kind, kind)}"] = value.astype(np.float32)
    return weights


def save_keras(theirs: keras.Model, file: Path) -> None:
    """Saves weights in the format of Keras's ImageNet files."""
    with h5py.File(file, "w") as group:
        legacy_h5_format.save_weights_to_hdf5_group(group, theirs)


def save_timm(weights: Weights, timm_layer: Callable[[str], str], file: Path) -> None:
    """Saves weights with PyTorch's layouts and timm's names, and adds a top.

    Args:
      weights: arrays in our layout, by Keras's "<layer>/<kind>".
      timm_layer: function from Keras's name of a layer to timm's.
      file: path to write.
    """
    kinds = {"beta": "bias", "bias": "bias"}
    kinds |= {"moving_mean": "running_mean", "moving_variance": "running_var"}
    tensors = {"classifier.weight": np.zeros((1000, 8)), "head.fc.bias": np.zeros(1000)}
    for name, value in weights.items():
        layer, kind = name.split("/")
        layer = timm_layer(layer)
        axes = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[value.ndim]
        # In timm a LayerScale is a parameter of its block, not a layer.
        name = layer if layer.endswith(".gamma") else f"{layer}.{kinds.get(kind, 'weight')}"
        tensors[name] = np.ascontiguousarray(value.transpose(axes))
    safetensors.numpy.save_file(tensors, file)


def load(file: Path, config: dict) -> nnx.Module:
    graph, *states = nnx.split(abstract(config), nnx.Param, ...)
    params, statistics = jax.tree.map(lambda leaf: jnp.asarray(np.zeros(leaf.shape, "f")), states)
    states = load_pretrained(
        str(file), sha256="", model=config, params=params, statistics=statistics
    )
    return nnx.merge(graph, *states)


def compare_features(ours: nnx.Module, theirs: keras.Model, *, scale: float = 1.0) -> None:
    """Asserts that both give the same features; Keras's network takes images in [0, `scale`]."""
    ours.eval()
    graph, state = nnx.split(ours)
    images = np.random.default_rng(1).random((2, 48, 48, 3), np.float32)
    features = jax.jit(lambda state, x: nnx.merge(graph, state).features(x))(state, images)
    expected = jax.jit(lambda *values: theirs.stateless_call(*values, training=False)[0])(
        [variable.value for variable in theirs.trainable_variables],
        [variable.value for variable in theirs.non_trainable_variables],
        images * scale,
    )
    largest = np.abs(expected).max()
    assert np.asarray(expected).std() > 0.01 * largest
    np.testing.assert_allclose(features / largest, expected / largest, atol=1e-4)


def assert_equal_weights(one: nnx.Module, other: nnx.Module) -> None:
    """Asserts that both have the same numbers, frozen or not."""
    values = [
        {key: variable[...] for key, variable in nnx.to_flat_state(nnx.state(network))}
        for network in (one, other)
    ]
    jax.tree.map(np.testing.assert_array_equal, *values)
