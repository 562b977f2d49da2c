"""Opens pictures with Pillow and converts their pixels: the same for the data set and predict."""

import contextlib
import functools
import importlib.util
import os
import stat
from typing import IO

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFile, ImageOps

from fer_jax.data.contract import ImageFormat, to_eight_bits

# All that Pillow decodes itself. EPS is left out, because it starts Ghostscript; so is IPTC, which
# can hold an EPS; and so are the formats that Pillow identifies but cannot decode.
_FORMATS = (
    *("AVIF", "BLP", "BMP", "CUR", "DCX", "DDS", "DIB", "FITS", "FLI", "FTEX", "GBR", "GIF"),
    *("HEIF", "ICNS", "ICO", "IM", "IMT", "JPEG", "JPEG2000", "MCIDAS", "MPO", "MSP", "PCD", "PCX"),
    *("PIXAR", "PNG", "PPM", "PSD", "QOI", "SGI", "SPIDER", "SUN", "TGA", "TIFF", "WEBP", "XBM"),
    *("XPM", "XVTHUMB"),
)
_UNSUPPORTED = {
    **dict.fromkeys((".heic", ".heif", ".hif"), "HEIC"),
    **dict.fromkeys((".cr2", ".cr3", ".dng", ".nef", ".arw", ".orf", ".raf", ".rw2"), "camera raw"),
    **{".avif": "AVIF", ".jxl": "JPEG XL", ".eps": "EPS", ".svg": "SVG", ".emf": "EMF"},
    **{".wmf": "WMF", ".psb": "PSB"},
}
_STARTS = {
    **dict.fromkeys((b"%!PS", b"\xc5\xd0\xd3\xc6"), "EPS"),
    **dict.fromkeys((b"\xff\x0a", b"\0\0\0\x0cJXL "), "JPEG XL"),
    **{b"%PDF": "PDF", b"\xd7\xcd\xc6\x9a": "WMF", b"FUJIFILM": "camera raw"},
}
_STARTERS = ("EPS", "IPTC")  # formats whose decoding can start another program
_BITS, _PHOTOMETRIC = 258, 262  # TIFF's tags; Pillow inverts only 8-bit pictures whose 0 is white.
_TOPS = {"i": (255, 65535), "f": (1, 255)}  # levels of white by kind of number
_KINDS = {
    **{stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a folder"},
    **dict.fromkeys((stat.S_IFCHR, stat.S_IFBLK), "a device"),
}


class UnusableError(Exception):
    """A file that is not opened, or a picture that is not converted; the message says why."""


def describe_special(path: str | os.PathLike) -> str:
    """Returns what a path is if it is no regular file, as in "a FIFO"; otherwise "".

    Reading a FIFO or a device can block for ever, and opening one can have effects.

    Raises:
      OSError: there is no such file, or it cannot be reached.
    """
    return _KINDS.get(stat.S_IFMT(os.stat(path).st_mode), "")


@functools.cache
def readable_formats() -> tuple[str, ...]:
    """Returns Pillow's names of all formats that are read."""
    Image.init()
    with contextlib.suppress(ImportError):  # The package adds HEIC to Pillow's formats.
        importlib.import_module("pillow_heif").register_heif_opener()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


@functools.cache
def picture_suffixes() -> frozenset[str]:
    """Returns the suffixes, as in ".jpg", of readable pictures and of known unsupported ones."""
    names = {*readable_formats(), "MPO"}
    readable = {suffix for suffix, name in Image.registered_extensions().items() if name in names}
    return frozenset(readable | _UNSUPPORTED.keys())


def open_image(stream: IO[bytes], formats: tuple[str, ...] = ()) -> ImageFile.ImageFile:
    """Identifies a picture; its pixels are decoded later.

    Args:
      stream: content of the file, open for as long as the picture is not decoded.
      formats: Pillow's names of the formats that are tried; by default all readable ones.

    Raises:
      UnusableError: the file is empty.
      PIL.UnidentifiedImageError: it has none of the formats, or its header is damaged.
      Exception: Pillow's decoders raise almost any class on damaged data.
    """
    if not stream.read(1):
        raise UnusableError("empty file")
    image = Image.open(stream, formats=formats or readable_formats())
    if image.format == "PNG":
        # Decoding skips the checksums, so flipped bits and a lost end would go unnoticed.
        image.verify()
        image = Image.open(stream, formats=("PNG",))
    return image


def name_unsupported(head: bytes, suffix: str = "") -> str:
    """Returns the format of a file if Pillow does not read it, as in "HEIC"; otherwise "".

    Args:
      head: the first bytes of the file; 64 suffice.
      suffix: suffix of the file's name, which counts if the bytes say nothing.
    """
    name = _guess(head) or _UNSUPPORTED.get(suffix.lower(), "")
    readable = {"AVIF": "PIL._avif", "HEIC": "pillow_heif"}
    return "" if name in readable and importlib.util.find_spec(readable[name]) else name


def _guess(head: bytes) -> str:
    if head[4:8] == b"ftyp":
        brands = {head[start : start + 4] for start in (8, *range(16, len(head) - 3, 4))}
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        if brands & {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}:
            return "HEIC"
        return "camera raw" if b"crx " in brands else "video"
    if head.startswith(b"\x1aE\xdf\xa3") or (head[:4] == b"RIFF" and head[8:12] == b"AVI "):
        return "video"
    if head[40:44] == b" EMF":
        return "EMF"
    if b"<svg" in head:
        return "SVG"
    return next((name for start, name in _STARTS.items() if head.startswith(start)), "")


def to_grey_or_rgb(picture: Image.Image) -> Image.Image:
    """Returns a picture upright, with 8 bits per channel, of mode "L" (grey) or "RGB".

    The EXIF orientation is applied and transparency is ignored. 16-bit grey becomes
    `round(level / 257)`. Grey levels of 32 bits have the least range that holds the highest: 0 to
    255 or 0 to 65,535 for whole numbers, 0 to 1 or 0 to 255 for floating point.

    Raises:
      UnusableError: the picture has no pixels, is an EPS, or has levels of another range.
      Exception: Pillow's decoders raise almost any class on damaged data.
    """
    if not all(picture.size):
        raise UnusableError(f"{picture.width}x{picture.height} pixels")
    if picture.format in _STARTERS and getattr(picture, "tile", None):  # It is not decoded yet.
        raise UnusableError(f"{picture.format} is not supported; convert it to JPEG or PNG")
    # Pillow scales the deep levels of a PGM to 16 bits, and gives them the mode "I".
    sixteen = (picture.format, picture.mode) == ("PPM", "I") or picture.mode.startswith("I;")
    tags = getattr(picture, "tag_v2", {})  # of a TIFF
    picture = ImageOps.exif_transpose(picture)
    if picture.mode in ("I", "F") or picture.mode.startswith("I;"):
        top = 4095 if tags.get(_BITS) == (12,) else 65535
        levels = _eight_bits(np.asarray(picture), top if sixteen else None)
        return Image.fromarray(255 - levels if tags.get(_PHOTOMETRIC) == 0 else levels)
    if picture.mode == "La":  # Pillow converts it to "LA" alone.
        picture = picture.convert("LA")
    mode = "L" if picture.mode in ("1", "L", "LA") else "RGB"
    return picture if picture.mode == mode else picture.convert(mode)


def to_format(picture: Image.Image, images: ImageFormat) -> Image.Image:
    """Returns a picture, of mode "L" or "RGB", in the format of a data set.

    Grey is ITU-R 601 luma. The Lanczos filter's support grows with the reduction, so a large
    photograph is averaged instead of sampled at every twentieth pixel.
    """
    picture = picture.convert("L" if images.channels == 1 else "RGB")
    if picture.width != picture.height and images.fit != "stretch":
        side = (min if images.fit == "crop" else max)(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        picture = picture.crop((left, top, left + side, top + side))  # Black beyond the edges.
    if picture.size == (images.size, images.size):
        return picture
    return picture.resize((images.size, images.size), Image.Resampling.LANCZOS)


def _eight_bits(levels: np.ndarray, top: int | None) -> UInt8[np.ndarray, "height width"]:
    """Scales grey levels to 8 bits; `top` is the level of white, or None if it is unknown."""
    low, high = float(levels.min()), float(levels.max())
    if top is None:
        top = next((top for top in _TOPS[levels.dtype.kind] if high <= top), 0)
    # Levels that would all be black have in truth another range.
    if not low >= 0 or not top or 0 < 255 * high < 1.5 * top:
        ranges = "0 to 1 or 0 to 255" if levels.dtype.kind == "f" else "0 to 255 or 0 to 65535"
        raise UnusableError(f"levels from {low:g} to {high:g}; {ranges} can be read")
    if top == 65535:
        return to_eight_bits(levels)
    return np.rint(levels * (255 / top)).astype(np.uint8)
