"""Cuts the face out of a photograph, with the detector of `predict`."""

import math

from PIL import Image

from data_prep.images import RejectedError
from fer_jax.inference.detectors import DEFAULT, choose_detector
from fer_jax.inference.faces import locate

_detect = choose_detector(DEFAULT)


def cut_face(picture: Image.Image) -> tuple[Image.Image, str]:
    """Returns the only face in a picture of mode "L" or "RGB", and where it was.

    The place is "left,top,width,height,tilt": pixels of the picture as it is viewed, and degrees by
    which the eyes are turned clockwise. A face that is turned far is turned upright.

    Raises:
      RejectedError: there is no face, or more than one.
    """
    places = locate(picture, _detect)
    if len(places) != 1:
        raise RejectedError(f"{len(places)} faces" if places else "no face")
    box, tilt = places[0]
    return places[0].crop(picture), f"{','.join(map(str, box))},{math.degrees(tilt):.0f}"
