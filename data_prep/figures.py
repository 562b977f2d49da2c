"""Two pictures of a data set: some of its images, and how many each class has."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from data_prep.checking import Record
from data_prep.contract import CLASS_NAMES, IMAGE_SIZE, write_atomically
from data_prep.report import Counts

_COLUMNS = 12
_GAP = 4  # White pixels between two images of the grid.
_COLOURS = {  # Okabe and Ito: told apart with any colour vision.
    "train": "#0072B2",
    "public_test": "#E69F00",
    "private_test": "#009E73",
    "test": "#CC79A7",
}


def draw_samples(path: Path, title: str, records: Sequence[Record], counts: Counts) -> None:
    """Draws twelve images of each class, spread evenly over the first split by name."""
    split = next(iter(counts))
    figure = Figure(figsize=(12.6, 8.2), layout=_layout())
    figure.suptitle(f"{title}: {_COLUMNS} images of each class, {split} split", fontsize=16)
    for label, axes in enumerate(figure.subplots(len(CLASS_NAMES), 1)):
        of_class = sorted(
            (record for record in records if (record.split, record.label) == (split, label)),
            key=lambda record: record.name,
        )
        axes.imshow(_strip(of_class), cmap="gray", vmin=0, vmax=255, interpolation="lanczos")
        axes.set_ylabel(
            f"{CLASS_NAMES[label]}\n{len(of_class):,}",
            rotation=0,
            ha="right",
            va="center",
            fontsize=12,
        )
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    _save(figure, path)


def _strip(records: Sequence[Record]) -> np.ndarray:
    """Returns uint8[48, width]: up to twelve images side by side, white where there is none."""
    step = IMAGE_SIZE + _GAP
    strip = np.full((IMAGE_SIZE, _COLUMNS * step - _GAP), 255, np.uint8)
    shown = min(_COLUMNS, len(records))
    for column, index in enumerate(np.linspace(0, len(records) - 1, shown).astype(int)):
        strip[:, column * step :][:, :IMAGE_SIZE] = np.asarray(records[index].image)
    return strip


def draw_class_distribution(path: Path, title: str, counts: Counts) -> None:
    """Draws a bar for each class of each split, with its count and share."""
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
    return ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)  # Inches.


def _save(figure: Figure, path: Path) -> None:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    write_atomically(path, picture.getvalue())
