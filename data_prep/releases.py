"""Reads the files of a release of FER-2013 as candidates."""

import csv
import io
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial

from PIL import Image

from data_prep.candidates import IMAGE_SUFFIXES, Candidate, is_hidden, is_image, load_file
from data_prep.files import Entry
from data_prep.images import RejectedError, from_pixels, refuse
from fer_jax.data.contract import CLASS_NAMES
from fer_jax.errors import UserError
from fer_jax.paths import printable

CSV_NAMES = ("fer2013.csv", "icml_face_data.csv")

LAYOUT = (
    f"train/<emotion>/*.jpg and test/<emotion>/*.jpg (or validation/), or {' or '.join(CSV_NAMES)}"
)
"""The layout that a folder or zip must have, for messages."""

_DAMAGE = (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)
_USAGES = {"training": "train", "publictest": "public_test", "privatetest": "private_test"}
_SPLIT_FOLDERS = ("train", "test", "validation")
_ALIASES = {
    "angry": ("anger",),
    "disgust": ("disgusted",),
    "fear": ("fearful", "afraid"),
    "happy": ("happiness", "joy"),
    "sad": ("sadness",),
    "surprise": ("surprised",),
    "neutral": (),
}
_LABELS = {alias: name for name in CLASS_NAMES for alias in (name, *_ALIASES[name])}


def read_tree(entries: list[Entry], source: str) -> tuple[str, Iterator[Candidate], int | None]:
    """Finds the release among the files of a folder or zip, at the top or some levels down.

    Returns:
      The release's kind ("folders" or "csv"), its candidates, and their number, or None if that is
      unknown. In a folder release every file is a candidate; in a csv release every row and every
      other file is.

    Raises:
      UserError: there is no release, or more than one, or a class folder is unknown.
    """
    for kind, roots in (("folders", _folder_roots(entries)), ("csv", _csv_paths(entries))):
        depth = min((root.count("/") for root in roots), default=0)
        found = sorted(root for root in roots if root.count("/") == depth)
        if len(found) > 1:
            raise UserError(
                f"{source} holds {len(found)} releases, {printable(' and '.join(found))}: "
                "give --source the one you want."
            )
        if found and kind == "folders":
            candidates = _read_folders(entries, found[0])
            return kind, iter(candidates), len(candidates)
        if found:
            return kind, _read_csv_among(entries, found[0]), None
    raise UserError(
        f"{source} holds no release of FER-2013: expected {LAYOUT}; or, for own data, pass "
        "--labels=folders."
    )


def _folder_roots(entries: list[Entry]) -> set[str]:
    """Returns every folder, as "" or "some/where/", with a <split>/<emotion>/<image> below it."""
    roots = set()
    for entry in entries:
        parts = entry.path.split("/")
        in_place = len(parts) >= 3 and parts[-3].casefold() in _SPLIT_FOLDERS
        if in_place and is_image(entry.path) and not is_hidden(entry.path):
            roots.add("".join(part + "/" for part in parts[:-3]))
    return roots


def _csv_paths(entries: list[Entry]) -> set[str]:
    return {
        entry.path
        for entry in entries
        if os.path.basename(entry.path).casefold() in CSV_NAMES and not is_hidden(entry.path)
    }


def _read_folders(entries: list[Entry], root: str) -> list[Candidate]:
    inside = [entry.path.removeprefix(root) for entry in entries if entry.path.startswith(root)]
    folders = {path.split("/")[0].casefold() for path in inside if path.count("/") == 2}
    if {"test", "validation"} <= folders:
        raise UserError(
            f"the release has both test/ and validation/ beside {root}train/, as no release of "
            "FER-2013 does: keep the folder to test on, and move the other away."
        )
    told_apart = any(
        _usage(path) in ("public_test", "private_test")
        for path in inside
        if path.casefold().startswith("test/")
    )
    return [_read_file(entry, root, told_apart) for entry in entries]


