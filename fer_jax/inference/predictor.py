"""Predicts the expressions of faces with a trained model, from Python.

Example:
  from fer_jax import Predictor

  predictor = Predictor.pretrained()  # or Predictor.from_workdir("runs/small_cnn")
  prediction = predictor(["anna.jpg", "ben.png"])
  prediction.labels, prediction.probabilities
"""

import dataclasses
import functools
import os
from collections.abc import Iterable

import jax
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from fer_jax.data.pixels import to_grey_or_rgb
from fer_jax.data.records import Records
from fer_jax.inference.detectors import DEFAULT, Detector
from fer_jax.inference.faces import Face, locate, name_label, turn_back
from fer_jax.inference.grad_cam import make_grad_cam
from fer_jax.inference.pictures import naming, open_picture, to_input
from fer_jax.inference.trained import TrainedModel, load_trained
from fer_jax.workdir import SHIPPED

Picture = Image.Image | str | os.PathLike | UInt8[np.ndarray, "..."] | UInt8[jax.Array, "..."]


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The predictions for n faces.

    Attributes:
      probabilities: one row per face and one column per class; each row sums to 1.
      classes: names, in the order of the columns.
    """

    probabilities: Float[np.ndarray, "n classes"]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.probabilities)

    @property
    def labels(self) -> list[str]:
        """The most probable class of each face."""
        return [self.classes[index] for index in self.probabilities.argmax(axis=1)]

    @property
    def confidences(self) -> Float[np.ndarray, " n"]:
        """The probability of each face's label."""
        return self.probabilities.max(axis=1)


class Predictor:
    """A trained model that maps pictures of faces to probabilities.

    Each picture counts as one face. It is converted and resized like the training data. `faces`
    finds the faces in a larger picture first.

    Attributes:
      classes: names, in the order of the probabilities.
      images: format that every picture is converted to.
      batch_size: largest number of pictures per batch.
    """

    def __init__(self, model: TrainedModel):
        self.classes = model.classes
        self.images = model.images
        self.batch_size: int = model.config.eval_batch_size
        self._model = model

    @classmethod
    def pretrained(cls) -> "Predictor":
        """Loads the model that comes with fer_jax; its card is `fer_jax/weights/README.md`."""
        return cls.from_workdir(SHIPPED)

    @classmethod
    def from_workdir(cls, workdir: str | os.PathLike, checkpoint: str = "best") -> "Predictor":
        """Loads the model that `python -m fer_jax.main` trained in `workdir`.

        Args:
          workdir: folder of the run, or a model folder (`fer_jax export --format=safetensors`); a
            path or a URL.
          checkpoint: "best", "latest" or a step.

        Raises:
          UserError: there is no such run or checkpoint.
        """
        return cls(load_trained(workdir, checkpoint))

    def __call__(self, images: Picture | Iterable[Picture]) -> Prediction:
        """Predicts one or more pictures.

        Args:
          images: a path, a PIL image or an array of grey levels or RGB, UInt8[h, w], UInt8[h, w, 1]
            or UInt8[h, w, 3]; or several of these, of any sizes; or one array UInt8[n, h, w],
            UInt8[n, h, w, 1] or UInt8[n, h, w, 3]. An array with three axes is one picture if the
            last axis is at most 4. One picture gives n = 1. Arrays are of NumPy, JAX or any library
            that converts to NumPy. A PIL image is turned by its EXIF orientation, as a file is.

        Raises:
          UserError: a file or PIL image cannot be read.
          TypeError: an array is not uint8, or an object is no picture.
          ValueError: there is no picture, or an array has another shape.
        """
        return Prediction(self._model.probabilities(self._to_records(images)), self.classes)

    def explain(
        self, images: Picture | Iterable[Picture]
    ) -> tuple[Prediction, Float[np.ndarray, "n rows columns"]]:
        """Predicts, and makes Grad-CAM heat maps of the regions that support each label.

        It uses only the image itself, without the other views that the run averages.

        Args:
          images: as for `__call__`.

        Returns:
          The prediction; and heat maps in [0, 1], each over the whole face, at the resolution of
          the network's last convolution.

        Raises:
          UserError: the network has no convolution, or a file cannot be read.
          TypeError: as for `__call__`.
          ValueError: as for `__call__`.
        """
        probabilities, heat = self._model.apply(self._grad_cam, self._to_records(images))
        return Prediction(probabilities, self.classes), heat

    def faces(
        self,
        picture: Picture,
        *,
        detector: str | Detector = DEFAULT,
        min_confidence: float = 0.0,
    ) -> list[Face]:
        """Finds the faces in a picture and predicts each.

        Args:
          picture: a path, a PIL image or an array, as for `__call__`.
          detector: a key of `fer_jax.inference.detectors.DETECTORS`, or what `choose_detector`
            there returns.
          min_confidence: a face whose highest probability is below it gets the label "unsure".

        Returns:
          The faces from left to right. Their boxes are in the pixels of the picture; for a file,
          of the picture as it is viewed, turned by its EXIF orientation.

        Raises:
          UserError: the picture cannot be read, or there is no such detector.
          TypeError: as for `__call__`.
          ValueError: as for `__call__`.
        """
        upright = _to_picture(picture)
        places = locate(upright, detector)
        if not places:
            return []
        given = picture if isinstance(picture, Image.Image) else upright
        prediction = self([place.crop(upright) for place in places])
        return [
            Face(turn_back(box, given), name_label(values, self.classes, min_confidence), values)
            for (box, _), values in zip(places, prediction.probabilities, strict=True)
        ]

    def _to_records(self, images: Picture | Iterable[Picture]) -> Records:
        """Returns the pictures as records without labels and names."""
        inputs = [to_input(_to_picture(image), self.images) for image in _list(images)]
        if not inputs:
            raise ValueError("no picture to predict")
        return Records(
            labels=np.zeros(len(inputs), np.int32),
            filenames=[""] * len(inputs),
            read=np.stack(inputs).__getitem__,
        )

    @functools.cached_property
    def _grad_cam(self):
        return make_grad_cam(self._model.graph, self._model.mesh)


def _list(images: Picture | Iterable[Picture]) -> Iterable[Picture]:
    if isinstance(images, Image.Image | str | bytes | os.PathLike):
        return [images]
    if not hasattr(images, "__array__"):
        return images
    array = np.asarray(images)
    if array.dtype.kind in "OSU":  # paths, or arrays of different sizes
        return array
    # No picture is so narrow: the last axis is the channels, though some counts are refused later.
    one = array.ndim < 3 or (array.ndim == 3 and array.shape[-1] <= 4)
    return [array] if one else array


def _to_picture(image: Picture) -> Image.Image:
    if isinstance(image, Image.Image):
        with naming(getattr(image, "filename", "") or "the picture"):
            return to_grey_or_rgb(image)
    if isinstance(image, str | os.PathLike):
        return open_picture(image)
    if not hasattr(image, "__array__"):
        kind = type(image).__name__
        raise TypeError(f"{kind}; a picture is a path, a PIL image or an array of uint8")
    array = np.asarray(image)
    if array.dtype != np.uint8:
        raise TypeError(f"an array of {array.dtype}; pictures are uint8, 0 (black) to 255 (white)")
    if array.ndim not in (2, 3) or array.shape[2:] not in ((), (1,), (3,)) or not array.size:
        raise ValueError(f"an array of shape {array.shape}; a picture is [h, w], or [h, w, 1 or 3]")
    return Image.fromarray(array[:, :, 0] if array.shape[2:] == (1,) else array)
