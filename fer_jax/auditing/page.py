"""audit.html and the table on the console: what an audit found, kind by kind."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from fer_jax.auditing.findings import Audit, Finding
from fer_jax.data.exclusions import DEFAULT_KINDS, KINDS
from fer_jax.reporting.pages import data_uri, write_page

SHOWN = 48
"""Findings of each kind on the page; audit.csv has them all."""

_LARGEST_SIDE = 96  # pixels of a picture on the page

NOTES = {
    "leak": "The left image is in a split to evaluate on, the right one in an earlier split. A "
    "network that was trained on the right one may remember the left one.",
    "duplicate": "The left image is left out, the right one stays. Those with different labels "
    "come first: one of the two labels is wrong.",
    "blank": "The variance of the grey levels is below that of two copies.",
    "text": "Signs and texts, by their flat areas and few tones.",
    "label": "Predictions of a network that was not trained on the image contradict its label: "
    "they give the class after the arrow. Look before you believe them.",
    "no_face": "The detectors find no face. They overlook many that are tightly cut, turned or "
    "covered. What looks printed comes first.",
}
"""What the page says about each kind."""


def write_audit_page(path: Path, audit: Audit) -> None:
    """Writes the page atomically: pictures side by side, the worst of each kind first."""
    counts = audit.counts()
    of_kind = {
        kind: [finding for finding in audit.findings if finding.kind == kind] for kind in counts
    }
    write_page(
        path,
        "audit.html",
        data=audit.data,
        splits={name: len(records) for name, records in audit.splits.items()},
        counts=counts,
        relabelled={kind: sum(map(audit.relabelled, found)) for kind, found in of_kind.items()},
        kinds={kind: KINDS[kind] for kind in counts},
        hints=[kind for kind in counts if kind not in DEFAULT_KINDS],
        notes=NOTES,
        tiles={kind: _tiles(audit, found[:SHOWN]) for kind, found in of_kind.items()},
    )


def _tiles(audit: Audit, findings: Sequence[Finding]) -> list[dict[str, Any]]:
    tiles = []
    for finding in findings:
        images = [finding.image, *([finding.other] if finding.other >= 0 else [])]
        described = [audit.describe(image) for image in images]
        facts = []
        if finding.kind in ("leak", "duplicate"):
            facts = [f"{finding.distance:.1f} levels²" if finding.distance else "same pixels"]
            facts += [str(finding.position)] if str(finding.position) else []
        elif finding.kind == "blank":
            facts = [f"variance {finding.distance:.1f} levels²"]
        elif finding.kind == "label":
            facts = [f"{100 * finding.distance:.1f} % for its label"]
        tiles.append(
            {
                "pictures": [
                    {"image": data_uri(_picture(audit, image)), "file": file, "split": split}
                    for image, (file, split, _) in zip(images, described, strict=True)
                ],
                "labels": [label for _, _, label in described],
                "guess": audit.data.classes[finding.guess] if finding.guess >= 0 else "",
                "facts": facts,
            }
        )
    return tiles


def _picture(audit: Audit, image: int) -> UInt8[np.ndarray, "h w c"]:
    split, number = audit.place(image)
    (pixels,) = audit.splits[split].read(np.array([number]))
    if max(pixels.shape) > _LARGEST_SIDE:
        size = (_LARGEST_SIDE, _LARGEST_SIDE)
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return pixels.reshape(*pixels.shape[:2], -1)


def print_audit(audit: Audit) -> None:
    """Prints the number of images of each kind and split, in at most 80 columns."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    counts = audit.counts()
    title = f"{audit.data.title}, {sum(map(len, audit.splits.values())):,} images"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("kind", no_wrap=True)
    for name in audit.splits:
        table.add_column(name, justify="right", overflow="fold")
    table.add_column("other label", justify="right")
    table.add_column("what it is")
    for kind, found in counts.items():
        other = sum(audit.relabelled(f) for f in audit.findings if f.kind == kind)
        of_splits = [f"{found[name]:,}" if found[name] else "-" for name in audit.splits]
        hint = "" if kind in DEFAULT_KINDS else " (a hint)"
        table.add_row(kind, *of_splits, f"{other:,}" if other else "-", KINDS[kind] + hint)
    console = Console(width=80, highlight=False)
    console.print(table if counts else f"{title}: nothing to leave out.")
    if across := audit.across_parts():
        console.print(
            f"{across:,} duplicates of train have their copy on the other side of train_80 and "
            "validation_20."
        )
