"""Classification metrics of predicted probabilities."""

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

_ECE_BINS = 15

RESAMPLES = 2000
"""Number of bootstrap resamples in `confidence_intervals`."""


def score(
    probabilities: Float[np.ndarray, "n classes"], labels: Int[np.ndarray, " n"]
) -> tuple[float, float]:
    """Returns `nll` and `accuracy` of `classification_metrics`."""
    correct = probabilities.argmax(axis=1) == labels
    return float(_losses(probabilities, labels).mean()), float(correct.mean())


def classification_metrics(
    probabilities: Float[np.ndarray, "n classes"],
    labels: Int[np.ndarray, " n"],
    classes: Sequence[str],
) -> dict[str, Any]:
    """Returns the metrics of `n` predictions as plain numbers, ready for JSON.

    The keys are:
      n: number of images.
      accuracy: fraction of correct predictions.
      macro_f1: mean F1 over the classes that occur in the labels or the predictions, as in
        scikit-learn.
      macro_recall: mean recall over the same classes; one without images counts as 0.
      weighted_f1: mean F1, weighted by support.
      nll: mean of -log p(label) in nats; a probability of zero counts as the smallest normal
        float32, 87.3 nats.
      ece: expected calibration error (Guo et al., "On Calibration of Modern Neural Networks",
        2017): the mean over images of |accuracy - mean confidence| of the image's bin. The 15
        equal-width bins of confidence are open on the left.
      classes: names.
      per_class: `{class: {precision, recall, f1, support}}`, where 0 / 0 is None.
      confusion_matrix: counts, with a row per true class and a column per predicted class.
    Fractions lie in [0, 1].

    Args:
      probabilities: rows that sum to 1, one column per class.
      labels: indices into `classes`.
      classes: names, in the order of the columns.

    Raises:
      ValueError: there are no images, shapes or labels do not fit, or a row holds no probabilities.
    """
    probabilities, labels = np.asarray(probabilities, np.float64), np.asarray(labels)
    _check(probabilities, labels, classes)
    images = _per_image(probabilities, labels)
    matrix = _confusion_matrix(images.cell, len(classes))
    correct, support, predicted = matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)
    wholes = {"precision": predicted, "recall": support, "f1": (support + predicted) / 2}
    return {
        "n": len(labels),
        **_headline(images, len(classes)),
        "classes": list(classes),
        "per_class": {
            name: {
                key: float(correct[index] / whole[index]) if whole[index] else None
                for key, whole in wholes.items()
            }
            | {"support": int(support[index])}
            for index, name in enumerate(classes)
        },
        "confusion_matrix": matrix.tolist(),
    }


def confidence_intervals(
    probabilities: Float[np.ndarray, "n classes"], labels: Int[np.ndarray, " n"]
) -> dict[str, tuple[float, float]]:
    """Returns the 95 % interval of each headline figure of `classification_metrics`.

    These are percentile intervals of the bootstrap over images (Efron, "Bootstrap Methods: Another
    Look at the Jackknife", 1979) with `RESAMPLES` resamples, which depend only on `n`. They show
    the variation between sets of test images, not between training runs.
    """
    images, classes = _per_image(probabilities, labels), probabilities.shape[1]
    random = np.random.default_rng(0)
    resampled = []
    for _ in range(RESAMPLES):
        drawn = random.integers(len(labels), size=len(labels))
        resampled.append(_headline(_PerImage(*(values[drawn] for values in images)), classes))
    return {
        key: tuple(np.quantile([headline[key] for headline in resampled], (0.025, 0.975)).tolist())
        for key in resampled[0]
    }


def calibration_bins(
    probabilities: Float[np.ndarray, "n classes"], labels: Int[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " bins"], Float[np.ndarray, " bins"], Float[np.ndarray, " bins"]]:
    """Returns count, mean confidence and accuracy of each bin of the expected calibration error.

    Confidence and accuracy lie in [0, 1] and are NaN for an empty bin.
    """
    images = _per_image(probabilities, labels)
    count, confidence, gap = (
        np.bincount(images.bin, weights=weights, minlength=_ECE_BINS)
        for weights in (None, images.confidence, images.gap)
    )
    occupied = np.where(count > 0, count, np.nan)
    return count, confidence / occupied, (confidence + gap) / occupied


