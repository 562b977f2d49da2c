"""Two pictures of a data set: sample images, and the number of images per class."""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from data_prep.checking import Record
from data_prep.report import Counts
from fer_jax.errors import write_atomically

_COLUMNS = 12
_COLOURS = {  # Okabe and Ito's palette, which suits any colour vision.
    "train": "#0072B2",
    "validation": "#56B4E9",
    "public_test": "#E69F00",
    "private_test": "#009E73",
    "test": "#CC79A7",
}


def draw_samples(
    path: Path, title: str, records: Sequence[Record], counts: Counts, classes: Sequence[str]
) -> None:
    """Draws twelve images of each class of the first split, evenly spaced in order of name."""
    split = next(iter(counts))
    rows: dict[str, list[Record]] = {name: [] for name in classes}
    for record in sorted(records, key=lambda record: record.name):
        if record.split == split:
            rows[record.label].append(record)

    with mpl.rc_context({"text.parse_math": False}):  # A dollar in a class name is no formula.
        figure = Figure(figsize=(12.6, 0.5 + len(rows)), layout=_layout())
        shown = min(_COLUMNS, max(map(len, rows.values())))
        figure.suptitle(f"{title}: {shown} images of each class, {split} split", fontsize=16)
        axes = figure.subplots()
        mosaic, step = _mosaic(list(rows.values()))
        axes.imshow(mosaic, cmap="gray", vmin=0, vmax=255, interpolation="lanczos")
        centres = (np.arange(len(rows)) + 0.5) * step
        names = [f"{name}\n{len(row):,}" for name, row in rows.items()]
        axes.set(xticks=[], yticks=centres, yticklabels=names)
        axes.tick_params(length=0, labelsize=12)
        axes.spines[:].set_visible(False)
        _save(figure, path)


def _mosaic(rows: Sequence[Sequence[Record]]) -> tuple[np.ndarray, int]:
    """Returns up to twelve images per row on a white background, and their distance.

    The array is uint8[height, width] or, of coloured images, uint8[height, width, 3].
    """
    some = np.asarray(next(row[0] for row in rows if row).open())
    size = len(some)
    gap = size // 12
    step = size + gap
    shape = len(rows) * step - gap, _COLUMNS * step - gap, *some.shape[2:]
    mosaic = np.full(shape, 255, np.uint8)
    for top, row in enumerate(rows):
        shown = np.linspace(0, len(row) - 1, min(_COLUMNS, len(row))).astype(int)
        for left, index in enumerate(shown):
            place = mosaic[top * step :, left * step :]
            place[:size, :size] = np.asarray(row[index].open())
    return mosaic, step


def draw_class_distribution(path: Path, title: str, counts: Counts, classes: Sequence[str]) -> None:
    """Draws a bar for each class of each split, labelled with count and share."""
    with mpl.rc_context({"text.parse_math": False}):
        figure = Figure(figsize=(4.6 * len(counts), 1.1 + 0.5 * len(classes)), layout=_layout())
        figure.suptitle(f"{title}: images per class", fontsize=16)
        panels = figure.subplots(1, len(counts), sharey=True, squeeze=False)[0]
        places = np.arange(len(classes))
        for axes, (split, images) in zip(panels, counts.items(), strict=True):
            axes.barh(places, images, color=_COLOURS[split])
            for place, number in zip(places, images, strict=True):
                axes.annotate(
                    f"{number:,} ({number / images.sum():.1%})",
                    (number, place),
                    xytext=(6, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=10,
                )
            axes.set_title(f"{split}: {images.sum():,} images")
            axes.set_xlim(0, 1.5 * max(images))
            axes.set(yticks=places, yticklabels=classes, xticks=[])
            axes.tick_params(length=0, labelsize=12)
            axes.spines[["top", "right", "bottom"]].set_visible(False)
        panels[0].invert_yaxis()
        _save(figure, path)


def _layout() -> ConstrainedLayoutEngine:
    return ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.1)  # Inches.


def _save(figure: Figure, path: Path) -> None:
    picture = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # of a class name, in this font
        figure.savefig(picture, format="png", dpi=120)
    write_atomically(path, picture.getvalue())
