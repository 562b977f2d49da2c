"""Checks each candidate: it becomes a record, or an entry of the quarantine."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from PIL import Image

from data_prep.images import RejectedError, fit
from data_prep.releases import Candidate


@dataclass(frozen=True)
class Record:
    """One image of the data set, of mode "L" (uint8 grey) and 48x48 pixels."""

    name: str
    split: str
    label: int
    image: Image.Image


@dataclass(frozen=True)
class Quarantined:
    """One file or row that cannot be an image of the data set; `split` is "" if unknown."""

    name: str
    split: str
    reason: str


def check(candidates: Iterable[Candidate], resize: bool) -> tuple[list[Record], list[Quarantined]]:
    """Loads every candidate once; returns the records and the quarantined candidates.

    All images stay in memory, because FER-2013 has only 83 MB of grey levels.
    """
    records = []
    quarantined = []
    for candidate in candidates:
        try:
            image = fit(candidate.load(), resize)
        except RejectedError as error:
            quarantined.append(Quarantined(candidate.name, candidate.split, str(error)))
        else:
            records.append(Record(candidate.name, candidate.split, candidate.label, image))
    return records, quarantined


def fingerprint(records: Iterable[Record]) -> str:
    """Returns the SHA-256 of all splits, names, labels and pixels, independent of their order."""
    digest = hashlib.sha256()
    for record in sorted(records, key=lambda record: (record.split, record.name)):
        digest.update(f"{record.split}\0{record.name}\0{record.label}\0".encode())
        digest.update(record.image.tobytes())
    return digest.hexdigest()
