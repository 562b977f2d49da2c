"""Classification metrics from predicted probabilities."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

_ECE_BINS = 15


def classification_metrics(
    probabilities: Float[np.ndarray, "n classes"],
    labels: Int[np.ndarray, " n"],
    classes: Sequence[str],
) -> dict[str, Any]:
    """Returns the metrics of `n` predictions as plain numbers, ready for JSON.

    The keys: `n`; `accuracy`; `macro_f1`, the mean over all `classes`, those without images
    included as 0; `weighted_f1`, the mean weighted by support; `nll`, the mean of -log p(label) in
    nats; `ece`, see below; `classes`; `per_class`, `{class: {precision, recall, f1, support}}`,
    where 0 / 0 is 0; and `confusion_matrix`, whose row is the true class and column the predicted.
    Fractions lie in [0, 1].

    The expected calibration error is that of Guo et al., "On Calibration of Modern Neural
    Networks" (2017), with 15 equal-width bins, open on the left, of the probability of the
    predicted class: the mean over images of |accuracy - mean confidence| of the image's bin.

    A probability of zero counts in `nll` as the smallest normal float32, 87.3 nats.

    Args:
      probabilities: rows that sum to 1, one column per class.
      labels: indices into `classes`.
      classes: names, in the order of the columns.

    Raises:
      ValueError: nothing to measure, shapes or labels that do not fit, or rows that are no
        probabilities.
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    probabilities, labels = np.asarray(probabilities, np.float64), np.asarray(labels)
    _check(probabilities, labels, classes)

    predicted = probabilities.argmax(axis=1)
    correct = predicted == labels
    indices = np.arange(len(classes))
    per_class = np.stack(
        precision_recall_fscore_support(labels, predicted, labels=indices, zero_division=0), axis=1
    )
    f1, support = per_class[:, 2], per_class[:, 3]
    p_label = probabilities[np.arange(len(labels)), labels]
    return {
        "n": len(labels),
        "accuracy": float(correct.mean()),
        "macro_f1": float(f1.mean()),
        "weighted_f1": float(np.average(f1, weights=support)),
        "nll": float(-np.log(np.maximum(p_label, np.finfo(np.float32).tiny)).mean()),
        "ece": _expected_calibration_error(probabilities.max(axis=1), correct),
        "classes": list(classes),
        "per_class": {
            name: {
                "precision": float(row[0]),
                "recall": float(row[1]),
                "f1": float(row[2]),
                "support": int(row[3]),
            }
            for name, row in zip(classes, per_class, strict=True)
        },
        "confusion_matrix": confusion_matrix(labels, predicted, labels=indices).tolist(),
    }


def _check(probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> None:
    if labels.ndim != 1 or probabilities.shape != (len(labels), len(classes)):
        raise ValueError(
            f"probabilities of shape {probabilities.shape} do not fit labels of shape "
            f"{labels.shape} and {len(classes)} classes"
        )
    if len(labels) == 0:
        raise ValueError(f"no predictions to measure: probabilities of shape {probabilities.shape}")
    outside = (labels < 0) | (labels >= len(classes))
    if outside.any():
        raise ValueError(f"label {labels[outside][0]} is not one of {len(classes)} classes")
    # One part in a hundred lets bfloat16 pass and stops logits. NaN fails every comparison.
    fine = (probabilities >= 0).all(axis=1) & (np.abs(probabilities.sum(axis=1) - 1) < 0.01)
    if not fine.all():
        row = int(np.argmin(fine))
        raise ValueError(f"row {row} holds no probabilities that sum to 1: {probabilities[row]}")


def _expected_calibration_error(
    confidence: Float[np.ndarray, " n"], correct: Bool[np.ndarray, " n"]
) -> float:
    # Rounding may leave a confidence a little above 1: it belongs in the last bin.
    bins = np.minimum(np.ceil(confidence * _ECE_BINS).astype(int), _ECE_BINS)
    # |sum of (correct - confidence)| over a bin is its size times its gap.
    gaps = np.bincount(bins, weights=correct - confidence)
    return float(np.abs(gaps).sum() / len(confidence))
