"""Reads folders of images that are named after classes, of any kind and number."""

from collections import Counter
from collections.abc import Sequence
from functools import partial

from data_prep.candidates import Candidate, is_hidden, load_file
from data_prep.files import Entry
from data_prep.images import refuse
from fer_jax.data.pixels import picture_suffixes
from fer_jax.errors import UserError
from fer_jax.paths import printable

LAYOUT = "<class>/*.jpg, or train/<class>/*.jpg and the like"
"""The layouts that are read, for messages."""

_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "val", "valid"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def split_name(word: str) -> str:
    """Returns the split that people call by this word, such as "val" or "Test", or ""."""
    return _SPLITS.get(word.strip().casefold().removesuffix("_set"), "")


def is_picture(path: str) -> bool:
    """Whether the name is that of a picture that `predict` reads, or of an unsupported one."""
    suffix = path.rpartition(".")[2]
    return f".{suffix.casefold()}" in picture_suffixes()


def pass_over(entries: Sequence[Entry], left_out: Counter[str]) -> list[Entry]:
    """Returns the pictures among the files; the others are counted in `left_out`."""
    pictures = []
    for entry in entries:
        if is_hidden(entry.path):
            left_out["hidden files"] += 1
        elif not is_picture(entry.path):
            left_out["files that are no pictures"] += 1
        else:
            pictures.append(entry)
    return pictures


def read_class_folders(pictures: Sequence[Entry], source: str) -> list[Candidate]:
    """Returns a candidate for each picture, labelled as its folder is written.

    Raises:
      UserError: there are no class folders, or several sets of them.
    """
    root, with_splits = _find_root([entry.path for entry in pictures], source)
    return [_read_file(entry, root, with_splits) for entry in pictures]


def _find_root(paths: Sequence[str], source: str) -> tuple[str, bool]:
    """Returns the folder that holds the split or class folders, and whether there are splits."""
    split_roots, class_roots = Counter[str](), Counter[str]()
    for path in paths:
        parts = path.split("/")
        if len(parts) >= 3 and split_name(parts[-3]):
            split_roots["".join(f"{part}/" for part in parts[:-3])] += 1
        if len(parts) >= 2:
            class_roots["".join(f"{part}/" for part in parts[:-2])] += 1
    if len(split_roots) > 1:
        raise UserError(
            f"{source} holds {len(split_roots)} sets of faces, in "
            f"{printable(' and '.join(root or './' for root in sorted(split_roots)[:3]))}: "
            "give --source the one you want."
        )
    if split_roots:
        return next(iter(split_roots)), True
    if not class_roots:
        raise UserError(f"{source} holds no folders of images named after classes: give {LAYOUT}.")
    return max(sorted(class_roots), key=class_roots.__getitem__), False


def _read_file(entry: Entry, root: str, with_splits: bool) -> Candidate:
    """Returns the candidate of a file; if it is out of place, its `load` rejects it."""
    name = entry.path.removeprefix(root)
    *folders, _ = name.split("/")
    split = split_name(folders[0]) if with_splits and folders else "" if with_splits else "train"
    if not entry.path.startswith(root) or (folders and not split):
        reason = f"outside the folders {root}train and the like"
    elif len(folders) != 1 + with_splits:
        reason = f"not directly inside a {'<split>/<class>' if with_splits else '<class>'} folder"
    else:
        return Candidate(name, split, folders[-1], partial(load_file, entry, ()))
    return Candidate(name, split, "", refuse(reason))
