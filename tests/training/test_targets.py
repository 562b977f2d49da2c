"""Targets from votes, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.config import default_config
from fer_jax.data.records import Records
from fer_jax.errors import UserError
from fer_jax.training.targets import TARGETS, choose_targets

VOTES = np.array([[0.6, 0.4, 0, 0], [0.1, 0.35, 0.35, 0.1], [0.2, 0.2, 0.1, 0.25]], np.float32)
LABELS = np.array([0, 1, 3], np.int32)
LOGITS = np.array([[2, 1, 0, -1], [0.5, -1, 1, 3], [0, 0, 4, 1]], np.float32)
BATCH = {"label": jnp.array(LABELS), "votes": jnp.array(VOTES)}


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def loss(name, key=0):
    targets = TARGETS[name]
    wanted = targets.of(BATCH, 4, jax.random.key(key))
    return np.asarray(wanted), np.asarray(targets.loss(jnp.array(LOGITS), wanted))


def test_majority_is_the_cross_entropy_of_the_label():
    _, found = loss("majority")
    np.testing.assert_allclose(found, -log_softmax(LOGITS)[range(3), LABELS], rtol=1e-5)


def test_probability_is_the_cross_entropy_of_the_shares():
    wanted, found = loss("probability")
    shares = VOTES / VOTES.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(wanted, shares, rtol=1e-6)
    np.testing.assert_allclose(found, -(shares * log_softmax(LOGITS)).sum(axis=1), rtol=1e-5)


def test_drawn_labels_have_the_votes_frequencies():
    draw = jax.vmap(lambda key: TARGETS["drawn"].of(BATCH, 4, key))
    wanted = np.asarray(draw(jax.random.split(jax.random.key(0), 4000)))
    assert set(np.unique(wanted)) == {0, 1}
    assert (wanted.sum(axis=-1) == 1).all()
    np.testing.assert_allclose(
        wanted.mean(axis=0), VOTES / VOTES.sum(axis=1, keepdims=True), atol=0.03
    )


def test_multi_takes_the_nearest_of_all_labels():
    wanted, found = loss("multi")
    # From 30 % of the votes on; the third image has none such, so the class with most votes.
    assert wanted.tolist() == [[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]]
    nearest = np.where(wanted > 0, log_softmax(LOGITS), -np.inf).max(axis=1)
    np.testing.assert_allclose(found, -nearest, rtol=1e-5)
    gradient = jax.grad(lambda x: TARGETS["multi"].loss(x, jnp.array(wanted)).sum())(LOGITS)
    assert np.isfinite(gradient).all()


def records(votes=None):
    return Records(
        LABELS, ["", "", ""], lambda indices: np.zeros((len(indices), 4, 4, 1)), votes=votes
    )


def test_votes_stay_with_the_records_only_if_they_are_used():
    config = default_config()
    assert choose_targets(config, records(VOTES))[1].votes is None
    config.targets = "drawn"
    assert choose_targets(config, records(VOTES))[1].votes is VOTES
    with pytest.raises(UserError, match="the records have no votes; prepare them with"):
        choose_targets(config, records())


@pytest.mark.parametrize("knobs", [{"mixup": 0.2}, {"label_smoothing": 0.1}])
def test_multi_goes_without_what_blurs_targets(knobs):
    config = default_config()
    config.update(targets="multi", **knobs)
    with pytest.raises(UserError, match="goes without mixup, label_smoothing and balance_classes"):
        choose_targets(config, records(VOTES))
