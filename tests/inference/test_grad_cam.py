"""Grad-CAM against values that can be worked out by hand."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fer_jax.errors import UserError
from fer_jax.inference.grad_cam import make_grad_cam
from fer_jax.inference.probabilities import make_predict
from fer_jax.models import create_model
from fer_jax.models.functional import split
from fer_jax.models.layers import to_unit_range


def build(config):
    return create_model(config, num_classes=7, dtype="float32", rngs=nnx.Rngs(0))


def test_maps_lie_over_the_last_convolution(make_mesh, batch):
    """In a plain network: after its ReLU and before pooling. Images do not affect each other."""
    layers = (("conv", 4), "batch_norm", "max_pool", ("conv", 4), "max_pool", "flatten")
    graph, params, statistics = split(build({"name": "cnn", "layers": layers}))
    mesh = make_mesh(2)
    explain = make_grad_cam(graph, mesh)
    probabilities, heat = explain(params, statistics, batch["image"])
    expected = make_predict(graph, mesh)(params, statistics, batch["image"])
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)
    assert heat.shape == (16, 24, 24)
    _, alone = explain(params, statistics, batch["image"][4:6])
    np.testing.assert_allclose(heat[4:6], alone, atol=1e-5)


def test_is_class_activation_mapping_under_a_global_average(make_mesh, batch):
    """Selvaraju et al., section 3.1: there each channel has the weight that the head gives it."""
    model = build({"name": "resnet", "depth": 18, "stem": "small", "width": 4})
    graph, params, statistics = split(model)
    probabilities, heat = make_grad_cam(graph, make_mesh(1))(params, statistics, batch["image"])
    model.eval()
    maps = to_unit_range(batch["image"])
    for layer in model.layers()[:-2]:
        maps = layer(maps)
    logits = model(to_unit_range(batch["image"]))
    np.testing.assert_allclose(probabilities, nnx.softmax(logits), atol=1e-5)
    weights = model.head.kernel[...][:, logits.argmax(axis=-1)]
    cam = np.maximum(jnp.einsum("nijk,kn->nij", maps, weights), 0)
    peaks = cam.max(axis=(1, 2), keepdims=True)
    assert (peaks > 0).any()
    np.testing.assert_allclose(heat, cam / np.where(peaks > 0, peaks, 1), atol=1e-4)


def test_says_that_there_is_no_convolution(make_mesh, batch):
    graph, params, statistics = split(build({"name": "cnn", "layers": ("max_pool", "flatten")}))
    explain = make_grad_cam(graph, make_mesh(1))
    with pytest.raises(UserError, match="needs a network with a convolution"):
        explain(params, statistics, batch["image"])
