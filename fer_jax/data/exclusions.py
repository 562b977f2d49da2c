"""Reads audit.csv, the list of images that `fer_jax audit` found, and leaves images out by it."""

import csv
import dataclasses
import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from fer_jax.data.records import DataSet, Records, absent_classes
from fer_jax.errors import UserError

KINDS = {
    "leak": "a copy of an image of another split",
    "duplicate": "a copy of an image of the same split",
    "blank": "one grey level all over",
    "text": "a sign or a text, such as “image deleted”",
    "label": "a label that predictions contradict",
    "no_face": "no face for the detector",
}
"""What can be wrong with an image, the surest first. The last two are hints."""

DEFAULT_KINDS = ("leak", "duplicate", "blank", "text")
"""The kinds that are left out unless others are named: all but the hints."""

COLUMNS = (
    *("kind", "file", "split", "label", "other_file", "other_split", "other_label", "distance"),
    *("position", "data"),
)
"""The columns of audit.csv. A list written by hand needs only kind, file and split."""


@dataclasses.dataclass(frozen=True)
class Exclusion:
    """Which images of a split are left out.

    Attributes:
      file: the list.
      kinds: number of images left out for each kind that was asked for. An image that is listed
        for several kinds counts for the first of `KINDS`.
      kept: whether each record stays, Bool[n].
      digest: SHA-256 of the names of the images that are left out.
    """

    file: str
    kinds: Mapping[str, int]
    kept: Bool[np.ndarray, " n"]
    digest: str

    @property
    def images(self) -> int:
        """Number of images left out."""
        return sum(self.kinds.values())

    @property
    def facts(self) -> dict[str, Any]:
        """The numbers and the digest, for JSON."""
        kinds = {kind: count for kind, count in self.kinds.items() if count}
        name = Path(self.file).name  # A published model names no folder of this machine.
        return {"file": name, "images": self.images, "kinds": kinds, "digest": self.digest}

    def __str__(self) -> str:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.kinds.items() if count)
        listed = f"{self.images:,} of {len(self.kept):,} images, by {self.file}"
        return f"{listed} ({kinds})" if kinds else listed


def exclude(listed: str, data: DataSet, split: str, records: Records) -> Exclusion:
    """Finds the records of a split that a list names.

    Args:
      listed: path of an audit.csv, perhaps with the kinds that count, as in `audit.csv:leak+text`;
        default: `DEFAULT_KINDS`.
      data: the data set.
      split: name of the split.
      records: its records, of the data set's classes.

    Raises:
      UserError: the list cannot be read, is about other data, or names an image or a kind that
        there is none of; or nothing remains of a class.
    """
    path, kinds = _parse(listed)
    wanted = _read(path, kinds, data)
    found: dict[str, str] = {}
    for part in data.on_disk(split):
        counts = Counter(data.filenames(part))
        for name in wanted.get(part, {}):
            if counts[name] != 1:
                raise UserError(
                    f"{path} names {name!r}, of which {part} has {counts[name] or 'none'}; make "
                    "the list again with `fer_jax audit`, or mend the line"
                )
        found |= wanted.get(part, {})
    counts = Counter(records.filenames)
    if twice := [name for name in found if counts[name] > 1]:
        raise UserError(f"{split} has {twice[0]!r} in both its parts; give one of these splits")
    kept = np.array([name not in found for name in records.filenames])
    gone = sorted(name for name in records.filenames if name in found)
    absent = absent_classes(data.classes, records.labels)
    if lost := {*absent_classes(data.classes, records.labels[kept])} - {*absent}:
        raise UserError(
            f"without the images listed in {path}, {split} has none of {', '.join(sorted(lost))}; "
            f"give fewer kinds, such as {path}:{kinds[0]}, or leave out the class"
        )
    numbers = Counter(found[name] for name in gone)
    return Exclusion(
        file=str(path),
        kinds={kind: numbers[kind] for kind in kinds},
        kept=kept,
        digest=hashlib.sha256("\0".join(gone).encode()).hexdigest(),
    )


def _parse(listed: str) -> tuple[Path, list[str]]:
    """Splits `audit.csv:leak+text` into the path and the kinds, in the order of `KINDS`."""
    path, colon, words = listed.rpartition(":")
    if not colon or not path or re.search(r"[/.]", words):
        path, words = listed, "+".join(DEFAULT_KINDS)
    kinds = words.split("+")
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(
                f"{listed}: there is no kind {kind!r}; give {', '.join(KINDS)}, joined by +, as in "
                f"{path}:{'+'.join(DEFAULT_KINDS[:2])}"
            )
    return Path(path), [kind for kind in KINDS if kind in kinds]


def _read(path: Path, kinds: Sequence[str], data: DataSet) -> dict[str, dict[str, str]]:
    """Returns the kind of each listed file of each split."""
    found: dict[str, dict[str, str]] = {}
    try:
        with open(path, newline="", encoding="utf-8") as file:
            table = csv.DictReader(file, strict=True)
            if missing := {"kind", "file", "split"} - {*(table.fieldnames or ())}:
                raise UserError(
                    f"{path} has no column {' and '.join(sorted(missing))}; give the audit.csv of "
                    "`fer_jax audit`"
                )
            for row in table:
                _check(row, f"{path}, line {table.line_num}", data)
                known = found.setdefault(row["split"], {})
                if row["kind"] in kinds:
                    ranked = (row["kind"], known.get(row["file"], row["kind"]))
                    known[row["file"]] = min(ranked, key=kinds.index)
    except (OSError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read {path}: {reason}; make it with `fer_jax audit`") from error
    return found


def _check(row: Mapping[str, str | None], place: str, data: DataSet) -> None:
    """Raises `UserError` if a row is none of this data set."""
    kind, split, fingerprint = row["kind"], row["split"], row.get("data")
    if kind not in KINDS:
        raise UserError(f"{place}: there is no kind {kind!r}; give one of {', '.join(KINDS)}")
    if not row["file"] or split not in data.split_sizes:
        raise UserError(
            f"{place}: {split!r} is no split of {data.data_dir} or the file is missing; the splits "
            f"are {', '.join(data.split_sizes)}"
        )
    if fingerprint and not data.fingerprint.startswith(fingerprint):
        raise UserError(
            f"{place} is about data of fingerprint {fingerprint}, and {data.data_dir} has "
            f"{data.fingerprint[:12]}; make the list with `fer_jax audit`"
        )
