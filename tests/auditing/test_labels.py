"""Confident learning, against cleanlab."""

import numpy as np

from fer_jax.auditing.labels import contradicted

CLEANLAB = [31, 25, 21, 1, 39, 29, 36, 32, 0, 35, 3, 7]
"""`cleanlab.filter.find_label_issues(labels, probabilities, filter_by="confident_learning",
return_indices_ranked_by="normalized_margin")` of cleanlab 2.9.0, for the data below."""


def make(n=60, classes=4):
    random = np.random.default_rng(0)
    labels = random.integers(0, classes, n)
    truths = np.where(random.random(n) < 0.25, random.integers(0, classes, n), labels)
    labels[:classes] = range(classes)
    logits = random.normal(size=(n, classes)) + 2 * np.eye(classes)[truths]
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), labels


def test_it_finds_what_cleanlab_finds_in_its_order():
    probabilities, labels = make()
    indices, guesses = contradicted(probabilities, labels)
    assert indices.tolist() == CLEANLAB
    assert (guesses != labels[indices]).all()


def test_a_class_without_images_is_never_likely():
    probabilities, labels = make()
    wider = np.hstack([0.5 * probabilities, np.full((len(labels), 1), 0.5)])
    indices, guesses = contradicted(wider, labels)
    assert not {4} & {*guesses.tolist()}
    assert {*indices.tolist()} >= {*CLEANLAB}


def test_without_images_nothing_is_found():
    indices, guesses = contradicted(np.zeros((0, 3)), np.zeros(0, int))
    assert len(indices) == len(guesses) == 0
