"""Answers a picture with its faces, as JSON, and says which model answers. Nothing is kept."""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from fer_jax.data.pixels import UnusableError, open_image, readable_formats, to_grey_or_rgb
from fer_jax.errors import UserError
from fer_jax.inference.detectors import DEFAULT, Detector
from fer_jax.inference.faces import Place, locate
from fer_jax.inference.pictures import naming
from fer_jax.inference.predictor import Predictor
from fer_jax.inference.trained import TrainedModel
from fer_jax.workdir import METRICS, SHIPPED, member_workdirs, read_history, read_report

MOST_BYTES = 10_000_000
"""Largest file that is accepted."""

_MOST_PIXELS = 40_000_000  # decoded, they take three bytes each
_FORMATS = ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "MPO", "PNG", "TIFF", "WEBP")


def answer(
    predictor: Predictor,
    content: bytes,
    *,
    detector: str | Detector = DEFAULT,
    explain: bool = False,
    whole: bool = False,
) -> dict[str, Any]:
    """Returns the faces of a picture, from left to right.

    Args:
      predictor: the model.
      content: the picture's file: AVIF, BMP, GIF, JPEG, PNG, TIFF or WebP.
      detector: a key of `fer_jax.inference.detectors.DETECTORS`, or what `choose_detector` returns.
      explain: whether to add Grad-CAM heat maps.
      whole: whether a picture in which no face is found counts as one face.

    Returns:
      `width` and `height` of the upright picture, and `faces`. A face has a `box` of left, top,
      width and height in pixels, or None for the whole picture; its `tilt`, radians clockwise, by
      which it is turned back before it is read; a `label`; the `probabilities` of all classes, by
      name; and with `explain` a `heat` map, rows of numbers in [0, 1] over the box, turned with it.

    Raises:
      UserError: the file is no picture that can be read, it is too large, or the network has no
        convolution to explain.
    """
    picture = _decode(content)
    places: list[Place | None] = [*locate(picture, detector)]
    if whole and not places:
        places = [None]
    # One face at a time: a batch of each size would be compiled when it is first seen.
    return {
        "width": picture.width,
        "height": picture.height,
        "faces": [_face(predictor, picture, place, explain) for place in places],
    }


def _face(
    predictor: Predictor, picture: Image.Image, place: Place | None, explain: bool
) -> dict[str, Any]:
    crop = place.crop(picture) if place else picture
    prediction, heat = predictor.explain(crop) if explain else (predictor(crop), None)
    each = zip(prediction.classes, prediction.probabilities[0], strict=True)
    face: dict[str, Any] = {
        "box": [int(side) for side in place.box] if place else None,
        "tilt": round(float(place.tilt), 3) if place else 0.0,
        "label": prediction.labels[0],
        "probabilities": {name: round(float(p), 4) for name, p in each},
    }
    return face if heat is None else {**face, "heat": np.round(heat[0], 2).tolist()}


def _decode(content: bytes) -> Image.Image:
    if len(content) > MOST_BYTES:
        raise UserError(f"the file is larger than {MOST_BYTES / 1e6:.0f} MB; send a smaller one")
    with naming("the picture"):
        formats = tuple(name for name in _FORMATS if name in readable_formats())
        try:
            picture = open_image(io.BytesIO(content), formats)
        except UnidentifiedImageError:
            raise UnusableError("not a picture that is supported; send JPEG or PNG") from None
        if picture.width * picture.height > _MOST_PIXELS:
            size = f"{picture.width}x{picture.height} pixels"
            raise UnusableError(f"{size}; at most {_MOST_PIXELS / 1e6:.0f} megapixels are read")
        return to_grey_or_rgb(picture)


def describe(workdir: Path, trained: TrainedModel) -> dict[str, Any]:
    """Returns the `classes` of the model of a run, and a line each about `model` and `accuracy`.

    The accuracy is that of the run's evaluation of this checkpoint through these views, on a test
    split if there is one; else that of the epoch's own validation.
    """
    network, steps = trained.config.model, trained.steps
    words = [network["name"], *(f"{k} {network[k]}" for k in ("depth", "width") if k in network)]
    if len(steps) > 1:
        words.append(f"{len(steps)} networks")
    name = "shipped with fer_jax" if workdir == SHIPPED else workdir.name
    model = f"{', '.join(words)}; {name}, step {max(steps):,}"
    return {"classes": trained.classes, "model": model, "accuracy": _accuracy(workdir, trained)}


def _accuracy(workdir: Path, trained: TrainedModel) -> str:
    step = max(trained.steps)
    splits = [path.parent.name for path in workdir.glob("eval/*/report.json")]
    for split in sorted(splits, key=lambda name: ("test" not in name, name)):
        report = read_report(workdir, split)
        if (report["checkpoint_step"], report["views"]) == (step, trained.views):
            accuracy, n = report["accuracy"], report["n"]
            error = math.sqrt(accuracy * (1 - accuracy) / n)
            return f"{100 * accuracy:.1f} ± {100 * error:.1f} % of the {n:,} images of {split}"
    for folder in (workdir, *member_workdirs(workdir, trained.config)):
        if (folder / METRICS).exists():
            for epoch in read_history(folder / METRICS):
                if epoch["step"] == step and epoch["val_accuracy"] is not None:
                    split = trained.config.validation_split
                    return f"{100 * epoch['val_accuracy']:.1f} % of {split}, which chose its epoch"
    return "not measured yet; see fer_jax evaluate"
