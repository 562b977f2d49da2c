"""Face detectors by name."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from fer_jax.errors import UserError

# On 300 faces of FER-2013, enlarged on a grey canvas, it finds as many faces as the default cascade
# with half the false positives. In the median its square matches the image to 2 %.
_CASCADE = "haarcascade_frontalface_alt2.xml"
_NEIGHBOURS = 5  # windows that must agree on a face
_SMALLEST_FACE = 24  # pixels, at the searched size
_LEAST_CONTRAST = 128  # levels between the darkest and the lightest part; with less it is stretched
_MOST_GAIN = 16  # of the contrast, so that noise in the dark stays noise

_thread_local = threading.local()  # one per thread: a cascade keeps state while it searches


class Found(NamedTuple):
    """A square around a face, in pixels from the picture's top left corner."""

    left: float
    top: float
    side: float


Detector = Callable[[Image.Image], list[Found]]
"""A function from a picture of mode "L" or "RGB" to its faces."""


def find_by_haar(picture: Image.Image) -> list[Found]:
    """Finds upright frontal faces of 24 pixels or more (Viola and Jones, CVPR 2001).

    FER-2013 was cropped by such a cascade, so the squares need no margin.
    """
    found = _cascade().detectMultiScale(
        _stretch(picture.convert("L")),
        minNeighbors=_NEIGHBOURS,
        minSize=(_SMALLEST_FACE, _SMALLEST_FACE),
    )
    return [Found(left, top, max(width, height)) for left, top, width, height in found]


def _cascade() -> cv2.CascadeClassifier:
    if not hasattr(_thread_local, "cascade"):
        path = Path(cv2.__file__).parent / "data" / _CASCADE
        _thread_local.cascade = cv2.CascadeClassifier(str(path))
    return _thread_local.cascade


def _stretch(grey: Image.Image) -> UInt8[np.ndarray, "height width"]:
    """Returns the levels of a picture, with more contrast if it is dark or pale.

    The cascade passes over all windows whose levels have a standard deviation of less than 10.
    """
    levels = np.asarray(grey)
    means = np.asarray(grey.reduce(8)).astype(int)  # Noise hardly counts; the smallest face does.
    low, contrast = means.min(), np.ptp(means)
    if contrast >= _LEAST_CONTRAST:
        return levels
    gain = min(255 / (contrast + 1), _MOST_GAIN)
    return np.clip(gain * (np.arange(256) - low), 0, 255).round().astype(np.uint8)[levels]


DETECTORS: dict[str, Detector] = {"haar": find_by_haar}
"""Detectors by name, the value of --detector."""

DEFAULT = "haar"


def choose_detector(name: str) -> Detector:
    """Returns the detector with this name.

    Raises:
      UserError: there is none.
    """
    if name not in DETECTORS:
        raise UserError(f"there is no detector {name!r}; choose one of {', '.join(DETECTORS)}")
    return DETECTORS[name]
