"""Reports for the user: the quarantine, and the counts beside the published ones."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from data_prep.checking import Quarantined, Record
from fer_jax.data.contract import PUBLISHED_COUNTS
from fer_jax.errors import write_atomically

SPLITS = ("train", "validation", "public_test", "private_test", "test")
"""Names of splits in the order in which they are shown."""

Counts = dict[str, np.ndarray]


def count(records: Iterable[Record], classes: Sequence[str]) -> Counts:
    """Returns the number of images per class, int64[classes], of each split that has images.

    The splits are in the order of `SPLITS`.
    """
    numbers = {name: label for label, name in enumerate(classes)}
    counts: Counts = {split: np.zeros(len(classes), np.int64) for split in SPLITS}
    for record in records:
        counts[record.split][numbers[record.label]] += 1
    return {split: images for split, images in counts.items() if images.any()}


def totals(counts: Counts, classes: Sequence[str]) -> dict[str, int]:
    """Returns the number of images of each class in all splits together."""
    numbers = np.sum(list(counts.values()), axis=0)
    return dict(zip(classes, numbers.tolist(), strict=True))


def write_quarantine(path: Path, quarantined: Sequence[Quarantined]) -> None:
    """Writes a csv of name, split and reason, which has a header even without rows."""
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(("name", "split", "reason"))
    writer.writerows((bad.name, bad.split, bad.reason) for bad in quarantined)
    write_atomically(path, lines.getvalue())


def resize_hint(quarantined: Sequence[Quarantined]) -> str:
    """Returns the part of a summary that says how many images --resize would take in, or ""."""
    sized = sum("--resize" in bad.reason for bad in quarantined)
    return f", {sized:,} of them for their size, which --resize mends" if sized else ""


def print_counts(counts: Counts, classes: Sequence[str], *, beside_published: bool) -> None:
    """Prints the number of images per split and class, optionally beside the published one."""
    table = Table("split", "class", title="images written", title_justify="left")
    for column in ("images", "published", "difference") if beside_published else ("images",):
        table.add_column(column, justify="right")
    for split, images in counts.items():
        rows = [*images, images.sum()]
        cells = [[f"{number:,}"] for number in rows]
        if beside_published:
            published = PUBLISHED_COUNTS[split]
            cells = list(map(_compare, rows, [*published, sum(published)]))
        for name, row in zip(classes, cells[:-1], strict=True):
            table.add_row(split, escape(name), *row)
        table.add_section()
        table.add_row(split, "all", *cells[-1], style="bold", end_section=True)
    Console().print(table)


def _compare(images: int, published: int) -> list[str]:
    difference = "[green]=[/]" if images == published else f"[yellow]{images - published:+,}[/]"
    return [f"{images:,}", f"{published:,}", difference]
