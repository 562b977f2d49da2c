"""Labels pictures by the rows of tables."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from data_prep.candidates import Candidate, load_file
from data_prep.class_folders import split_name
from data_prep.files import Entry
from data_prep.images import RejectedError, refuse
from data_prep.tables import Row, Table, usual_split
from data_prep.votes import read_counts

_ALIGNED = "_aligned"  # RAF-DB's table says train_00001.jpg where the file ends in _aligned.jpg.


@dataclass
class Labelled:
    """The labels that tables or folders give to pictures.

    Attributes:
      candidates: a candidate for each picture or row, labelled as the source has it.
      counts: the votes for each name, by the candidate's name, of those that have votes.
      unnamed: number of pictures that no table names.
      notes: lines for the user about how the tables were read.
    """

    candidates: list[Candidate] = field(default_factory=list)
    counts: dict[str, Mapping[str, float]] = field(default_factory=dict)
    unnamed: int = 0
    notes: list[str] = field(default_factory=list)


def label_pictures(
    tables: Sequence[Table], pictures: Sequence[Entry], keys: Sequence[str], *, originals: bool
) -> Labelled:
    """Returns what the rows of tables say of the pictures.

    Args:
      tables: the tables.
      pictures: the pictures of the source.
      keys: names of the classes in the order of plain votes, "0 3 7"; empty if it is unknown.
      originals: whether train_00001.jpg rather than train_00001_aligned.jpg is taken if there are
        both.
    """
    by_name: dict[str, list[Entry]] = {}
    for entry in pictures:
        by_name.setdefault(os.path.basename(entry.path), []).append(entry)
    labelled = Labelled()
    labelled.notes.append(f"labels are from {' and '.join(table.path for table in tables)}")
    prefixed = all(map(_names_have_splits, tables))
    if prefixed:
        labelled.notes.append("splits are from the names of the files, such as train_1.jpg")
    taken: dict[str, str] = {}
    labels: dict[str, Sequence[str] | None] = {}
    aligned = 0
    for table in tables:
        for number, row in table.rows:
            place = f"{os.path.basename(table.path)}:{number}"
            split = ""
            try:
                if row is None:
                    raise RejectedError("too few columns")
                file = row["file"][0].replace("\\", "/")
                split = _split_of_row(row, table.split, prefixed)
                entry = _find(file, by_name, originals=originals)
                if entry.path in taken:
                    differs = row.get("label") != labels[entry.path]
                    raise RejectedError(
                        f"{entry.path} again, after {taken[entry.path]}"
                        f"{', with another label' if differs else ''}"
                    )
                if "votes" in row:
                    counts = read_counts(row["votes"], table.votes or keys)
                    labelled.counts[entry.path] = counts
                elif not row["label"][0]:
                    raise RejectedError("no label")
            except RejectedError as error:
                labelled.candidates.append(Candidate(place, split, "", refuse(str(error))))
                continue
            taken[entry.path], labels[entry.path] = place, row.get("label")
            aligned += os.path.basename(entry.path) != os.path.basename(file)
            label = "" if "votes" in row else row["label"][0]
            load = partial(load_file, entry, ())
            labelled.candidates.append(Candidate(entry.path, split, label, load))
    if aligned:
        labelled.notes.append(f"{aligned:,} files are taken from their version *{_ALIGNED}")
    labelled.unnamed = len(pictures) - len(taken)
    return labelled


def _names_have_splits(table: Table) -> bool:
    """Whether only the names of the files say the split, as in train_00001.jpg."""
    rows = [row for _, row in table.rows if row is not None]
    return not table.split and all("split" not in row and _prefix(row["file"][0]) for row in rows)


def _prefix(file: str) -> str:
    return split_name(os.path.basename(file).split("_")[0])


def _split_of_row(row: Row, of_table: str, prefixed: bool) -> str:
    if "split" in row:
        word = row["split"][0]
        if not (split := usual_split(word)):
            raise RejectedError(f"split {word[:20]!r} is not train, validation or test")
        return split
    return _prefix(row["file"][0]) if prefixed else of_table or "train"


def _find(file: str, by_name: Mapping[str, Sequence[Entry]], *, originals: bool) -> Entry:
    """Returns the picture that a table calls `file`, anywhere below the source.

    Raises:
      RejectedError: there is none, or more than one.
    """
    stem, suffix = os.path.splitext(file)
    versions = (f"{stem}{_ALIGNED}{suffix}", file)
    for version in versions[::-1] if originals else versions:
        same_name = by_name.get(os.path.basename(version), ())
        below = [entry for entry in same_name if f"/{entry.path}".endswith(f"/{version}")]
        if len(below) > 1:
            exact = [entry for entry in below if entry.path == version]
            if not exact:
                raise RejectedError(f"{len(below)} files are called {version}")
            below = exact
        if below:
            return below[0]
    raise RejectedError(f"no picture {file[:100]!r}")
