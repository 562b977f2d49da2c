"""Temperature scaling against logits whose calibration is known."""

import numpy as np
import pytest
from scipy.special import softmax

from fer_jax.data.records import open_data_set
from fer_jax.inference.calibration import (
    cross_fitted_probabilities,
    fit_temperature,
    logits_of_views,
    scaled_probabilities,
)
from fer_jax.inference.trained import load_trained
from fer_jax.reporting.metrics import classification_metrics


def overconfident(n: int, factor: float):
    """Returns logits that are `factor` times too large, in one part, and labels."""
    random = np.random.default_rng(0)
    logits = 2 * random.normal(size=(n, 1, 4))
    labels = [random.choice(4, p=p) for p in softmax(logits[:, 0], axis=-1)]
    return factor * logits, np.array(labels)


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_finds_the_factor_by_which_logits_are_too_large(factor):
    assert fit_temperature(*overconfident(20_000, factor)) == pytest.approx(factor, rel=0.05)


def test_cross_fitting_calibrates_images_that_it_was_not_fitted_on():
    logits, labels = overconfident(4_000, 3.0)

    def ece(probabilities):
        return classification_metrics(probabilities, labels, "abcd")["ece"]

    assert ece(scaled_probabilities(logits, 1.0)) > 0.15
    assert ece(cross_fitted_probabilities(logits, labels)) < 0.03
    # Each half has the other's temperature.
    first = fit_temperature(logits[1::2], labels[1::2])
    np.testing.assert_array_equal(
        cross_fitted_probabilities(logits, labels)[::2], scaled_probabilities(logits[::2], first)
    )


@pytest.mark.parametrize("views", ["flip", "ten_crop"])
def test_probabilities_are_those_of_the_model_at_its_temperature(
    views, trained_workdir, tiny_data_dir
):
    records = open_data_set(tiny_data_dir).load("public_test")
    model = load_trained(trained_workdir, views=views)
    logits = logits_of_views(model, records)
    assert logits.shape == (35, {"flip": 2, "ten_crop": 10}[views], 7)
    np.testing.assert_allclose(
        scaled_probabilities(logits, 1.0), model.probabilities(records), atol=1e-6
    )
