"""Temperature scaling: makes confidences match accuracy.

Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
"""

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize_scalar
from scipy.special import softmax

from fer_jax.data.records import Records
from fer_jax.inference.probabilities import make_logits
from fer_jax.inference.trained import TrainedModel
from fer_jax.reporting.metrics import score

_LEAST, _GREATEST = 0.05, 20.0  # temperatures


def logits_of_views(model: TrainedModel, records: Records) -> Float[np.ndarray, "n parts classes"]:
    """Returns the logits of each view of each image by each member: `parts` of them per image."""
    members = model.apply_each(make_logits(model.graph, model.mesh, model.views), records)
    return np.concatenate(members, axis=1)


def scaled_probabilities(
    logits: Float[np.ndarray, "n parts classes"], temperature: float
) -> Float[np.ndarray, "n classes"]:
    """Returns the mean over the parts of softmax(logits / temperature)."""
    return softmax(np.float64(logits) / temperature, axis=-1).mean(axis=1)


def fit_temperature(
    logits: Float[np.ndarray, "n parts classes"], labels: Int[np.ndarray, " n"]
) -> float:
    """Returns the temperature, from 0.05 to 20, with the lowest NLL of `scaled_probabilities`.

    Args:
      logits: of images that the network was not trained on, see `logits_of_views`.
      labels: their classes.
    """
    result = minimize_scalar(
        lambda log: score(scaled_probabilities(logits, np.exp(log)), labels)[0],
        bounds=(np.log(_LEAST), np.log(_GREATEST)),
        method="bounded",
    )
    return float(np.exp(result.x))


def cross_fitted_probabilities(
    logits: Float[np.ndarray, "n parts classes"], labels: Int[np.ndarray, " n"]
) -> Float[np.ndarray, "n classes"]:
    """Returns probabilities whose temperature was fitted on other images: on the other half.

    The halves are the images of even and of odd number.
    """
    probabilities = np.empty(logits[:, 0].shape)
    for fold in (0, 1):
        temperature = fit_temperature(logits[1 - fold :: 2], labels[1 - fold :: 2])
        probabilities[fold::2] = scaled_probabilities(logits[fold::2], temperature)
    return probabilities
