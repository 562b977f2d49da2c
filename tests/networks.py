"""Fixtures: a small network with every kind of layer, and a mesh of any number of devices."""

from collections.abc import Callable

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, Mesh

from fer_jax.devices import replicated
from fer_jax.models import create_model
from fer_jax.models.functional import abstract_network
from fer_jax.training.ensemble import Members
from fer_jax.training.step import create_state, make_train_step


@pytest.fixture
def make_mesh() -> Callable[[int], Mesh]:
    def make(devices: int) -> Mesh:
        chosen = jax.devices()[:devices]
        axes = ("member", "data")
        return jax.make_mesh((1, devices), axes, 2 * (AxisType.Auto,), devices=chosen)

    return make


@pytest.fixture
def build() -> Callable[..., nnx.Module]:
    def make(rngs: nnx.Rngs) -> nnx.Module:
        layers = (
            *(("conv", 4), "batch_norm", "max_pool", ("dropout", 0.2)),
            *("flatten", ("dense", 8)),
        )
        config = {"name": "cnn", "layers": layers}
        return create_model(config, num_classes=7, dtype="float32", rngs=rngs)

    return make


@pytest.fixture
def start(build) -> Callable:
    """Returns state and compiled step for a mesh and an optimiser."""
    default = build

    def make(mesh, optimizer, plateau=None, *, network=None, class_weights=(1.0,) * 7, **options):
        build = network or default
        graph, _, _ = abstract_network(build, mesh)
        ema = options.get("ema_decay", 0.0) > 0
        state = create_state(
            build, optimizer, plateau, members=Members(1, mesh), seeds=[0], ema=ema
        )
        weights = np.asarray(class_weights, np.float32)
        step = make_train_step(graph, optimizer, class_weights=weights, **options)
        sharding = replicated(mesh)
        return state, jax.jit(step, donate_argnums=0, out_shardings=sharding)

    return make


@pytest.fixture
def batch() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (16, 48, 48, 1), dtype=np.uint8),
        "label": rng.integers(0, 7, 16).astype(np.int32),
    }
