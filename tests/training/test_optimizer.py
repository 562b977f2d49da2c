"""Optimisers and the plateau rule against Keras's."""

import keras
import numpy as np
import optax
import pytest

from fer_jax.config import default_config
from fer_jax.errors import UserError
from fer_jax.training.optimizer import (
    create_optimizer,
    create_plateau,
    create_schedule,
    stagnates,
)


def configured(**changes):
    config = default_config()
    config.update(changes)
    return config


KERAS = {
    "adam": lambda: keras.optimizers.Adam(0.01),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1, epsilon=1e-7),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.01),
    "sgd": lambda: keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True),
}


@pytest.mark.parametrize("name", KERAS)
def test_updates_equal_keras(name):
    rng = np.random.default_rng(0)
    start = rng.normal(size=(4, 3)).astype(np.float32)
    gradients = rng.normal(size=(12, 4, 3)).astype(np.float32)
    config = configured(optimizer=name, weight_decay=0.1 if name == "adamw" else 0.0)
    optimizer = create_optimizer(config, optax.constant_schedule(0.01))
    params = {"kernel": start}
    state = optimizer.init(params)
    variable, reference = keras.Variable(start), KERAS[name]()
    for gradient in gradients:
        updates, state = optimizer.update({"kernel": gradient}, state, params)
        params = optax.apply_updates(params, updates)
        reference.apply([keras.ops.array(gradient)], [variable])
    assert np.abs(params["kernel"] - start).max() > 0.01
    np.testing.assert_allclose(params["kernel"], variable.value, rtol=2e-5, atol=1e-6)


def test_decay_shrinks_kernels_and_leaves_biases():
    for name in ("sgd", "adamw"):
        config = configured(optimizer=name, weight_decay=0.1)
        optimizer = create_optimizer(config, optax.constant_schedule(0.5))
        params = {"kernel": np.ones((2, 2)), "bias": np.ones(2)}
        zeros = {key: np.zeros_like(value) for key, value in params.items()}
        updates, _ = optimizer.update(zeros, optimizer.init(params), params)
        assert (updates["kernel"] < 0).all()
        assert (updates["bias"] == 0).all()


def test_gradients_are_clipped_by_their_global_norm():
    optimizer = create_optimizer(
        configured(optimizer="sgd", clip_norm=1.0), optax.constant_schedule(1.0)
    )
    params = {"a": np.zeros(2, np.float32), "b": np.zeros(1, np.float32)}
    gradient = {"a": np.float32([3, 0]), "b": np.float32([4])}
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    # The first Nesterov step is 1.9 times the clipped gradient.
    np.testing.assert_allclose(updates["a"], [-1.9 * 0.6, 0], rtol=1e-6)
    np.testing.assert_allclose(updates["b"], [-1.9 * 0.8], rtol=1e-6)


def test_cosine_rises_then_falls_to_zero():
    config = configured(schedule="cosine", warmup_epochs=2.0, learning_rate=0.1)
    schedule = create_schedule(config, steps_per_epoch=10, total_steps=120)
    assert float(schedule(0)) == 0
    np.testing.assert_allclose(float(schedule(10)), 0.05, rtol=1e-5)
    np.testing.assert_allclose(float(schedule(20)), 0.1, rtol=1e-5)
    np.testing.assert_allclose(float(schedule(70)), 0.05, rtol=1e-5)
    np.testing.assert_allclose(float(schedule(120)), 0, atol=1e-8)


def falling_then_flat(seed):
    rng = np.random.default_rng(seed)
    losses = 1 / np.arange(1, 60) ** 0.3 + rng.normal(0, 0.01, 59)
    losses[20:] = losses[20] + rng.uniform(-1e-4, 0.05, 39)
    return losses


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("seed", range(3))
def test_plateau_cuts_when_keras_does(seed):
    losses = falling_then_flat(seed)
    settings = {"factor": 0.2, "patience": 6, "min_delta": 1e-4}
    rule = create_plateau(configured(schedule="plateau", plateau=settings))
    state = rule.init({"kernel": np.zeros((2, 2), np.float32)})

    callback = keras.callbacks.ReduceLROnPlateau(monitor="val_loss", min_lr=0, **settings)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(1.0), "mse")
    callback.set_model(model)
    callback.on_train_begin()
    rates = []
    for epoch, loss in enumerate(losses.astype(np.float32)):
        callback.on_epoch_end(epoch, {"val_loss": loss})
        _, state = rule.update({}, state, value=loss)
        rates.append((float(state.scale), float(model.optimizer.learning_rate)))
    ours, theirs = zip(*rates, strict=True)
    assert len(set(theirs)) > 2
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


LOSSES = {
    "falling, then flat": falling_then_flat(0),
    "falling by too little at a time": 1 - 0.004 * np.minimum(np.arange(30), 15),
    "falling by as much as counts, not more": 1 - np.array([0, 0.5, 0.51, 0.511, *30 * [0.52]]),
    "rising": np.arange(1.0, 12.0),
}


@pytest.mark.parametrize("losses", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("patience", [1, 3, 8])
def test_stops_early_when_keras_does(losses, patience):
    config = configured(early_stopping_patience=patience)
    config.plateau.min_delta = 0.01
    callback = keras.callbacks.EarlyStopping("val_loss", min_delta=0.01, patience=patience)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    callback.set_model(model)
    callback.on_train_begin()
    for epoch, loss in enumerate(losses):
        callback.on_epoch_end(epoch, {"val_loss": loss})
        stops = stagnates(config, losses[: epoch + 1])
        assert stops == model.stop_training
        if stops:
            break
    assert stops
    assert not stagnates(configured(early_stopping_patience=0), losses)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "lion"}, "optimizer is 'lion'; choose one of adam"),
        ({"schedule": "cos"}, "schedule is 'cos'; choose one of constant"),
        ({"schedule": "cosine", "warmup_epochs": 25.0}, "warmup_epochs = 25.0"),
    ],
)
def test_a_wrong_choice_is_named(changes, message):
    config = configured(**changes)
    with pytest.raises(UserError, match=message):
        schedule = create_schedule(config, steps_per_epoch=10, total_steps=250)
        create_optimizer(config, schedule)
