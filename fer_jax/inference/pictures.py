"""Opens pictures of any format and converts them to the networks' input."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from fer_jax.data.contract import ImageFormat
from fer_jax.data.pixels import (
    UnusableError,
    describe_special,
    name_unsupported,
    open_image,
    to_format,
    to_grey_or_rgb,
)
from fer_jax.errors import UserError
from fer_jax.paths import printable


class UnreadableError(UserError):
    """A file that is not a readable picture; `reason` is the message without the file's name."""

    def __init__(self, path: str | os.PathLike, reason: str):
        super().__init__(f"cannot read {printable(os.fsdecode(path))}: {reason}")
        self.reason = reason


def open_picture(path: str | os.PathLike) -> Image.Image:
    """Decodes a file of any format that Pillow reads; for an animation, its first frame.

    Returns:
      A picture of mode "L" (grey) or "RGB" with 8 bits. The EXIF orientation is applied and
      transparency is ignored.

    Raises:
      UnreadableError: the file is missing, damaged, truncated, not a picture, or no regular file,
        which is not opened.
    """
    with naming(path):
        require_regular(path)
        with open(path, "rb") as stream:
            try:
                return to_grey_or_rgb(open_image(stream))
            except UnidentifiedImageError:
                stream.seek(0)
                name = name_unsupported(stream.read(64), Path(path).suffix)
        if name == "video":
            raise UnusableError("a video; its name should end like one, as in .mp4")
        if name:
            raise UnusableError(f"{name} is not supported; convert it to JPEG or PNG")
        raise UnusableError("not a picture, or damaged")


def require_regular(path: str | os.PathLike) -> None:
    """Raises `UnusableError` for a FIFO, device, socket or folder; `OSError` if it is missing."""
    if kind := describe_special(path):
        raise UnusableError(f"{kind}, not a file")


@contextlib.contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
    """Turns every error into an `UnreadableError` that names a file."""
    try:
        yield
    except Exception as error:  # Pillow's decoders raise almost any class on damaged data.
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UnreadableError(path, reason or type(error).__name__) from None


def to_input(picture: Image.Image, images: ImageFormat) -> UInt8[np.ndarray, "size size channels"]:
    """Converts a face to the format of the images that a network was trained on."""
    pixels = np.asarray(to_format(picture, images))
    return pixels[:, :, None] if pixels.ndim == 2 else pixels
