"""Two pictures of a data set: sample images, and the number of images per class."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from data_prep.checking import Record
from data_prep.report import Counts
from fer_jax.data.contract import CLASS_NAMES, IMAGE_SIZE
from fer_jax.errors import write_atomically

_COLUMNS = 12
_GAP = 4  # White pixels between two images of the grid.
_STEP = IMAGE_SIZE + _GAP
_COLOURS = {  # Okabe and Ito's palette, which suits any colour vision.
    "train": "#0072B2",
    "public_test": "#E69F00",
    "private_test": "#009E73",
    "test": "#CC79A7",
}


def draw_samples(path: Path, title: str, records: Sequence[Record], counts: Counts) -> None:
    """Draws twelve images of each class of the first split, evenly spaced in order of name."""
    split = next(iter(counts))
    rows: list[list[Record]] = [[] for _ in CLASS_NAMES]
    for record in sorted(records, key=lambda record: record.name):
        if record.split == split:
            rows[CLASS_NAMES.index(record.label)].append(record)

    figure = Figure(figsize=(12.6, 7.5), layout=_layout())
    figure.suptitle(f"{title}: {_COLUMNS} images of each class, {split} split", fontsize=16)
    axes = figure.subplots()
    axes.imshow(_mosaic(rows), cmap="gray", vmin=0, vmax=255, interpolation="lanczos")
    centres = np.arange(len(rows)) * _STEP + IMAGE_SIZE / 2
    names = [f"{name}\n{len(row):,}" for name, row in zip(CLASS_NAMES, rows, strict=True)]
    axes.set(xticks=[], yticks=centres, yticklabels=names)
    axes.tick_params(length=0, labelsize=12)
    axes.spines[:].set_visible(False)
    _save(figure, path)


def _mosaic(rows: Sequence[Sequence[Record]]) -> np.ndarray:
    """Returns uint8[height, width] with up to twelve images per row on a white background."""
    mosaic = np.full((len(rows) * _STEP - _GAP, _COLUMNS * _STEP - _GAP), 255, np.uint8)
    for top, row in enumerate(rows):
        shown = np.linspace(0, len(row) - 1, min(_COLUMNS, len(row))).astype(int)
        for left, index in enumerate(shown):
            place = mosaic[top * _STEP :, left * _STEP :]
            place[:IMAGE_SIZE, :IMAGE_SIZE] = np.asarray(row[index].image)
    return mosaic


def draw_class_distribution(path: Path, title: str, counts: Counts) -> None:
    """Draws a bar for each class of each split, labelled with count and share."""
    figure = Figure(figsize=(4.6 * len(counts), 4.6), layout=_layout())
    figure.suptitle(f"{title}: images per class", fontsize=16)
    panels = figure.subplots(1, len(counts), sharey=True, squeeze=False)[0]
    places = np.arange(len(CLASS_NAMES))
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
        axes.set(yticks=places, yticklabels=CLASS_NAMES, xticks=[])
        axes.tick_params(length=0, labelsize=12)
        axes.spines[["top", "right", "bottom"]].set_visible(False)
    panels[0].invert_yaxis()
    _save(figure, path)


def _layout() -> ConstrainedLayoutEngine:
    return ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.1)  # Inches.


def _save(figure: Figure, path: Path) -> None:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    write_atomically(path, picture.getvalue())
