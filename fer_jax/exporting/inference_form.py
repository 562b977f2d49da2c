"""The function that every export holds: from grey levels to probabilities, in standard operations.

It differs from the predictor's function in three ways. It computes in float32. Kernels are XLA's
own operations, which other compilers know too. The batch size is symbolic.
"""

import dataclasses
import functools
import json
from collections.abc import Callable
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import export
from jaxtyping import Array, Float, UInt8

from fer_jax.inference.trained import TrainedModel
from fer_jax.inference.views import choose_views
from fer_jax.models import create_model
from fer_jax.models.functional import abstract_network
from fer_jax.models.layers import to_unit_range

Weights = list[Any]
"""Parameters and statistics of each network, as NumPy arrays."""

INPUT, OUTPUT = "images", "probabilities"
"""Names of the input and the output."""


def in_float32(model: TrainedModel) -> TrainedModel:
    """Returns the model with networks that compute in float32, whatever the run's type."""
    build = functools.partial(
        create_model, model.config.model, num_classes=len(model.classes), dtype="float32"
    )
    return dataclasses.replace(model, graph=abstract_network(build, model.mesh)[0])


def weights_of(model: TrainedModel) -> Weights:
    """Returns the weights of every network on the host."""
    return [jax.tree.map(np.asarray, states) for states in model.networks]


def make_prediction(
    model: TrainedModel, *, views_at_once: bool
) -> Callable[[Weights, UInt8[Array, "batch size size channels"]], Float[Array, "batch classes"]]:
    """Returns the function from weights and grey levels to probabilities.

    They are the mean over the views and over the members of an ensemble, after the division of the
    logits by the model's temperature. Trace the function inside `standard_operations`.

    Args:
      model: the model.
      views_at_once: whether all views of a batch are one larger batch, which takes more memory, or
        pass through the network one after another in a loop.
    """
    graph, temperature = in_float32(model).graph, model.temperature
    to_views = choose_views(model.views)
    softmax = jax.jit(jax.nn.softmax)  # One operation with a name, which ONNX has too.

    def of_network(states: Any, images: Array) -> Array:
        network = nnx.merge(graph, *states)
        network.eval()
        logits = network(images)
        return softmax(logits if temperature == 1 else logits / temperature)

    def of_view(weights: Weights, images: Array) -> Array:
        members = [of_network(states, images) for states in weights]
        return functools.reduce(jnp.add, members) / len(members)

    def predict(weights: Weights, images: Array) -> Array:
        views = to_views(to_unit_range(images))
        count, batch, *size = views.shape
        if count == 1:
            return of_view(weights, views.reshape(batch, *size))
        if views_at_once:
            rows = of_view(weights, views.reshape(count * batch, *size))
            return rows.reshape(count, batch, -1).mean(axis=0)
        return jax.lax.map(functools.partial(of_view, weights), views).mean(axis=0)

    return predict


def symbolic_images(model: TrainedModel) -> jax.ShapeDtypeStruct:
    """Returns the shape and type of the input, with a symbolic batch size."""
    size, channels = model.images.size, model.images.channels
    shape = export.symbolic_shape(f"batch, {size}, {size}, {channels}")
    return jax.ShapeDtypeStruct(shape, np.uint8)


def describe(model: TrainedModel) -> dict[str, str]:
    """Returns what a file says about itself; values that are not words are JSON."""
    size, channels = model.images.size, model.images.channels
    levels = "grey levels" if channels == 1 else "levels of red, green and blue"
    return {
        "classes": json.dumps(model.classes),
        "input": f"{INPUT}: uint8[batch, {size}, {size}, {channels}], {levels} 0 to 255",
        "output": f"{OUTPUT}: float32[batch, {len(model.classes)}], one column per class",
        "image_size": json.dumps([size, size]),
        "preprocessing": f"inside: give a face's {levels}, resized to the image size",
        "views": model.views,
        "temperature": json.dumps(model.temperature),
        "members": json.dumps(len(model.steps)),
        "steps": json.dumps([int(step) for step in model.steps]),
        "model": json.dumps(model.config.model.to_dict()),
        "made_by": f"fer_jax {_version()}, jax {jax.__version__}",
    }


def _version() -> str:
    try:
        return metadata.version("fer_jax")
    except metadata.PackageNotFoundError:  # It runs from a checkout.
        return "of a checkout"
