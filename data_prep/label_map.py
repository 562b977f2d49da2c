"""Class names as people write them: spellings that are one, and a map that renames or merges."""

import difflib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fer_jax.errors import UserError

LEAVE_OUT = "-"
"""Right side of a map for a class that is left out. An empty right side says the same."""

_LONGEST = 64


def clean(name: str) -> str:
    """Returns a name composed (NFC), with single spaces; folders of macOS are decomposed."""
    return " ".join(unicodedata.normalize("NFC", name).split())


def fold(name: str) -> str:
    """Returns what all spellings of a name have in common: case and spaces do not count."""
    return clean(name).casefold()


def read_map(value: str) -> dict[str, str]:
    """Reads --label_map: the path of a file, or pairs such as "1=surprise,2=fear,8=-".

    A file has one pair a line; empty lines and those that start with # do not count.

    Returns:
      The new name by the old one, "" where the class is left out, in the order written.

    Raises:
      UserError: it is neither a file nor pairs, or names a class twice.
    """
    file = os.path.expanduser(value)
    if os.path.isfile(file):
        try:
            lines = Path(file).read_text("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--label_map {value} cannot be read as text: {error}.") from None
        pairs = [line for line in lines if line.strip() and not line.startswith("#")]
    elif "=" in value:
        pairs = value.split(",")
    else:
        raise UserError(
            f"--label_map {value!r} is neither a file nor pairs: write 1=surprise,2=fear, or give "
            "a file with one such pair a line."
        )
    names: dict[str, str] = {}
    seen = set()
    for pair in pairs:
        old, equals, new = pair.partition("=")
        old, new = clean(old), clean(new)
        if not (old and equals):
            raise UserError(f"--label_map: {pair.strip()!r} is no pair such as 1=surprise.")
        if fold(old) in seen:
            raise UserError(f"--label_map names {old!r} twice: keep one of the two.")
        seen.add(fold(old))
        names[old] = "" if new == LEAVE_OUT else new
    return names


def write_map(names: Mapping[str, str]) -> str:
    """Returns a map as it is written inline."""
    return ",".join(f"{old}={new or LEAVE_OUT}" for old, new in names.items())


@dataclass(frozen=True)
class Naming:
    """The class of each name in a source.

    Attributes:
      classes: class names, in label order.
      meanings: class of each name of the source, by `fold(name)`; "" if it is left out.
      notes: lines for the user about names that were taken for one.
    """

    classes: Sequence[str]
    meanings: Mapping[str, str]
    notes: Sequence[str]

    def __getitem__(self, name: str) -> str:
        """Returns the class that a name of the source means, or "" if it is left out."""
        return self.meanings[fold(name)]


def name_classes(found: Counter[str], label_map: Mapping[str, str]) -> Naming:
    """Decides the classes and their order: that of the map, then the natural one of other names.

    Names that differ only in case or spaces are one class, in the spelling of most images.

    Args:
      found: number of images of each name in the source.
      label_map: see `read_map`.

    Raises:
      UserError: the map names a class that there is not, or a class cannot have its name.
    """
    spellings: dict[str, Counter[str]] = {}
    for name, number in found.items():
        spellings.setdefault(fold(name), Counter())[clean(name)] += number
    notes = [
        f"{' and '.join(map(repr, sorted(of_one)))} are taken for one class"
        for of_one in spellings.values()
        if len(of_one) > 1
    ]
    mapped = {fold(old): new for old, new in label_map.items()}
    for old, new in label_map.items():
        if new and fold(old) not in spellings:
            names = {key: max(of_one, key=of_one.__getitem__) for key, of_one in spellings.items()}
            nearest = difflib.get_close_matches(fold(old), names, n=1)
            hint = f", did you mean {names[nearest[0]]!r}" if nearest else ""
            raise UserError(
                f"--label_map names {old!r}, and no image has that class{hint}: there are "
                f"{', '.join(in_order(names.values()))}."
            )
    classes: dict[str, str] = {}  # the spelling of each class, in order
    for new in filter(None, label_map.values()):
        classes.setdefault(fold(new), new)
    others = [
        max(sorted(of_one), key=of_one.__getitem__)
        for key, of_one in spellings.items()
        if key not in mapped
    ]
    for name in in_order(others):
        classes.setdefault(fold(name), name)
    for name in classes.values():
        _check(name)
    meanings = {key: classes[fold(mapped[key])] if mapped.get(key) else "" for key in mapped}
    meanings |= {key: classes[key] for key in spellings if key not in mapped}
    return Naming(tuple(classes.values()), meanings, notes)


def in_order(names: Iterable[str]) -> list[str]:
    """Sorts names as people do: 2 before 10, and small letters beside capital ones."""
    return sorted(
        names,
        key=lambda name: (
            [
                (not part.isdecimal(), int(part) if part.isdecimal() else 0, part)
                for part in re.findall(r"\d+|\D+", fold(name))
            ],
            name,
        ),
    )


def _check(name: str) -> None:
    if not name or "," in name or len(name) > _LONGEST or not name.isprintable():
        raise UserError(
            f"{name[:80]!r} cannot be the name of a class: it is empty, longer than {_LONGEST} "
            "characters, or has a comma or a character that cannot be printed. Rename the folder, "
            "or map the name by a file for --label_map."
        )
