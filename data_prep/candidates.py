"""The files or rows of a source that should become images of the data set."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from PIL import Image

from data_prep.files import Entry
from data_prep.images import RejectedError, decode
from fer_jax.data.contract import CLASS_NAMES

MAX_FILE_BYTES = 64 << 20
"""Largest size of an image file, in bytes; a larger file is rejected without being decoded."""

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".jpe", ".jfif", ".mpo")


@dataclass(frozen=True)
class Candidate:
    """One file or row that should be an image of the data set.

    Attributes:
      name: name of the file in the source, or of the row in its csv.
      split: split of the image, or "" if it is unknown.
      label: class name of the image; valid only if `load` returns.
      load: function that returns an image of any size, of mode "L" or "RGB", or raises
        `RejectedError`.
      votes: share of annotators that chose each class, in label order; None if unknown.
      group: person or video of the image; "" if unknown.
      original: where the image was cut from; "" if it is the file itself.
    """

    name: str
    split: str
    label: str
    load: Callable[[], Image.Image]
    votes: tuple[float, ...] | None = None
    group: str = ""
    original: str = ""


@dataclass(frozen=True)
class Release:
    """An open source, with its images labelled.

    Attributes:
      kind: kind of source: "folders", "csv", "table", "kaggle" or "sample".
      candidates: iterator over all candidates, to be read once while the source is open.
      total: number of candidates, or None if it is unknown.
      classes: class names, in label order.
      any_size: whether images of any size are scaled, without --resize.
      published: whether the number of images of each class of FER-2013 is expected.
      own: whether the data set is somebody's own, of which nothing is known beforehand.
      left_out: number of files or rows that are left out on purpose, by reason. It is complete once
        the candidates have been read.
      notes: lines for the user about how the source was understood.
    """

    kind: str
    candidates: Iterator[Candidate]
    total: int | None
    classes: Sequence[str] = CLASS_NAMES
    any_size: bool = False
    published: bool = False
    own: bool = False
    left_out: Counter[str] = field(default_factory=Counter)
    notes: Sequence[str] = ()


class Listing:
    """Passes candidates on, and notes their names, splits and classes.

    `digest` is complete once all have passed, and does not depend on their order.
    """

    def __init__(self, candidates: Iterator[Candidate]):
        self._candidates = candidates
        self._lines: list[str] = []

    def __iter__(self) -> Iterator[Candidate]:
        for candidate in self._candidates:
            self._lines.append(f"{candidate.split}\0{candidate.label}\0{candidate.name}")
            yield candidate

    @property
    def digest(self) -> str:
        """The SHA-256; file names that are not UTF-8 count as well."""
        lines = "\n".join(sorted(self._lines))
        return hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()


def is_hidden(path: str) -> bool:
    """Whether a file or folder on this path is hidden, or was left by macOS."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))


def is_image(path: str) -> bool:
    """Whether the name is that of an image file."""
    return path.casefold().endswith(IMAGE_SUFFIXES)


def load_file(entry: Entry, formats: tuple[str, ...] = ("JPEG", "PNG")) -> Image.Image:
    """Returns the image in a file of one of the formats, see `decode`.

    Raises:
      RejectedError: the file cannot be read, is too large, or holds no usable image.
    """
    try:
        with entry.open() as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except RejectedError:
        raise
    except Exception as error:  # A damaged zip member raises many classes, a disk an OSError.
        raise RejectedError(f"cannot be read: {error}") from None
    if len(content) > MAX_FILE_BYTES:
        raise RejectedError(f"larger than {MAX_FILE_BYTES:,} bytes")
    return decode(content, formats)
