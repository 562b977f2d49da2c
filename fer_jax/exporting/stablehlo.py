"""StableHLO files: the prediction as a program that JAX runs without Flax and without this package.

A file is a zip archive of two entries: `program`, which `jax.export.deserialize` reads, and
`metadata.json`, which says what the program takes and returns.
"""

import functools
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export
from jaxtyping import Float, UInt8

from fer_jax.errors import UserError
from fer_jax.exporting.inference_form import (
    describe,
    make_prediction,
    symbolic_images,
    weights_of,
)
from fer_jax.inference.trained import TrainedModel
from fer_jax.kernels.context import standard_operations

PLATFORMS = ("cpu", "cuda", "tpu")
_PROGRAM, _METADATA = "program", "metadata.json"


def export_prediction(
    model: TrainedModel, platforms: tuple[str, ...] = PLATFORMS
) -> export.Exported:
    """Returns the program from UInt8[batch, size, size, channels] to Float[batch, classes].

    The weights are constants inside, and the batch size is symbolic.

    Args:
      model: the model.
      platforms: the kinds of devices that the program is for, a choice of `PLATFORMS`.
    """
    predict = make_prediction(model, views_at_once=False)
    function = jax.jit(functools.partial(predict, weights_of(model)))
    with standard_operations():
        return export.export(function, platforms=platforms)(symbolic_images(model))


def export_stablehlo(model: TrainedModel) -> bytes:
    """Returns the content of a StableHLO file."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr(_METADATA, json.dumps(describe(model), indent=2) + "\n")
        file.writestr(_PROGRAM, bytes(export_prediction(model).serialize()))
    return content.getvalue()


def run_stablehlo(path: Path) -> Any:
    """Returns the function from images to probabilities in a file, on this machine's devices."""
    try:
        with zipfile.ZipFile(path) as file:
            exported = export.deserialize(bytearray(file.read(_PROGRAM)))
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise UserError(f"{path} is no StableHLO file of fer_jax: {error}") from error
    call = jax.jit(exported.call)

    def predict(
        images: UInt8[np.ndarray, "n size size channels"],
    ) -> Float[np.ndarray, "n classes"]:
        return np.asarray(call(images))

    return predict
