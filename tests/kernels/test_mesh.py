"""Kernels learn from the mesh how many devices share a batch."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fer_jax.data.augment import Augmentation
from fer_jax.data.records import Records
from fer_jax.devices import compiler_options, create_mesh
from fer_jax.inference.probabilities import make_predict
from fer_jax.models import create_model
from fer_jax.models.functional import abstract_network
from fer_jax.training.ensemble import Members
from fer_jax.training.input import HostInput
from fer_jax.training.programs import Programs
from fer_jax.training.step import create_state, make_train_step

LAYERS = (("conv", 64), ("conv", 64), "batch_norm", ("max_pool", 4), ("conv", 64), "flatten")


@pytest.fixture
def build():
    model = {"name": "cnn", "layers": LAYERS}
    return functools.partial(create_model, model, num_classes=7, dtype="float32")


@pytest.fixture
def six_devices(monkeypatch):
    devices = jax.devices()[:6]
    monkeypatch.setattr(jax, "devices", lambda *_: devices)


def gathered_sizes(program: str) -> list[int]:
    """Returns how many numbers each all-gather of a compiled program makes."""
    shapes = re.findall(r"= \(?\w+\[([\d,]*)\]\S* all-gather", program)
    return [int(np.prod([int(n) for n in shape.split(",") if n])) for shape in shapes]


@pytest.mark.usefixtures("six_devices")
@pytest.mark.parametrize(("batch", "evaluated"), [(48, 48), (96, 480), (48, 512)])
def test_devices_exchange_no_images(build, batch, evaluated):
    """In training and in evaluation, on six devices; some batches do not divide over all six."""
    if not compiler_options():
        pytest.skip("the kernels are those of another platform")
    mesh = create_mesh(batch, evaluated)
    graph, params, statistics = abstract_network(build, mesh)
    optimizer, members = optax.sgd(0.1), Members(1, mesh)
    state = create_state(build, optimizer, None, members=members, seeds=[0])
    step = make_train_step(graph, optimizer, class_weights=np.ones(7, np.float32))
    images = np.zeros((batch, 48, 48, 1), np.uint8)
    records = Records(np.zeros(batch, np.int32), [""] * batch, images.__getitem__)
    source = HostInput(
        records, batch_size=batch, seeds=[0], augmentation=Augmentation(), members=members
    )
    _, program = Programs(step, state, source, members)._fitting(1)
    a_batch_of_images = batch * 12 * 12 * 64  # The least that a convolution reads here.
    assert all(size < a_batch_of_images / 2 for size in gathered_sizes(program.as_text()))

    images = jax.ShapeDtypeStruct((evaluated, 48, 48, 1), jnp.uint8)
    predict = make_predict(graph, mesh)
    program = predict.lower(params, statistics, images).compile()
    assert all(size < evaluated * 12 * 12 * 32 for size in gathered_sizes(program.as_text()))
