"""Reads tables of labels that lie beside images, such as those of RAF-DB and AffectNet."""

import csv
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from data_prep.candidates import is_hidden
from data_prep.class_folders import is_picture, split_name
from data_prep.files import Entry
from data_prep.images import RejectedError
from data_prep.options import ROLES
from fer_jax.errors import UserError

SUFFIXES = (".csv", ".tsv", ".txt")

_USAGES = {"training": "train", "publictest": "public_test", "privatetest": "private_test"}
_LONGEST_LINE = 1 << 20

Row = Mapping[str, Sequence[str]]
"""The cells of one row by role; votes may have several."""


@dataclass(frozen=True)
class Table:
    """A table whose columns are understood.

    Attributes:
      path: its path, for messages.
      header: names of its columns; "1", "2" and so on if it has none.
      votes: names of the columns of votes, if there are several.
      rows: number of the line, and its cells, or None if it has too few.
    """

    path: str
    header: Sequence[str]
    votes: Sequence[str]
    rows: Sequence[tuple[int, Row | None]]

    @property
    def split(self) -> str:
        """The split that the name of the file says, as in train_labels.csv, or ""."""
        stem = os.path.splitext(os.path.basename(self.path))[0]
        found = set(filter(None, map(split_name, re.split(r"[^A-Za-z]+", stem))))
        return found.pop() if len(found) == 1 else ""


def find_tables(
    entries: Sequence[Entry], columns: Mapping[str, str], source: str
) -> tuple[list[Table], list[str]]:
    """Finds the table among the files of a source, or one for each of several splits, or none.

    Returns:
      The tables, and a line about each csv that is none.

    Raises:
      UserError: there are several, and their names do not say which is of which split; or none has
        the columns that are asked for.
    """
    tables: list[Table] = []
    texts = [
        entry
        for entry in entries
        if entry.path.casefold().endswith(SUFFIXES) and not is_hidden(entry.path)
    ]
    problems: list[str] = []
    for known in (False, True):  # A table without a header may have that of another one.
        headers = [table.header for table in tables] if known else []
        others = []
        for entry in texts if headers or not known else ():
            try:
                tables.append(read_table(entry, columns, headers))
            except (UserError, RejectedError) as error:
                others.append((entry, str(error)))  # There may be landmarks of each face, too.
        if headers or not known:
            texts = [entry for entry, _ in others]
            problems = [why for entry, why in others if not entry.path.endswith(".txt")]
    if columns and not tables:
        raise UserError(
            problems[0] if problems else f"{source} holds no table: give one by --table."
        )
    splits = [table.split for table in tables]
    if len(tables) > 1 and ("" in splits or len(set(splits)) < len(splits)):
        names = " and ".join(table.path for table in tables[:3])
        raise UserError(f"{source} holds {len(tables)} tables, {names}: choose one by --table.")
    return tables, [f"not read as a table of labels: {problem}" for problem in problems]


def read_table(
    entry: Entry, columns: Mapping[str, str], headers: Iterable[Sequence[str]] = ()
) -> Table:
    """Reads a table of comma, semicolon, tab or blank separated values.

    Args:
      entry: its file.
      columns: name of the column of each role, see `Options.columns`. By default it has the role's
        name; without a header the first columns are the file, the label and perhaps the split.
      headers: headers that it may have if its own is missing.

    Raises:
      UserError: it cannot be read, or has no such column.
      RejectedError: its file must not be opened.
    """
    lines = _read_lines(entry)
    first = next(lines, (0, ""))
    split_line = _line_splitter(first[1])
    header: Sequence[str] = [name.strip() for name in split_line(first[1])]
    names = {role: columns.get(role, role) for role in ROLES}
    if len(header) > 1 and is_picture(header[0]):
        lines = _chain(first, lines)
        numbers = [str(number) for number in range(1, len(header) + 1)]
        known = [other for other in headers if len(other) == len(header)]
        if not known:
            names = {"file": "1", **({} if "votes" in columns else {"label": "2"})}
            if len(header) > 2 and usual_split(header[2]):
                names["split"] = "3"
            names |= columns
        header = known[0] if known else numbers
    places = {name.casefold(): place for place, name in reversed(list(enumerate(header)))}
    found: dict[str, list[int]] = {}
    for role, name in names.items():
        parts = [part.strip() for part in name.split("+")]
        absent = [part for part in parts if part.casefold() not in places]
        if not absent:
            found[role] = [places[part.casefold()] for part in parts]
        elif role in columns or role == "file":
            raise _no_column(entry.path, absent[0], header)
    if "label" not in found and "votes" not in found:
        raise _no_column(entry.path, names["label"], header)
    votes = [header[place] for place in found.get("votes", ())]
    rows = [(number, _cells(split_line(line), found)) for number, line in lines if line.strip()]
    return Table(entry.path, header, votes if len(votes) > 1 else (), rows)


def _no_column(path: str, name: str, header: Sequence[str]) -> UserError:
    return UserError(
        f"{path} has no column {name!r}; it has {', '.join(header)[:200]}. Say which is which by "
        "--columns=file=...,label=..."
    )


def _chain(first: tuple[int, str], others: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    yield first
    yield from others


def _cells(fields: Sequence[str], found: Mapping[str, Sequence[int]]) -> Row | None:
    try:
        return {role: [fields[place].strip() for place in places] for role, places in found.items()}
    except IndexError:
        return None


def _read_lines(entry: Entry) -> Iterator[tuple[int, str]]:
    try:
        with io.TextIOWrapper(entry.open(), encoding="utf-8-sig", errors="replace") as stream:
            number = 0
            while line := stream.readline(_LONGEST_LINE):
                number += 1
                yield number, line
    except RejectedError:
        raise
    except Exception as error:  # A damaged zip member raises many classes, a disk an OSError.
        raise UserError(f"{entry.path} cannot be read ({error}): fetch it again.") from None


def _line_splitter(first: str) -> Callable[[str], list[str]]:
    """Returns the function that splits a line like the first one at its delimiter."""
    for delimiter in "\t,;":
        if delimiter in first:
            return partial(_split_quoted, delimiter=delimiter)
    return str.split


def _split_quoted(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []


def usual_split(word: str) -> str:
    """Returns the split that a word in a column means, such as "val" or FER-2013's names, or ""."""
    return split_name(word) or _USAGES.get(word.casefold(), "")
