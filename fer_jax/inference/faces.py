"""Faces in a picture: where they are, and what is predicted for them."""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import ExifTags, Image

from fer_jax.data.pixels import to_grey_or_rgb
from fer_jax.inference.detectors import DEFAULT, Detector, choose_detector

UNSURE = "unsure"
"""The label of a face whose highest probability is below the least confidence asked for."""

_LEAST_TILT = math.radians(15)  # of a face that is turned upright before it is classified
_LONGEST_SIDE = 1280  # pixels; larger pictures are searched at this size, for speed


class Box(NamedTuple):
    """A rectangle in a picture, in whole pixels from the picture's top left corner."""

    left: int
    top: int
    width: int
    height: int

    def crop(self, picture: Image.Image) -> Image.Image:
        """Returns the part of the picture inside the box."""
        left, top, width, height = self
        return picture.crop((left, top, left + width, top + height))


@dataclasses.dataclass(frozen=True)
class Face:
    """One face of a picture.

    Attributes:
      box: the box around the face; None for the whole picture, without face detection.
      label: the most probable class, or `UNSURE`.
      probabilities: probability of each of the predictor's classes.
      heat: Grad-CAM heat map over the box; None unless requested.
    """

    box: Box | None
    label: str
    probabilities: Float[np.ndarray, " classes"]
    heat: Float[np.ndarray, "rows columns"] | None = None


def name_label(
    probabilities: Float[np.ndarray, " classes"], classes: Sequence[str], min_confidence: float
) -> str:
    """Returns the most probable class, or `UNSURE` if its probability is below the minimum."""
    best = int(probabilities.argmax())
    return classes[best] if probabilities[best] >= min_confidence else UNSURE


class Place(NamedTuple):
    """Where a face is in a picture as it is viewed.

    Attributes:
      box: a square around it.
      tilt: angle in radians by which its eyes are turned clockwise.
    """

    box: Box
    tilt: float

    def crop(self, picture: Image.Image) -> Image.Image:
        """Returns the face, turned upright."""
        if abs(self.tilt) < _LEAST_TILT:
            return self.box.crop(picture)
        side = self.box.width
        x, y = self.box.left + side / 2, self.box.top + side / 2
        cosine, sine = math.cos(self.tilt), math.sin(self.tilt)
        corner = x - side / 2 * (cosine - sine), y - side / 2 * (sine + cosine)
        matrix = cosine, -sine, corner[0], sine, cosine, corner[1]
        return picture.transform(
            (side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC
        )


def find_faces(picture: Image.Image, detector: str | Detector = DEFAULT) -> list[Box]:
    """Returns a square around each face, from left to right.

    A picture with an EXIF orientation is searched as it is viewed. The squares are in its own
    pixels nevertheless, and their crops keep the orientation. In pictures with a side of more than
    1,280 pixels the smallest face is about 2 % of that side.

    Args:
      picture: the picture.
      detector: a key of `fer_jax.inference.detectors.DETECTORS`, or what `choose_detector` returns.

    Raises:
      UserError: there is no such detector.
    """
    places = locate(to_grey_or_rgb(picture), detector)
    return [turn_back(place.box, picture) for place in places]


def locate(picture: Image.Image, detector: str | Detector) -> list[Place]:
    """Returns the places of the faces in a picture of mode "L" or "RGB", from left to right."""
    find = choose_detector(detector) if isinstance(detector, str) else detector
    scale = max(1, max(picture.size) / _LONGEST_SIDE)
    small = picture
    if scale > 1:
        size = [max(1, int(side / scale)) for side in picture.size]
        small = picture.resize(size, Image.Resampling.BOX)
    return sorted(
        Place(_square_within(picture, *(scale * n for n in square)), tilt)
        for *square, tilt in find(small)
    )


def turn_back(square: Box, picture: Image.Image) -> Box:
    """Moves a square from the picture as it is viewed to the pixels of the picture itself."""
    orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    left, top, width, height = square
    if orientation in (5, 6, 7, 8):
        left, top = top, left
    if orientation in (2, 3, 7, 8):
        left = picture.width - left - width
    if orientation in (3, 4, 6, 7):
        top = picture.height - top - height
    return Box(left, top, width, height)


def _square_within(picture: Image.Image, left: float, top: float, side: float) -> Box:
    size = min(round(side), *picture.size)
    column = min(max(round(left), 0), picture.width - size)
    row = min(max(round(top), 0), picture.height - size)
    return Box(column, row, size, size)
