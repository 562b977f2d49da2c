import functools

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from fer_jax.devices import create_mesh, split_over_devices, to_devices
from fer_jax.errors import UserError
from fer_jax.models import create_model
from fer_jax.models.functional import abstract_network
from fer_jax.train import class_weights
from fer_jax.training.ensemble import Members
from fer_jax.training.step import FiniteLosses, make_end_epoch


def batches(count):
    rng = np.random.default_rng(7)
    for _ in range(count):
        labels = rng.integers(0, 7, 16).astype(np.int32)
        noise = rng.integers(0, 60, (16, 48, 48, 1))
        # Brightness follows the class, so that there is something to learn.
        yield {
            "image": (noise + 25 * labels[:, None, None, None]).astype(np.uint8),
            "label": labels,
        }


def losses_on(devices, make_mesh, start, steps=20, **options):
    mesh = make_mesh(devices)
    state, step = start(mesh, optax.adam(1e-3), **options)
    losses = []
    for batch in batches(steps):
        state, loss = step(state, to_devices(batch, split_over_devices(mesh)))
        losses.append(float(loss))
    return losses, state


@pytest.mark.parametrize("devices", [2, 4])
def test_any_number_of_devices_gives_the_losses_of_one(devices, make_mesh, start):
    alone, state = losses_on(1, make_mesh, start)
    together, shared = losses_on(devices, make_mesh, start)
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert alone[-1] < alone[0] - 0.2
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, atol=1e-3),
        jax.device_get(state.statistics),
        jax.device_get(shared.statistics),
    )


def test_loss_equals_the_formula(make_mesh, start, batch, build):
    """Cross-entropy, also with mixed images and smoothed, weighted labels, written out by hand."""
    mesh = make_mesh(1)
    weights = np.linspace(0.5, 2, 7)
    optimizer = optax.sgd(0.0)
    plain, step = start(mesh, optimizer)
    options = {"label_smoothing": 0.1, "class_weights": weights, "mixup": 0.4}
    mixed, mixed_step = start(mesh, optimizer, **options)
    at = 3  # A step that draws the smaller share.
    plain, mixed = (state.replace(step=state.step + at) for state in (plain, mixed))
    # Tiles that differ enough for the predictions to differ.
    tiles = np.random.default_rng(1).choice([0, 255], (16, 3, 3, 1)).astype(np.uint8)
    batch = batch | {"image": tiles.repeat(16, axis=1).repeat(16, axis=2)}
    graph, _, _ = abstract_network(build, mesh)
    model = nnx.merge(graph, plain.params, plain.statistics, copy=True)
    model.train()
    key = jax.random.fold_in(jax.random.wrap_key_data(plain.random_key), at)
    share = float(jax.random.beta(jax.random.fold_in(key, 1), 0.4, 0.4))
    assert 0.01 < share < 0.49
    share = 1 - share

    def log_p(images):
        logits = model(images.astype(np.float32) / 255, rngs=nnx.Rngs(dropout=key))
        return np.asarray(logits - jax.nn.logsumexp(logits, axis=1, keepdims=True), np.float64)

    def weighted(log_p, labels):
        smoothed = 0.9 * log_p[np.arange(16), labels] + 0.1 * log_p.mean(axis=1)
        return -(weights[labels] * smoothed).mean()

    images, labels = batch["image"], batch["label"]
    of_label = log_p(images)[np.arange(16), labels]
    of_mixed = log_p(share * images + (1 - share) * images[::-1])
    expected = share * weighted(of_mixed, labels) + (1 - share) * weighted(of_mixed, labels[::-1])

    _, loss = step(plain, batch)
    np.testing.assert_allclose(loss, -of_label.mean(), rtol=1e-5)
    mixed, loss = mixed_step(mixed, batch)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    right, wrong = (of_mixed.argmax(axis=1) == of for of in (labels, labels[::-1]))
    assert right.mean() != wrong.mean()
    np.testing.assert_allclose(mixed.metrics.compute()["accuracy"], right.mean())


