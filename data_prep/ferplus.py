"""FER+: the votes of ten annotators for each image of FER-2013.

Barsoum et al., "Training Deep Networks for Facial Expression Recognition with Crowd-Sourced Label
Distribution", ICMI 2016. `fer2013new.csv` has a row for each row of `fer2013.csv`, in its order.
"""

import csv
import dataclasses
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from data_prep.candidates import Candidate, Release
from data_prep.images import refuse
from data_prep.options import Options
from data_prep.sources import open_source
from fer_jax.data.contract import CLASS_NAMES
from fer_jax.errors import UserError

CLASSES = (*CLASS_NAMES, "contempt")
"""FER+'s classes: FER-2013's, with its names, and one more."""

_COLUMNS = {
    **{"angry": "anger", "disgust": "disgust", "fear": "fear", "happy": "happiness"},
    **{"sad": "sadness", "surprise": "surprise", "neutral": "neutral", "contempt": "contempt"},
}
_OTHERS = {"unknown": "most votes are for 'unknown'", "NF": "most votes are for 'no face'"}
_USAGES = {"train": "Training", "public_test": "PublicTest", "private_test": "PrivateTest"}

_NO_ROW = -1
"""Row of an image that FER+ does not name, because it shows no face."""


@contextmanager
def open_ferplus(options: Options) -> Iterator[Release]:
    """Opens FER-2013 as `open_source` does, and labels its images by the votes of FER+.

    Images whose most votes are for "unknown" or "no face" are left out, as in the paper. So are
    single votes.

    Raises:
      UserError: there is no release of FER-2013, or one of FER+'s two files cannot be used.
    """
    if not options.ferplus_csv:
        raise UserError(
            "--labels=ferplus needs --ferplus_csv=PATH, FER+'s fer2013new.csv, which "
            "https://github.com/microsoft/FERPlus has."
        )
    votes = _read_votes(Path(options.ferplus_csv))
    rows = _read_rows(Path(options.ferplus_rows)) if options.ferplus_rows else {}
    left_out: Counter[str] = Counter()
    with open_source(options.source) as release:
        yield dataclasses.replace(
            release,
            kind="ferplus",
            candidates=_label(release.candidates, votes, rows, left_out),
            classes=CLASSES,
            published=False,
            left_out=left_out,
        )


def _label(
    candidates: Iterator[Candidate],
    votes: Sequence[Mapping[str, str]],
    rows: Mapping[str, int],
    left_out: Counter[str],
) -> Iterator[Candidate]:
    for candidate in candidates:
        number = _row_of(candidate.name, rows)
        if not candidate.label:  # It is no image of FER-2013, and says so when it is loaded.
            yield candidate
        elif number is None or number >= len(votes):
            hint = "" if rows else "; give --ferplus_rows, which maps file names to rows"
            reason = f"FER+ has no row, or several, for {os.path.basename(candidate.name)}{hint}"
            yield dataclasses.replace(candidate, load=refuse(reason))
        elif number == _NO_ROW:
            left_out[_OTHERS["NF"]] += 1
        elif _USAGES.get(candidate.split, usage := votes[number]["usage"]) != usage:
            reason = f"an image of {candidate.split}, but row {number} of FER+ is of {usage}"
            yield dataclasses.replace(candidate, load=refuse(reason))
        else:
            counts = _count(votes[number])
            most = max(counts, key=counts.__getitem__)  # The first of several.
            if most in CLASSES and counts[most]:
                total = sum(counts.values())
                shares = tuple(counts[name] / total for name in CLASSES)
                yield dataclasses.replace(candidate, label=most, votes=shares)
            else:
                left_out[_OTHERS.get(most, "no two annotators agree")] += 1


def _count(row: Mapping[str, str]) -> dict[str, int]:
    """Returns the votes by class and for the two other answers, without single votes."""
    counts = {name: int(row[column.casefold()]) for name, column in _COLUMNS.items()}
    counts |= {name: int(row[name.casefold()]) for name in _OTHERS}
    return {name: number if number > 1 else 0 for name, number in counts.items()}


def _row_of(name: str, rows: Mapping[str, int]) -> int | None:
    """Returns the row of an image: by its file name, or by its line in fer2013.csv."""
    if rows:
        return rows.get(os.path.basename(name))
    file, _, line = name.rpartition(":")
    return int(line) - 2 if file.endswith(".csv") and line.isdecimal() else None


def _read_votes(path: Path) -> list[dict[str, str]]:
    columns = ("usage", *(name.casefold() for name in (*_COLUMNS.values(), *_OTHERS)))
    table = _read_table(path, "--ferplus_csv", columns)
    for number, row in enumerate(table, start=2):
        if bad := [name for name in columns[1:] if not row[name].isdecimal()]:
            raise UserError(
                f"--ferplus_csv {path}, line {number}: {bad[0]} is {row[bad[0]][:20]!r}, not a "
                "number of votes; fetch the file again."
            )
    return table


def _read_rows(path: Path) -> dict[str, int]:
    """Returns the row of each image file. An empty row is `_NO_ROW`; of two there is none."""
    table = _read_table(path, "--ferplus_rows", ("filename", "row"))
    times = Counter(row["filename"] for row in table)
    try:
        return {
            row["filename"]: int(row["row"] or _NO_ROW)
            for row in table
            if times[row["filename"]] == 1
        }
    except ValueError as error:
        raise UserError(f"--ferplus_rows {path}: {error}; fetch the file again.") from None


def _read_table(path: Path, flag: str, columns: Sequence[str]) -> list[dict[str, str]]:
    """Reads a csv with a header, whose columns may be in any order and in any case."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = [name.strip().casefold() for name in next(reader, [])]
            if missing := [name for name in columns if name not in header]:
                raise UserError(f"{flag} {path} has no column {' and no '.join(missing)}.")
            return [
                dict(zip(header, map(str.strip, row), strict=True)) for row in reader if any(row)
            ]
    except (OSError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{flag} {path} cannot be read as a csv: {reason}.") from None
