"""Weights carried over from networks of keras.applications, and a few steps of training."""

import contextlib
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import pytest
from flax import nnx

from fer_jax.models import create_model
from fer_jax.training.members import Members
from fer_jax.training.mesh import create_mesh
from fer_jax.training.prediction import split
from fer_jax.training.step import create_state, make_train_step


@contextlib.contextmanager
def zeros() -> Iterator[None]:
    """Lets Keras begin with zeros: JAX compiles a draw for each shape, which takes long."""
    with pytest.MonkeyPatch.context() as patch:
        initializer = keras.initializers.VarianceScaling
        patch.setattr(initializer, "__call__", lambda self, shape, **_: np.zeros(shape, np.float32))
        yield


def abstract(config: dict, **changes) -> nnx.Module:
    """The network without values: cheap, however large it is."""
    arguments = {"num_classes": 7, "dtype": "float32", **changes}
    return nnx.eval_shape(lambda: create_model(config, rngs=nnx.Rngs(0), **arguments))


def paths(network: nnx.Module) -> list[str]:
    """Where the variables of its features are."""
    keys = [".".join(map(str, key)) for key, _ in nnx.to_flat_state(nnx.state(network))]
    return [key for key in keys if not key.startswith("head.")]


def randomize(theirs: keras.Model) -> dict[str, np.ndarray]:
    """Gives Keras's network random weights, returned by the names that its files have."""
    rng = np.random.default_rng(0)
    kinds = {"variable": "gamma"}  # Of a LayerScale, which Keras 3 does not name.
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
                kind, value = "depthwise_kernel", value.swapaxes(2, 3)
            weights[f"{layer.name}/{kinds.get(kind, kind)}"] = value.astype(np.float32)
    return weights


def compare_features(
    ours: nnx.Module,
    theirs: keras.Model,
    keras_name: Callable[[str], str],
    weights: dict[str, np.ndarray],
    *,
    scale: float = 1.0,
) -> None:
    """Asserts that ours has each weight once, and then makes the same features of images.

    Keras's network takes images in [0, `scale`].
    """
    unused = dict(weights)
    state = []
    for key, variable in nnx.to_flat_state(nnx.state(ours)):
        if key[0] == "head":
            value = np.zeros(variable.shape, np.float32)
        else:
            value = unused.pop(keras_name(".".join(map(str, key))))
        assert value.shape == variable.shape, key
        state.append((key, variable.replace(jnp.asarray(value))))
    assert not unused
    ours.eval()
    graph = nnx.graphdef(ours)
    images = np.random.default_rng(1).random((2, 48, 48, 3), np.float32)
    features = jax.jit(lambda state, x: nnx.merge(graph, state).features(x))(
        nnx.from_flat_state(state), images
    )
    expected = jax.jit(lambda *values: theirs.stateless_call(*values, training=False)[0])(
        [variable.value for variable in theirs.trainable_variables],
        [variable.value for variable in theirs.non_trainable_variables],
        images * scale,
    )
    largest = np.abs(expected).max()
    np.testing.assert_allclose(features / largest, expected / largest, atol=1e-4)


def losses(config: dict, steps: int) -> list[float]:
    """Of as many steps on the same 16 images."""
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (16, 48, 48, 1), dtype=np.uint8),
        "label": rng.integers(0, 7, 16).astype(np.int32),
    }

    def build(rngs):
        return create_model(config, num_classes=7, dtype="float32", rngs=rngs)

    optimizer = optax.adam(1e-2)
    graph, _, _ = split(abstract(config))
    members = Members(1, create_mesh(1))
    state = create_state(build, optimizer, None, members=members, seeds=[0])
    step = jax.jit(make_train_step(graph, optimizer, class_weights=np.ones(7, np.float32)))
    seen = []
    for _ in range(steps):
        state, loss = step(state, batch)
        seen.append(float(loss))
    return seen
