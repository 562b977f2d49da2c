"""Reports for the user: the quarantine, and the counts beside the published ones."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from data_prep.checking import Quarantined, Record
from fer_jax.data.contract import CLASS_NAMES, PUBLISHED_COUNTS
from fer_jax.errors import write_atomically

Counts = dict[str, np.ndarray]


def count(records: Iterable[Record]) -> Counts:
    """Returns the number of images per class, int64[7], of each split that has images.

    The splits are in the order of `PUBLISHED_COUNTS`.
    """
    counts: Counts = {split: np.zeros(len(CLASS_NAMES), np.int64) for split in PUBLISHED_COUNTS}
    for record in records:
        counts[record.split][CLASS_NAMES.index(record.label)] += 1
    return {split: images for split, images in counts.items() if images.any()}


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


def print_counts(counts: Counts, *, beside_published: bool) -> None:
    """Prints the number of images per split and class, optionally beside the published one."""
    table = Table("split", "class", title="images written", title_justify="left")
    cells = _compare if beside_published else _show
    for column in ("images", "published", "difference") if beside_published else ("images",):
        table.add_column(column, justify="right")
    for split, images in counts.items():
        published = np.array(PUBLISHED_COUNTS[split])
        for label, name in enumerate(CLASS_NAMES):
            table.add_row(split, name, *cells(images[label], published[label]))
        table.add_section()
        table.add_row(
            split, "all", *cells(images.sum(), published.sum()), style="bold", end_section=True
        )
    Console().print(table)


def _show(images: int, _: int) -> tuple[str]:
    return (f"{images:,}",)


def _compare(images: int, published: int) -> tuple[str, str, str]:
    difference = "[green]=[/]" if images == published else f"[yellow]{images - published:+,}[/]"
    return f"{images:,}", f"{published:,}", difference
