"""Checks each candidate: it becomes a record, or an entry of the quarantine."""

import dataclasses
import hashlib
import io
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from PIL import Image

from data_prep.candidates import Candidate
from data_prep.images import RejectedError, fit
from data_prep.store import Store, Stored, to_png
from fer_jax.data.contract import ImageFormat

_MOST_WORKERS = 8  # Each may decode a photograph of 200 MB.
_MOST_WAITING = 64


@dataclass(frozen=True)
class Record:
    """One image of the data set.

    Attributes:
      name: name in the source.
      split: split of the image.
      label: name of its class.
      image: the image in the data set's format, of mode "L" or "RGB", or where it is kept.
      votes: share of annotators that chose each class, in label order; None if unknown.
      group: person or video, so that splits do not cut through it; "" if unknown.
      original: where a face was cut from; "" if the image is the file itself.
    """

    name: str
    split: str
    label: str
    image: Image.Image | Stored
    votes: tuple[float, ...] | None = None
    group: str = ""
    original: str = ""

    @cached_property
    def content(self) -> str:
        """The SHA-256 of split, class, pixels and votes; the name does not count."""
        place = f"{self.split}\0{self.label}\0".encode()
        votes = b"" if self.votes is None else np.array(self.votes, "<f4").tobytes()
        return hashlib.sha256(place + self.open().tobytes() + votes).hexdigest()

    @cached_property
    def pixels(self) -> bytes:
        """The SHA-256 of the pixels."""
        return hashlib.sha256(self.open().tobytes()).digest()

    def png(self) -> bytes:
        """Returns the image as PNG."""
        return to_png(self.image) if isinstance(self.image, Image.Image) else self.image.read()

    def open(self) -> Image.Image:
        """Returns the image."""
        if isinstance(self.image, Image.Image):
            return self.image
        return Image.open(io.BytesIO(self.image.read()))

    def kept(self, image: Stored) -> "Record":
        """Returns this record with its image in a store."""
        record = dataclasses.replace(self, image=image)
        vars(record).update(content=self.content, pixels=self.pixels)  # They are known already.
        return record


@dataclass(frozen=True)
class Quarantined:
    """One file or row that cannot be an image of the data set; `split` is "" if unknown."""

    name: str
    split: str
    reason: str


Cut = Callable[[Image.Image], tuple[Image.Image, str]]
"""Function from a picture to a part of it and where that was; it may raise `RejectedError`."""


def check(
    candidates: Iterable[Candidate],
    images: ImageFormat,
    store: Store,
    *,
    resize: bool,
    cut: Cut | None = None,
) -> tuple[list[Record], list[Quarantined]]:
    """Loads every candidate once; returns the records and the quarantined candidates.

    Args:
      candidates: the candidates.
      images: the format of the data set's images.
      store: keeps the images of the records.
      resize: whether images of other sizes are scaled; otherwise they are quarantined.
      cut: function that cuts a face out; by default the whole image is taken.
    """
    records = []
    quarantined = []
    work = partial(_check_one, images=images, resize=resize, cut=cut)
    with ThreadPoolExecutor(min(_MOST_WORKERS, os.cpu_count() or 1)) as pool:
        # Handing FER-2013's small images to threads takes longer than it saves.
        for checked, png in _in_order(pool, work, candidates) if resize else map(work, candidates):
            if isinstance(checked, Record):
                records.append(checked.kept(store.put(png)))
            else:
                quarantined.append(checked)
    return records, quarantined


def _check_one(
    candidate: Candidate, images: ImageFormat, resize: bool, cut: Cut | None
) -> tuple[Record | Quarantined, bytes]:
    """Returns the record, with its digests computed, and its image as PNG; or why there is none."""
    original = candidate.original
    try:
        image = candidate.load()
        if cut:
            image, place = cut(image)
            original = f"{original or candidate.name} {place}"
        image = fit(image, images, resize)
    except RejectedError as error:
        return Quarantined(candidate.name, candidate.split, str(error)), b""
    record = Record(
        candidate.name,
        candidate.split,
        candidate.label,
        image,
        candidate.votes,
        candidate.group,
        original,
    )
    _ = record.content, record.pixels  # They are computed here, where there are several threads.
    return record, record.png()


def _in_order[T, R](
    pool: ThreadPoolExecutor, work: Callable[[T], R], items: Iterable[T]
) -> Iterator[R]:
    """Yields the results of `work` in order, with few of them waiting."""
    waiting: deque[Future[R]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > _MOST_WAITING:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def fingerprints(records: Iterable[Record]) -> dict[str, str]:
    """Returns two digests for the metadata, which do not depend on the order of the records.

    The keys are:
      fingerprint: SHA-256 of all splits, classes and pixels. The same images have the same one,
        whatever release and file names they come from.
      names: SHA-256 of all names and what they name.
    """
    contents = [(record.content, record.name) for record in records]
    return {
        "fingerprint": _digest(content for content, _ in contents),
        "names": _digest(f"{content}\0{name}" for content, name in contents),
    }


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()