def network(*layers):
    config = {"name": "cnn", "layers": layers}
    return functools.partial(create_model, config, num_classes=7, dtype="float32")


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_micro_batches_add_up_to_the_batch(backend, make_mesh, start, monkeypatch):
    """A CPU unrolls the loop over them. Mixing, weights and averages are those of the batch."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    build = network(("max_pool", 8), "flatten", ("dense", 8))
    options = {"label_smoothing": 0.1, "mixup": 0.4, "ema_decay": 0.9}
    weights = np.linspace(0.5, 2, 7)
    states, losses = [], []
    for accumulate in (1, 4):
        state, step = start(
            *(make_mesh(2), optax.sgd(0.1, momentum=0.9)),
            network=build,
            class_weights=weights,
            accumulate=accumulate,
            **options,
        )
        for batch in batches(5):
            state, loss = step(state, to_devices(batch, split_over_devices(make_mesh(2))))
            losses.append(float(loss))
        states.append(jax.device_get((state.params, state.ema, state.metrics.compute())))
    np.testing.assert_allclose(losses[5:], losses[:5], atol=1e-5)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), *states)


def test_micro_batches_do_not_depend_on_the_devices(make_mesh, start):
    """Not even with the statistics of batch normalisation and dropout."""
    build = network(("max_pool", 8), "batch_norm", ("dropout", 0.2), "flatten")
    options = {"steps": 4, "network": build, "accumulate": 2}
    both = [losses_on(n, make_mesh, start, **options)[0] for n in (1, 4)]
    np.testing.assert_allclose(*both, atol=1e-5)


def test_dropout_differs_from_step_to_step(make_mesh, start, batch):
    state, step = start(make_mesh(1), optax.sgd(0.0))
    state, first = step(state, batch)
    _, second = step(state, batch)
    assert first != second


def test_metrics_are_means_over_the_epoch_and_start_anew(make_mesh, start, batch):
    mesh = make_mesh(2)
    state, step = start(mesh, optax.adam(1e-3))
    losses = []
    for _ in range(3):
        state, loss = step(state, batch)
        losses.append(float(loss))
    np.testing.assert_allclose(state.metrics.compute()["loss"], np.mean(losses), rtol=1e-6)
    state = make_end_epoch(None, Members(1, mesh))(state, 1.0)
    state, loss = step(state, batch)
    np.testing.assert_allclose(state.metrics.compute()["loss"], loss, rtol=1e-6)


def test_the_state_is_consumed(make_mesh, start, batch):
    state, step = start(make_mesh(1), optax.adam(1e-3))
    step(state, batch)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


def test_a_loss_that_is_not_finite_is_named_with_its_step_and_member():
    losses = FiniteLosses()
    for step in range(1, 10):
        losses.add(step, np.array([np.inf if step == 7 else 1.0]))
    with pytest.raises(UserError, match="the loss is inf at step 7"):
        losses.check_all()
    several = np.ones((3, 5))
    several[2, 1] = several[0, 4] = np.nan
    losses = FiniteLosses()
    losses.add(100, several)
    with pytest.raises(UserError, match="the loss of member 2 is nan at step 101"):
        losses.check_all()
    late = FiniteLosses()
    with pytest.raises(UserError, match="the loss is nan at step 1"):
        for step in range(1, 30):
            late.add(step, np.array([np.nan]))
    assert step < 20


def test_class_weights_are_the_published_ones():
    """The seven figures of a published system, in the order of the class names."""
    labels = np.repeat(np.arange(7), [3995, 436, 4097, 7215, 4830, 3171, 4965])
    published = [1.0266, 9.4066, 1.0010, 0.5684, 0.8491, 1.2934, 0.8260]
    np.testing.assert_allclose(class_weights(labels, 7, balance=True), published, atol=5e-5)
    np.testing.assert_array_equal(class_weights(labels, 7, balance=False), np.ones(7))
    with pytest.raises(UserError, match="class 7"):
        class_weights(labels, 8, balance=True)


def test_batches_must_divide_over_the_devices_left_after_cores(monkeypatch):
    assert create_mesh(12, 48).size == 6
    assert create_mesh(64, 512).size == 4
    assert create_mesh(7, 512).size == 1
    assert create_mesh(64, 512, accumulate=32).size == 2
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")  # It has no device to leave out.
    with pytest.raises(UserError, match="64 / 16 and 512 do not divide over 6 devices; choose mul"):
        create_mesh(64, 512, accumulate=16)
