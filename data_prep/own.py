"""Opens anybody's labelled faces: folders named after classes, or images beside a table."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from data_prep.candidates import Candidate, Release
from data_prep.class_folders import LAYOUT, pass_over, read_class_folders
from data_prep.files import Entry, file_entry, is_zip, list_folder, open_zip
from data_prep.grouping import add_groups, set_aside
from data_prep.images import RejectedError
from data_prep.label_map import Naming, name_classes
from data_prep.options import Options
from data_prep.table_labels import Labelled, label_pictures
from data_prep.tables import Table, find_tables, read_table
from data_prep.votes import to_shares
from fer_jax.errors import UserError


@contextmanager
def open_own(options: Options) -> Iterator[Release]:
    """Opens a folder or zip of labelled faces for as long as the context lasts.

    Raises:
      UserError: there are no labels, or they do not suit the options.
    """
    source = Path(options.source).expanduser()
    data_dir = options.data_dir
    if isinstance(data_dir, Path) and data_dir.resolve().is_relative_to(source.resolve()):
        raise UserError(
            f"--data_dir {options.data_dir} lies in --source, whose files are all read: choose "
            "another --data_dir."
        )
    with ExitStack() as stack:
        entries = _list(source, stack)
        left_out: Counter[str] = Counter()
        tables, notes = _tables(options, entries)
        read_as_tables = {table.path for table in tables}
        others = [entry for entry in entries if entry.path not in read_as_tables]
        pictures = pass_over(others, left_out)
        if tables:
            keys = tuple(options.label_map)
            labelled = label_pictures(tables, pictures, keys, originals=options.detect_faces)
            left_out["pictures that the table does not name"] += labelled.unnamed
        else:
            labelled = Labelled(read_class_folders(pictures, options.source))
        good, bad = _divide(labelled)
        naming = name_classes(_names(good, labelled), options.label_map)
        found = len(good)
        good = _apply(naming, good, labelled, left_out)
        if found and not good:
            raise UserError("no image is left: --label_map leaves every class out.")
        notes += [*labelled.notes, *naming.notes]
        if options.group_by:
            good = add_groups(good, options.group_by)
            notes.append(_describe_groups(good))
        good = set_aside(good, naming.classes, options.fractions, options.seed)
        yield Release(
            "table" if tables else "folders",
            iter([*good, *bad]),
            len(good) + len(bad),
            naming.classes,
            any_size=True,
            own=True,
            left_out=+left_out,
            notes=notes,
        )


def _list(path: Path, stack: ExitStack) -> list[Entry]:
    if path.is_dir():
        return list_folder(path)
    if is_zip(path):
        return stack.enter_context(open_zip(path))
    if not path.exists():
        raise UserError(f"--source {path} does not exist: give a folder or .zip of images.")
    raise UserError(f"--source {path} is neither a folder nor a .zip: give {LAYOUT}.")


def _tables(options: Options, entries: Sequence[Entry]) -> tuple[list[Table], list[str]]:
    """Returns the tables of labels, and lines about others."""
    if not options.table:
        return find_tables(entries, options.columns, options.source)
    inside = [entry for entry in entries if entry.path == options.table]
    path = os.path.expanduser(options.table)
    if not inside and not os.path.isfile(path):
        raise UserError(f"--table {options.table}: no such file, neither in the source nor here.")
    try:
        return [read_table((inside or [file_entry(Path(path), path)])[0], options.columns)], []
    except RejectedError as error:
        raise UserError(f"--table {options.table} cannot be read: {error}.") from None


def _divide(labelled: Labelled) -> tuple[list[Candidate], list[Candidate]]:
    """Returns the candidates that have a label or votes, and those that will be quarantined."""
    good: list[Candidate] = []
    bad: list[Candidate] = []
    for candidate in labelled.candidates:
        known = candidate.label or candidate.name in labelled.counts
        (good if known else bad).append(candidate)
    return good, bad


def _describe_groups(candidates: Sequence[Candidate]) -> str:
    groups = {candidate.group for candidate in candidates if candidate.group}
    alone = sum(not candidate.group for candidate in candidates)
    return f"--group_by finds {len(groups):,} groups; {alone:,} images have none"


def _names(candidates: Sequence[Candidate], labelled: Labelled) -> Counter[str]:
    """Returns how often each name occurs, or how many votes it has."""
    names: Counter[str] = Counter()
    for candidate in candidates:
        if votes := labelled.counts.get(candidate.name):
            names.update(votes)  # type: ignore[arg-type]  # Shares count as well.
        else:
            names[candidate.label] += 1
    return names


def _apply(
    naming: Naming,
    candidates: Sequence[Candidate],
    labelled: Labelled,
    left_out: Counter[str],
) -> list[Candidate]:
    """Gives candidates their classes; those that are left out are counted in `left_out`."""
    kept = []
    for candidate in candidates:
        if counts := labelled.counts.get(candidate.name):
            votes = to_shares(counts, naming)
            if not any(votes):
                left_out["images with votes for classes that are left out only"] += 1
                continue
            label = naming.classes[votes.index(max(votes))]
            kept.append(replace(candidate, label=label, votes=votes))
        elif label := naming[candidate.label]:
            kept.append(replace(candidate, label=label))
        else:
            left_out[f"images of class {candidate.label!r}, which the map leaves out"] += 1
    return kept
