"""Training with the shipped kernels against flax's and lax's own operations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from fer_jax.data.augment import Augmentation
from fer_jax.data.records import Records
from fer_jax.devices import compiler_options, create_mesh
from fer_jax.kernels import winograd
from fer_jax.kernels.batch_norm import BatchNorm
from fer_jax.kernels.convolution import Conv
from fer_jax.kernels.initializers import variance_scaling
from fer_jax.kernels.max_pool import max_pool
from fer_jax.models.functional import abstract_network
from fer_jax.models.layers import Classifier, flatten
from fer_jax.training.ensemble import Members
from fer_jax.training.input import HostInput
from fer_jax.training.programs import Programs
from fer_jax.training.step import create_state, make_train_step

BATCH, STEPS = 16, 4
HE = variance_scaling(2.0, "fan_in")  # Keeps the size of signals, so that faults show.


def build(*, shipped: bool, rngs: nnx.Rngs) -> Classifier:
    """A network with every kind of kernel: wide, strided and depthwise, normalised and pooled."""
    conv = Conv if shipped else nnx.Conv
    conv = functools.partial(conv, kernel_size=(3, 3), kernel_init=HE, rngs=rngs)

    def batch_norm(width: int) -> nnx.Module:
        if shipped:
            return BatchNorm(width, momentum=0.9, epsilon=1e-3, dtype=jnp.float32)
        return nnx.BatchNorm(width, momentum=0.9, epsilon=1e-3, rngs=nnx.Rngs(0))

    def pool(x: jax.Array) -> jax.Array:
        return max_pool(x, 2) if shipped else nnx.max_pool(x, (2, 2), strides=(2, 2))

    # Normalisation comes first. After a kernel it would hide a wrong scale of the result.
    features = nnx.Sequential(
        *(conv(1, 16, strides=2, use_bias=False), batch_norm(16), nnx.relu),
        *(conv(16, 16, feature_group_count=16), nnx.relu),
        *(conv(16, 64), nnx.relu, conv(64, 64), nnx.relu, pool),  # The second by Winograd.
        *(conv(64, 16, strides=2), nnx.relu),
        *(conv(16, 16, feature_group_count=16, strides=2), nnx.relu, flatten),
    )
    return Classifier(
        features,
        2 * 2 * 16,
        num_classes=7,
        channels=1,
        image_size=24,
        dtype=jnp.float32,
        kernel_init=HE,
        rngs=rngs,
    )


@pytest.fixture
def records():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3 * BATCH, 48, 48, 1), dtype=np.uint8)
    labels = np.arange(len(images), dtype=np.int32) % 7
    return Records(labels, [""] * len(images), images.__getitem__)


def train(records, *, shipped: bool):
    """Returns losses, parameters and statistics after some steps on one device."""
    members = Members(1, create_mesh(1))
    builder = functools.partial(build, shipped=shipped)
    graph, _, _ = abstract_network(builder, members.mesh)
    # Not Adam, which would amplify the rounding errors of gradients that are nearly zero.
    optimizer = optax.sgd(0.05, momentum=0.9)
    state = create_state(builder, optimizer, None, members=members, seeds=[0])
    step = make_train_step(graph, optimizer, class_weights=np.ones(7, np.float32))
    source = HostInput(
        records, batch_size=BATCH, seeds=[0], augmentation=Augmentation(flip=True), members=members
    )
    options = compiler_options() if shipped else {}
    programs = Programs(step, state, source, members, options=options)
    losses = []
    for _ in range(STEPS):
        state, loss, _ = programs.advance(state, 1)
        losses.append(loss.item())
    return losses, jax.device_get((state.params, state.statistics))


@pytest.mark.skipif(not compiler_options(), reason="the kernels are those of another platform")
def test_shipped_kernels_train_as_plain_ones_do(records, monkeypatch):
    taken = []
    convolve = winograd.convolve
    monkeypatch.setattr(
        winograd, "convolve", lambda x, *rest: taken.append(x.shape) or convolve(x, *rest)
    )
    losses, state = train(records, shipped=True)
    assert taken
    plain_losses, plain_state = train(records, shipped=False)
    assert losses == pytest.approx(plain_losses, rel=1e-5)
    jax.tree.map(
        lambda ours, plain: np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-5),
        state,
        plain_state,
    )
