"""Labels that are probably wrong, by the predictions of a network that has not seen them."""

import numpy as np
from jaxtyping import Float, Int


def contradicted(
    probabilities: Float[np.ndarray, "n classes"], labels: Int[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"]]:
    """Finds labels that out-of-fold predictions contradict with confidence.

    It is confident learning (Northcutt et al., "Confident Learning: Estimating Uncertainty in
    Dataset Labels", JAIR 2021), in its form that takes the off-diagonals of the confident joint. A
    class is likely for an image if its probability is at least the mean over the images with that
    label. A label is contradicted if the likeliest such class is another one, and the most probable
    class is, too.

    Args:
      probabilities: predictions of a network that was not trained on these images.
      labels: class index of each image.

    Returns:
      The images, those with the least probable labels first, and the class that each likely has.
    """
    thresholds = np.full(probabilities.shape[1], np.inf)  # A class without images is never likely.
    for label in np.unique(labels):
        thresholds[label] = probabilities[labels == label, label].mean()
    # Of equal probabilities, rounding must not make one fall below their mean.
    likely = np.where(probabilities >= thresholds - 1e-6, probabilities, -1)
    guesses = likely.argmax(axis=1)
    wrong = (likely.max(axis=1) >= 0) & (guesses != labels)
    wrong &= probabilities.argmax(axis=1) != labels
    indices = np.flatnonzero(wrong)
    own = probabilities[indices, labels[indices]]
    indices = indices[np.argsort(own - probabilities[indices].max(axis=1), kind="stable")]
    return indices, guesses[indices]
