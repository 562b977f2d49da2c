"""Metrics against scikit-learn's own functions, hand-worked numbers and the definition of ECE."""

import json

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn import metrics as sklearn_metrics

from fer_jax.reporting.metrics import (
    RESAMPLES,
    calibration_bins,
    classification_metrics,
    confidence_intervals,
    precision_recall,
    score,
    wilson_intervals,
)

CLASSES = ("angry", "happy", "sad", "neutral")


def random_predictions(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.integers(0, len(CLASSES), n)
    logits = random.normal(size=(n, len(CLASSES))) * 2 + 1.5 * np.eye(len(CLASSES))[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return probabilities.astype(np.float32), labels


def binary(confidences: list[float], correct: list[bool]) -> dict:
    """The metrics of predictions of class 0 with these confidences."""
    first = np.array(confidences)
    labels = np.where(correct, 0, 1)
    return classification_metrics(np.stack([first, 1 - first], axis=1), labels, ("a", "b"))


def test_agrees_with_scikit_learn():
    probabilities, labels = random_predictions(500)
    predicted = probabilities.argmax(axis=1)
    report = classification_metrics(probabilities, labels, CLASSES)

    assert report["n"] == 500
    assert report["accuracy"] == sklearn_metrics.accuracy_score(labels, predicted)
    assert_averages_are_scikit_learns(report, labels, predicted)
    log_loss = sklearn_metrics.log_loss(labels, probabilities)
    assert report["nll"] == pytest.approx(log_loss, rel=1e-6)
    for index, name in enumerate(CLASSES):
        precision, recall, f1, support = (
            value[0]
            for value in sklearn_metrics.precision_recall_fscore_support(
                labels, predicted, labels=[index]
            )
        )
        assert report["per_class"][name] == {
            "precision": precision,
            "recall": recall,
            "f1": f1,
            "support": support,
        }


@pytest.mark.parametrize("levels", [5, 10**6])
def test_precision_and_recall_are_scikit_learns(levels):
    """With few levels many scores are equal."""
    random = np.random.default_rng(0)
    score = (random.integers(0, levels, 300) / levels).astype(np.float32)
    truth = random.random(300) < score
    precision, recall, average = precision_recall(truth, score)
    expected = sklearn_metrics.precision_recall_curve(truth, score)
    np.testing.assert_array_equal(precision, expected[0])
    np.testing.assert_array_equal(recall, expected[1])
    assert average == sklearn_metrics.average_precision_score(truth, score)


def test_wilsons_intervals_are_scipys():
    hits, n = np.array([0, 3, 7, 1, 50, 0]), np.array([5, 5, 7, 1, 90, 1])
    expected = [
        binomtest(*pair).proportion_ci(method="wilson") for pair in zip(hits, n, strict=True)
    ]
    np.testing.assert_allclose(wilson_intervals(hits, n), expected, rtol=1e-12)


def assert_averages_are_scikit_learns(report, labels, predicted):
    f1, recall = sklearn_metrics.f1_score, sklearn_metrics.recall_score
    for key, function, average in (
        ("macro_f1", f1, "macro"),
        ("macro_recall", recall, "macro"),
        ("weighted_f1", f1, "weighted"),
    ):
        expected = function(labels, predicted, average=average, zero_division=0)
        assert report[key] == pytest.approx(expected), key


@pytest.mark.parametrize("labels", [[0, 1, 2, 2], [1, 1, 1, 1], [0, 3, 3, 0], [2, 2, 0, 3]])
@pytest.mark.parametrize("predicted", [[0, 1, 2, 3], [0, 0, 0, 0], [1, 3, 3, 1], [2, 2, 0, 3]])
def test_averages_are_over_the_classes_that_occur(labels, predicted):
    report = classification_metrics(np.eye(4)[predicted], np.array(labels), CLASSES)
    assert_averages_are_scikit_learns(report, labels, predicted)
    for index, name in enumerate(CLASSES):
        row = report["per_class"][name]
        assert (row["precision"] is None) == (index not in predicted)
        assert (row["recall"] is None) == (index not in labels)
        assert (row["f1"] is None) == (index not in {*labels, *predicted})


def test_rows_of_the_confusion_matrix_are_true_classes():
    probabilities = np.eye(3)[[1, 1, 2]]
    report = classification_metrics(probabilities, np.array([0, 1, 2]), ("a", "b", "c"))
    assert report["confusion_matrix"] == [[0, 1, 0], [0, 1, 0], [0, 0, 1]]


def test_ece_worked_by_hand():
    # Bins of 1/15. (8/15, 9/15]: 0.55 wrong, 0.6 right: |0.5 - 0.575| = 0.075 for two images.
    # (9/15, 10/15]: 0.61 right: 0.39. (13/15, 14/15]: 0.9 right, 0.9 wrong: 0.4 for two.
    report = binary([0.55, 0.6, 0.61, 0.9, 0.9], [False, True, True, True, False])
    assert report["ece"] == pytest.approx((2 * 0.075 + 0.39 + 2 * 0.4) / 5)


def test_ece_follows_its_definition():
    probabilities, labels = random_predictions(2000, seed=1)
    confidence = probabilities.max(axis=1).astype(float)
    correct = probabilities.argmax(axis=1) == labels
    expected = 0.0
    for index in range(15):
        inside = (confidence > index / 15) & (confidence <= (index + 1) / 15)
        if inside.any():
            gap = abs(correct[inside].mean() - confidence[inside].mean())
            expected += inside.mean() * gap
    report = classification_metrics(probabilities, labels, CLASSES)
    assert report["ece"] == pytest.approx(expected)
    assert report["ece"] > 0.01


def test_a_confidence_rounded_above_one_stays_in_the_last_bin():
    probabilities = np.array([[1 + 1e-6, 0], [1 - 1e-6, 0]])
    report = classification_metrics(probabilities, np.array([0, 1]), ("a", "b"))
    assert report["ece"] == pytest.approx(0.5)


def test_certain_and_right_is_perfect_certain_and_wrong_is_finite():
    right, wrong = binary([1.0], [True]), binary([1.0], [False])
    assert (right["nll"], right["ece"], right["accuracy"]) == (0, 0, 1)
    assert wrong["ece"] == 1
    assert wrong["nll"] == pytest.approx(87.3, abs=0.05)


def test_the_order_of_the_images_does_not_matter():
    probabilities, labels = random_predictions(300)
    order = np.random.default_rng(2).permutation(300)
    one = classification_metrics(probabilities, labels, CLASSES)
    other = classification_metrics(probabilities[order], labels[order], CLASSES)
    for key in ("nll", "ece"):
        assert one.pop(key) == pytest.approx(other.pop(key))
    assert one == other


def test_absent_classes_are_listed_without_numbers():
    report = classification_metrics(np.eye(4)[[1, 1]], np.array([1, 1]), CLASSES)
    assert list(report["per_class"]) == report["classes"] == list(CLASSES)
    absent = {"precision": None, "recall": None, "f1": None, "support": 0}
    assert report["per_class"]["sad"] == absent
    assert report["macro_f1"] == report["macro_recall"] == report["weighted_f1"] == 1


def test_is_plain_json_with_the_promised_keys():
    report = classification_metrics(*random_predictions(20), CLASSES)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert list(report) == [
        "n",
        "accuracy",
        "macro_f1",
        "macro_recall",
        "weighted_f1",
        "nll",
        "ece",
        "classes",
        "per_class",
        "confusion_matrix",
    ]


def test_score_is_that_of_the_report():
    probabilities, labels = random_predictions(400)
    report = classification_metrics(probabilities, labels, CLASSES)
    assert score(probabilities, labels) == (report["nll"], report["accuracy"])


def test_interval_of_the_accuracy_is_the_binomial_one():
    probabilities, labels = random_predictions(2000)
    correct = int((probabilities.argmax(axis=1) == labels).sum())
    expected = binomtest(correct, 2000).proportion_ci(method="wilson")
    assert confidence_intervals(probabilities, labels)["accuracy"] == pytest.approx(
        (expected.low, expected.high), abs=0.002
    )


def test_interval_of_the_nll_is_that_of_a_mean():
    probabilities, labels = random_predictions(2000)
    losses = -np.log(probabilities[np.arange(2000), labels].astype(float))
    margin = 1.96 * losses.std() / np.sqrt(2000)
    low, high = confidence_intervals(probabilities, labels)["nll"]
    assert (low, high) == pytest.approx((losses.mean() - margin, losses.mean() + margin), rel=0.02)


def test_intervals_are_those_of_the_metrics_drawn_again():
    probabilities, labels = random_predictions(60)
    random = np.random.default_rng(0)
    draws = [random.integers(60, size=60) for _ in range(RESAMPLES)]
    few = [classification_metrics(probabilities[d], labels[d], CLASSES) for d in draws[:300]]
    intervals = confidence_intervals(probabilities, labels)
    headlines = ["accuracy", "macro_f1", "macro_recall", "weighted_f1", "nll", "ece"]
    assert list(intervals) == headlines
    for key, (low, high) in intervals.items():
        inside = np.mean([low <= report[key] <= high for report in few])
        assert inside == pytest.approx(0.95, abs=0.04)
    assert intervals == confidence_intervals(probabilities, labels)


def test_calibration_bins_add_up_to_the_ece():
    probabilities, labels = random_predictions(700, seed=3)
    count, confidence, accuracy = calibration_bins(probabilities, labels)
    assert count.sum() == 700
    assert np.isnan(confidence[count == 0]).all()
    assert np.isnan(accuracy[count == 0]).all()
    gaps = np.nan_to_num(np.abs(accuracy - confidence))
    report = classification_metrics(probabilities, labels, CLASSES)
    assert (count * gaps).sum() / 700 == pytest.approx(report["ece"])
    assert np.nansum(count * accuracy) / 700 == pytest.approx(report["accuracy"])
    full = np.flatnonzero(count)
    assert (confidence[full] > full / 15).all()
    assert (confidence[full] <= (full + 1) / 15).all()


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        (np.zeros((0, 2)), np.zeros(0, int), r"no predictions.*\(0, 2\)"),
        ([[0.5, np.nan]], [0], "row 0.*nan"),
        ([[0.5, 0.5], [np.inf, 0]], [0, 0], "row 1.*inf"),
        ([[3.2, -2.2]], [0], "row 0.*-2.2"),
        ([[0.5, 0.6]], [0], "row 0.*0.6"),
        ([[0.5, 0.5]], [0, 1], r"\(1, 2\).*\(2,\)"),
        ([[0.2, 0.3, 0.5]], [0], r"\(1, 3\).*2 classes"),
        ([[0.5, 0.5]], [2], "label 2"),
        ([[0.5, 0.5]], [-1], "label -1"),
    ],
)
def test_what_cannot_be_measured_is_refused(probabilities, labels, message):
    with pytest.raises(ValueError, match=message):
        classification_metrics(np.array(probabilities), np.array(labels), ("a", "b"))