def _read_file(entry: Entry, root: str, told_apart: bool) -> Candidate:
    """Returns the candidate of a file; if anything is wrong, its `load` raises `RejectedError`.

    Raises:
      UserError: the class folder is unknown.
    """
    name = entry.path.removeprefix(root)
    parts = name.split("/")
    inside = entry.path.startswith(root) and parts[0].casefold() in _SPLIT_FOLDERS
    split, doubt = _split_of(name, told_apart) if inside else ("", "")
    label = ""
    load: Callable[[], Image.Image] = partial(load_file, entry)
    if is_hidden(entry.path):
        load = refuse("hidden file")
    elif not inside:
        load = refuse(f"outside the release's folders, {root}train and the like")
    elif not is_image(name):
        load = refuse(f"not one of {' '.join(IMAGE_SUFFIXES)}")
    elif len(parts) != 3:
        load = refuse("not directly inside a <split>/<emotion> folder")
    elif doubt:
        load = refuse(doubt)
    else:
        label = _label_of(parts[1], entry.path)
    return Candidate(name, split, label, load)


def _usage(path: str) -> str | None:
    return _USAGES.get(os.path.basename(path).split("_")[0].casefold())


def _split_of(name: str, told_apart: bool) -> tuple[str, str]:
    """Returns the split of a file, or "", and the reason to reject the file, or ""."""
    folder, usage = name.split("/")[0].casefold(), _usage(name)
    if folder == "train":
        return "train", f"an image of {usage} in train/" if usage not in (None, "train") else ""
    if usage == "train":
        return "", f"an image of train in {folder}/"
    if usage:
        return usage, ""
    if told_apart:
        return "", "neither PublicTest_ nor PrivateTest_, unlike its neighbours"
    return "test", ""


def _label_of(folder: str, path: str) -> str:
    try:
        return _LABELS[folder.strip().casefold()]
    except KeyError:
        raise UserError(
            f"unknown class folder {folder!r} (at {path!r}): the classes are "
            f"{', '.join(CLASS_NAMES)}. Rename the folder or move it away; or, if these are not "
            "FER-2013's, pass --labels=folders."
        ) from None


def _read_csv_among(entries: list[Entry], path: str) -> Iterator[Candidate]:
    for entry in entries:
        if entry.path == path:
            yield from read_csv(entry)
        else:
            yield Candidate(entry.path, "", "", refuse(f"not part of {path}"))


def read_csv(entry: Entry) -> Iterator[Candidate]:
    """Reads `fer2013.csv` or `icml_face_data.csv`; a row's name has its line, as in `file.csv:2`.

    Raises:
      UserError: a column (emotion, pixels or Usage) is missing, or the file or its zip is damaged.
    """
    try:
        yield from _read_rows(entry)
    except (RejectedError, *_DAMAGE) as error:
        raise UserError(f"{entry.path} cannot be read ({error}): fetch it again.") from None


def _read_rows(entry: Entry) -> Iterator[Candidate]:
    file_name = os.path.basename(entry.path)
    with io.TextIOWrapper(entry.open(), encoding="utf-8-sig", errors="replace") as lines:
        header = [column.strip().casefold() for column in _fields(next(lines, ""))]
        if missing := [c for c in ("emotion", "pixels", "Usage") if c.casefold() not in header]:
            raise UserError(
                f"{entry.path} has no column {' and no '.join(missing)}: its first line should be "
                "emotion,pixels,Usage."
            )
        # No row spans lines, so lines are parsed one by one: a stray quote spoils only its row.
        for number, line in enumerate(lines, start=2):
            if line.strip():
                yield _read_row(f"{file_name}:{number}", header, line)


def _read_row(name: str, header: list[str], line: str) -> Candidate:
    split = ""
    label = ""
    load: Callable[[], Image.Image]
    try:
        fields = _fields(line)
        if len(fields) != len(header):
            raise RejectedError(f"{len(fields)} columns, not {len(header)}")
        row = dict(zip(header, fields, strict=True))
        usage, emotion = row["usage"].strip(), row["emotion"].strip()
        if usage.casefold() not in _USAGES:
            raise RejectedError(f"Usage {usage[:20]!r} is not Training, PublicTest or PrivateTest")
        split = _USAGES[usage.casefold()]
        if emotion not in map(str, range(len(CLASS_NAMES))):
            raise RejectedError(f"emotion {emotion[:20]!r} is not a whole number from 0 to 6")
        label = CLASS_NAMES[int(emotion)]
        load = partial(from_pixels, row["pixels"])
    except RejectedError as error:
        load = refuse(str(error))
    return Candidate(name, split, label, load)


def _fields(line: str) -> list[str]:
    try:
        return next(csv.reader([line]), [])
    except csv.Error as error:
        raise RejectedError(f"not a csv row: {error}") from None
