"""Grad-CAM: heat maps of the image regions that support the predicted class.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
Localization", ICCV 2017, equations 1 and 2.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from fer_jax.errors import UserError
from fer_jax.inference.probabilities import Function, compile_for
from fer_jax.models.functional import Graph
from fer_jax.models.layers import Classifier, to_unit_range


def make_grad_cam(graph: Graph, mesh: Mesh) -> Function:
    """Returns the jitted function from images to probabilities and heat maps.

    The probabilities are Float[batch, classes]. The heat maps are Float[batch, rows, columns], at
    the resolution of the last convolution. They are 0 where nothing supports the most probable
    class and 1 at the strongest support. A map without any support is all 0.

    The function raises `UserError` if the network has no convolution.
    """

    def explain(params, statistics, images):
        model = nnx.merge(graph, params, statistics)
        model.eval()
        return _grad_cam(model, to_unit_range(images))

    return compile_for(mesh, explain)


def _grad_cam(model: Classifier, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    layers = model.layers()
    cut = _end_of_last_convolution(layers)
    maps = model.prepare(images)
    for layer in layers[:cut]:
        maps = layer(maps)

    def to_logits(x):
        for layer in layers[cut:]:
            x = layer(x)
        return x.astype(jnp.float32)

    logits, pull_back = jax.vjp(to_logits, maps)
    (gradients,) = pull_back(jax.nn.one_hot(logits.argmax(-1), logits.shape[-1]))
    weights = gradients.astype(jnp.float32).mean(axis=(1, 2))
    heat = nnx.relu(jnp.einsum("nijk,nk->nij", maps.astype(jnp.float32), weights))
    peak = heat.max(axis=(1, 2), keepdims=True)
    return jax.nn.softmax(logits), heat / jnp.where(peak > 0, peak, 1)


def _end_of_last_convolution(layers: list[Any]) -> int:
    """Returns the number of layers up to and including the last convolution and its ReLU."""
    ends = [index for index, layer in enumerate(layers, start=1) if _convolves(layer)]
    if not ends:
        raise UserError("Grad-CAM needs a network with a convolution; this one has none")
    return ends[-1] + (layers[ends[-1]] is nnx.relu)


def _convolves(layer: Any) -> bool:
    return isinstance(layer, nnx.Module) and any(
        isinstance(module, nnx.Conv) for _, module in nnx.iter_modules(layer)
    )
