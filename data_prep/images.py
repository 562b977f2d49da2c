"""Decodes image files and csv rows to images of one format, or rejects them with a reason."""

import io
import warnings
from collections.abc import Callable
from typing import NoReturn

from PIL import Image

from fer_jax.data.contract import IMAGE_SIZE, ImageFormat
from fer_jax.data.pixels import (
    UnusableError,
    name_unsupported,
    open_image,
    to_format,
    to_grey_or_rgb,
)

MAX_PIXELS = 1 << 26
"""Largest number of pixels, 67 megapixels; a picture with more is rejected before decoding."""

_LEVELS = {str(level): level for level in range(256)}


class RejectedError(Exception):
    """A file or row that cannot become an image of the data set; the message says why."""


def refuse(reason: str) -> Callable[[], NoReturn]:
    """Returns a function that raises `RejectedError(reason)` instead of loading an image."""

    def load() -> NoReturn:
        raise RejectedError(reason)

    return load


def decode(content: bytes, formats: tuple[str, ...] = ("JPEG", "PNG")) -> Image.Image:
    """Decodes the bytes of an image file.

    16 bits are scaled to 8, transparency is ignored, and the EXIF orientation is applied. A JPEG
    with several pictures (MPO) gives its first.

    Args:
      content: the bytes.
      formats: Pillow's names of the formats that are taken; empty: all that `predict` reads.

    Returns:
      An image of mode "L" (uint8 grey) or "RGB", of any size.

    Raises:
      RejectedError: the content is empty, of another format, damaged, truncated, animated or too
        large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about files that it can still read.
            return _decode(content, formats)
    except RejectedError:
        raise
    except UnusableError as error:
        raise RejectedError(str(error)) from None
    except Image.UnidentifiedImageError:
        name = name_unsupported(content[:64])
        kind = " or ".join(formats) if formats else "readable"
        raise RejectedError(f"not a {kind} image{name and f', but {name}'}") from None
    except Exception as error:  # Pillow's decoders raise almost any class on damaged data.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RejectedError(f"damaged or truncated: {reason}") from None


def _decode(content: bytes, formats: tuple[str, ...]) -> Image.Image:
    image = open_image(io.BytesIO(content), formats)
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise RejectedError(f"{width}x{height} pixels, more than {MAX_PIXELS:,}")
    # A camera's JPEG can have more pictures behind the first: Pillow calls it MPO.
    if image.format != "MPO" and (frames := getattr(image, "n_frames", 1)) > 1:
        raise RejectedError(f"animated: {frames} frames")
    return to_grey_or_rgb(image)


def from_pixels(text: str) -> Image.Image:
    """Builds an image from the `pixels` of a csv row: 48·48 grey levels, row by row.

    Returns:
      An image of mode "L" and size 48x48.

    Raises:
      RejectedError: the count is wrong or a pixel is not a whole number from 0 to 255.
    """
    levels = text.split()
    if len(levels) != IMAGE_SIZE**2:
        raise RejectedError(f"{len(levels)} pixels, not {IMAGE_SIZE**2}")
    try:
        content = bytes([_LEVELS[level] for level in levels])
    except KeyError as error:
        bad = str(error.args[0])
        raise RejectedError(
            f"pixel {levels.index(bad) + 1} is {bad[:20]!r}, not a whole number from 0 to 255"
        ) from None
    return Image.frombytes("L", (IMAGE_SIZE, IMAGE_SIZE), content)


def fit(image: Image.Image, images: ImageFormat, resize: bool) -> Image.Image:
    """Returns the image in the data set's format.

    Raises:
      RejectedError: the image has another size, and `resize` is false.
    """
    if not resize and image.size != (images.size, images.size):
        width, height = image.size
        raise RejectedError(
            f"{width}x{height} pixels, not {images.size}x{images.size} (--resize scales it)"
        )
    return to_format(image, images)