# scikit-learn and scipy.stats have the next two as well, but take 1.4 seconds to import.


def precision_recall(
    truth: Bool[np.ndarray, " n"], score: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"], float]:
    """Returns precision and recall at each threshold, and the average precision.

    As in scikit-learn: recall falls, the last point is (1, 0), and the average is the sum of the
    precisions weighted by the steps of recall, without interpolation.

    Args:
      truth: whether an image is of the class; some are.
      score: its score.
    """
    order = np.argsort(-score, kind="stable")
    last = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)  # Of equal scores.
    hits = np.cumsum(truth[order], dtype=np.float64)[last]
    precision = np.append((hits / (last + 1))[::-1], 1.0)
    recall = np.append((hits / hits[-1])[::-1], 0.0)
    return precision, recall, float(-np.sum(np.diff(recall) * precision[:-1]))


def wilson_intervals(
    hits: Int[np.ndarray, " k"], n: Int[np.ndarray, " k"]
) -> Float[np.ndarray, "k 2"]:
    """Returns Wilson's 95 % interval of each share `hits / n`.

    Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927.
    """
    z = NormalDist().inv_cdf(0.975)
    share = hits / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    low = np.where(hits == 0, 0.0, centre - reach)
    return np.stack([low, np.where(hits == n, 1.0, centre + reach)], axis=1)


class _PerImage(NamedTuple):
    """The contribution of each image to the headline figures."""

    cell: Int[np.ndarray, " n"]  # index into the flattened confusion matrix
    loss: Float[np.ndarray, " n"]  # nats
    confidence: Float[np.ndarray, " n"]
    gap: Float[np.ndarray, " n"]  # (1 if correct, else 0) - confidence
    bin: Int[np.ndarray, " n"]  # index of the confidence's bin


def _per_image(probabilities: np.ndarray, labels: np.ndarray) -> _PerImage:
    predicted = probabilities.argmax(axis=1)
    confidence = probabilities.max(axis=1).astype(np.float64)
    bins = np.ceil(confidence * _ECE_BINS).astype(int) - 1
    return _PerImage(
        cell=labels * probabilities.shape[1] + predicted,
        loss=_losses(probabilities, labels),
        confidence=confidence,
        gap=(predicted == labels) - confidence,
        # Rounding can leave a confidence slightly above 1. It belongs in the last bin.
        bin=np.minimum(bins, _ECE_BINS - 1),
    )


def _headline(images: _PerImage, classes: int) -> dict[str, float]:
    n = len(images.cell)
    matrix = _confusion_matrix(images.cell, classes)
    correct, support, predicted = matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)
    occurs = support + predicted > 0
    f1 = _divide(2 * correct, support + predicted)
    # The absolute sum of the gaps in a bin is the bin's size times its gap.
    gaps = np.bincount(images.bin, weights=images.gap)
    return {
        "accuracy": float(matrix.trace() / n),
        "macro_f1": float(f1[occurs].mean()),
        "macro_recall": float(_divide(correct, support)[occurs].mean()),
        "weighted_f1": float(f1 @ support / n),
        "nll": float(images.loss.mean()),
        "ece": float(np.abs(gaps).sum() / n),
    }


def _losses(probabilities: np.ndarray, labels: np.ndarray) -> Float[np.ndarray, " n"]:
    likelihoods = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return -np.log(np.maximum(likelihoods, np.finfo(np.float32).tiny))


def _confusion_matrix(cell: np.ndarray, classes: int) -> Int[np.ndarray, "classes classes"]:
    return np.bincount(cell, minlength=classes**2).reshape(classes, classes)


def _divide(part: np.ndarray, whole: np.ndarray) -> Float[np.ndarray, " classes"]:
    return part / np.maximum(whole, 1)  # 0 / 0 is 0.


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
    # A tolerance of 1 % accepts bfloat16 and rejects logits. NaN fails every comparison.
    fine = (probabilities >= 0).all(axis=1) & (np.abs(probabilities.sum(axis=1) - 1) < 0.01)
    if not fine.all():
        row = int(np.argmin(fine))
        raise ValueError(f"row {row} holds no probabilities that sum to 1: {probabilities[row]}")
