"""Opens pictures of any format and converts them to the networks' input."""

import os

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from fer_jax.data.contract import IMAGE_SIZE, to_eight_bits
from fer_jax.errors import UserError


class UnreadableError(UserError):
    """A file that is not a readable picture; `reason` is the message without the file's name."""

    def __init__(self, path: str | os.PathLike, reason: str):
        super().__init__(f"cannot read {os.fspath(path)}: {reason}")
        self.reason = reason


def open_picture(path: str | os.PathLike) -> Image.Image:
    """Decodes a file of any format that Pillow reads; for an animation, its first frame.

    Returns:
      A picture of mode "L" (grey) or "RGB" with 8 bits. The EXIF orientation is applied and
      transparency is ignored.

    Raises:
      UnreadableError: the file is missing, damaged, truncated or not a picture.
    """
    try:
        with Image.open(path) as file:
            return to_grey_or_rgb(ImageOps.exif_transpose(file))
    except UnidentifiedImageError:
        raise UnreadableError(path, "not a picture, or damaged") from None
    except Exception as error:  # Pillow's decoders raise almost any class on damaged data.
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UnreadableError(path, reason or type(error).__name__) from None


def to_grey_or_rgb(picture: Image.Image) -> Image.Image:
    """Converts a picture of any mode to 8 bits per channel, "L" or "RGB"."""
    if picture.mode.startswith("I"):  # Pillow's own conversion would clip at 255.
        return Image.fromarray(to_eight_bits(np.asarray(picture)))
    return picture.convert("L" if picture.mode in ("1", "L", "LA") else "RGB")


def to_input(picture: Image.Image) -> UInt8[np.ndarray, "48 48 1"]:
    """Converts a face to grey (ITU-R 601 luma) and resizes it to 48x48 with the Lanczos filter.

    The training data were prepared with the same filter. Its support grows with the reduction, so
    that a large photograph is averaged instead of sampled at every twentieth pixel.
    """
    grey = picture.convert("L").resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.LANCZOS)
    return np.asarray(grey)[:, :, None]
