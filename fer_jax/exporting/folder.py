"""Model folders: weights and config in the two files that model hubs keep, and fer_jax reads."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from fer_jax.data.records import Records
from fer_jax.exporting.inference_form import in_float32
from fer_jax.inference.model_folder import write_model_folder
from fer_jax.inference.trained import TrainedModel, load_trained


def export_folder(folder: Path, run: Mapping[str, Any], model: TrainedModel) -> None:
    """Writes a model folder in float32.

    Args:
      folder: the folder; it is created.
      run: content of the run's config.json.
      model: the run's model. Its views become those of the folder.
    """
    config = {**run["config"], "views": model.views}
    write_model_folder(
        folder,
        {**run, "config": config},
        model.networks,
        steps=model.steps,
        temperature=model.temperature,
    )


def run_folder(folder: Path) -> Callable[[UInt8[np.ndarray, "n size size channels"]], Any]:
    """Returns the function from images to probabilities of the model in a folder, in float32."""
    model = in_float32(load_trained(folder))

    def predict(
        images: UInt8[np.ndarray, "n size size channels"],
    ) -> Float[np.ndarray, "n classes"]:
        count = len(images)
        return model.probabilities(
            Records(np.zeros(count, np.int32), [""] * count, images.__getitem__)
        )

    return predict
