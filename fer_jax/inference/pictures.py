"""Opens pictures as people keep them, and makes of one what the networks read."""

import os

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from fer_jax.data.contract import IMAGE_SIZE
from fer_jax.errors import UserError


class UnreadableError(UserError):
    """A file that holds no picture. `reason` says why, without the file's name."""

    def __init__(self, path: str | os.PathLike, reason: str):
        super().__init__(f"cannot read {os.fspath(path)}: {reason}")
        self.reason = reason


def open_picture(path: str | os.PathLike) -> Image.Image:
    """Decodes a file of any format that Pillow reads, of an animation its first frame.

    Returns:
      A picture of mode "L" (grey) or "RGB", 8 bits, upright as its EXIF orientation says;
      transparency is ignored.

    Raises:
      UnreadableError: there is no such file, or it is damaged, truncated or no picture.
    """
    try:
        with Image.open(path) as file:
            return to_eight_bits(ImageOps.exif_transpose(file))
    except UnidentifiedImageError:
        raise UnreadableError(path, "not a picture, or damaged") from None
    except Exception as error:  # Pillow's decoders raise almost any class on damaged data.
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UnreadableError(path, reason or type(error).__name__) from None


def to_eight_bits(picture: Image.Image) -> Image.Image:
    """Converts a picture of any mode to "L" or "RGB"; 16 bits are scaled to 8."""
    if picture.mode.startswith("I"):  # Pillow's own conversion would clip at 255.
        return Image.fromarray((np.asarray(picture).astype(np.uint32) >> 8).astype(np.uint8))
    return picture.convert("L" if picture.mode in ("1", "L", "LA") else "RGB")


def to_input(picture: Image.Image) -> UInt8[np.ndarray, "48 48 1"]:
    """Makes a face grey (ITU-R 601 luma) and 48x48, by the filter that prepared the training data.

    Lanczos, whose support grows as the picture shrinks: without that, a large photograph would turn
    into the noise of every twentieth pixel.
    """
    grey = picture.convert("L").resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.LANCZOS)
    return np.asarray(grey)[:, :, None]
