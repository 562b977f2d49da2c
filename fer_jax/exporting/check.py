"""Runs a file back before it counts as written: it must give the predictor's probabilities."""

from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Float, UInt8

from fer_jax.data.records import Records
from fer_jax.errors import UserError
from fer_jax.exporting.inference_form import in_float32
from fer_jax.inference.trained import TrainedModel

TOLERANCE = 1e-4
"""Largest difference of a probability from the predictor's, both in float32."""

Images = UInt8[np.ndarray, "n size size channels"]


def largest_difference(
    predict: Callable[[Images], Float[np.ndarray, "n classes"]],
    model: TrainedModel,
    images: Images,
) -> float:
    """Returns the largest difference of a file's probabilities from the predictor's.

    Args:
      predict: function from images to probabilities that was read from the file. It gets one image,
        then all others, since a file is for every batch size.
      model: the model that was exported.
      images: two images or more.

    Raises:
      UserError: the difference is over `TOLERANCE`, or the file gives something else.
    """
    count = len(images)
    records = Records(np.zeros(count, np.int32), [""] * count, images.__getitem__)
    # On a GPU float32 products are rounded to TF32 by default.
    with jax.default_matmul_precision("highest"):
        expected = in_float32(model).probabilities(records)
        found = np.concatenate([predict(part) for part in np.split(images, [1])])
    if found.shape != expected.shape or not np.isfinite(found).all():
        raise UserError(
            f"the file gives an array {found.shape} with {np.isnan(found).sum()} NaN in place of "
            f"{expected.shape} probabilities; nothing is written. Please report this"
        )
    difference = float(np.abs(found - expected).max())
    if difference > TOLERANCE:
        raise UserError(
            f"the file's probabilities differ from the predictor's by {difference:.1e}, more than "
            f"{TOLERANCE:.0e}; nothing is written. Please report this"
        )
    return difference
