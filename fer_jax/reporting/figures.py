"""Figures of a run and of an evaluation, for files and for TensorBoard.

They use matplotlib's objects alone, no pyplot: no global state, no display, and matplotlib is
imported when the first figure is drawn. Colours are those of Okabe and Ito, which colour-blind
readers tell apart; nothing is said by colour only.
"""

import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int, UInt8

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BLUE, _VERMILION = "#0072B2", "#D55E00"
_INK, _GREY, _FAINT = "#222222", "#666666", "#DDDDDD"
_DPI = 150  # pixels per inch
_GRID_COLUMNS = 7


def plot_curves(history: Sequence[Mapping[str, Any]]) -> "Figure":
    """Plots loss, accuracy (%) and learning rate over the epochs of metrics.jsonl, one or more.

    A dotted line and a star mark the best validation accuracy, the first of equals. Values that are
    None, metrics.jsonl's word for not finite, are left out.
    """
    from matplotlib.ticker import MaxNLocator

    figure = _new_figure(10.5, 3.3)
    epochs = [epoch["epoch"] for epoch in history]
    column = {
        key: np.array([epoch[key] for epoch in history], dtype=float)
        for key in ("train_loss", "val_loss", "train_accuracy", "val_accuracy", "learning_rate")
    }
    marker = "o" if len(history) <= 20 else ""
    loss, accuracy, rate = figure.subplots(1, 3, width_ratios=(1, 1, 0.7))

    for axes, name, scale in ((loss, "loss", 1), (accuracy, "accuracy", 100)):
        train, validation = scale * column[f"train_{name}"], scale * column[f"val_{name}"]
        style = {"marker": marker, "markersize": 3.5, "linewidth": 1.5}
        axes.plot(epochs, train, "--", color=_VERMILION, label="training", **style)
        axes.plot(epochs, validation, color=_BLUE, label="validation", **style)
    rate.plot(epochs, column["learning_rate"], color=_INK, marker=marker, markersize=3.5)
    if (column["learning_rate"] > 0).any():
        rate.set_yscale("log")

    if np.isfinite(column["val_accuracy"]).any():
        best = int(np.nanargmax(column["val_accuracy"]))
        for axes in (loss, accuracy, rate):
            axes.axvline(epochs[best], color=_GREY, linestyle=":", zorder=0, label="best epoch")
        value = 100 * column["val_accuracy"][best]
        accuracy.plot(epochs[best], value, "*", color=_BLUE, markersize=11)
        accuracy.set_title(f"best {value:.1f} % at epoch {epochs[best]}", **_title())

    for axes, label in ((loss, "loss"), (accuracy, "accuracy (%)"), (rate, "learning rate")):
        _plain(axes)
        axes.set_xlabel("epoch", color=_INK)
        axes.set_ylabel(label, color=_INK)
        axes.grid(color=_FAINT, linewidth=0.6)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
        if len(history) == 1:
            axes.set_xlim(epochs[0] - 1, epochs[0] + 1)
    loss.legend(frameon=False, fontsize=9)
    return figure


def plot_confusion_matrix(
    matrix: Int[np.ndarray, "classes classes"], classes: Sequence[str]
) -> "Figure":
    """Draws counts, and percents of their row; rows are true classes, columns predicted ones.

    The colour follows the percent. A class without images has an empty row of zeros.
    """
    matrix = np.asarray(matrix)
    totals = matrix.sum(axis=1, keepdims=True)
    share = matrix / np.maximum(totals, 1)
    side = 0.72 * len(classes) + 0.085 * max(map(len, classes)) + 0.7
    figure = _new_figure(side, side)
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*matrix.shape):
        axes.text(
            column,
            row,
            f"{matrix[row, column]:,}\n{100 * share[row, column]:.0f} %",
            ha="center",
            va="center",
            fontsize=8.5,
            color="white" if share[row, column] > 0.55 else _INK,
        )
    axes.set_xticks(range(len(classes)), classes, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("predicted class", color=_INK)
    axes.set_ylabel("true class (rows sum to 100 %)", color=_INK)
    accuracy = matrix.trace() / max(matrix.sum(), 1)
    axes.set_title(f"{100 * accuracy:.1f} % of {matrix.sum():,} images correct", **_title())
    axes.tick_params(length=0, labelsize=9.5, colors=_INK)
    axes.spines[:].set_visible(False)
    return figure


def plot_samples(
    images: UInt8[np.ndarray, "n h w 1"],
    labels: Int[np.ndarray, " n"],
    predicted: Int[np.ndarray, " n"],
    confidences: Float[np.ndarray, " n"],
    classes: Sequence[str],
) -> "Figure":
    """Draws one image or more, each titled with its true and its predicted class.

    Wrong predictions have a cross, bold type and a thick vermilion frame. `confidences` are the
    probabilities of the predicted classes, in [0, 1].
    """
    columns = min(_GRID_COLUMNS, len(images))
    rows = math.ceil(len(images) / columns)
    width = max(1.35, 0.085 * (max(map(len, classes)) + 8))
    figure = _new_figure(max(columns * width, 3.2), rows * 1.68 + 0.4)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(images) :]:
        axes.set_axis_off()
    right = np.asarray(labels) == np.asarray(predicted)
    for index, axes in enumerate(grid[: len(images)]):
        axes.imshow(images[index, :, :, 0], cmap="gray", vmin=0, vmax=255)
        axes.set_xticks([])
        axes.set_yticks([])
        colour, mark = (_INK, "✓") if right[index] else (_VERMILION, "✗")
        axes.set_title(
            f"{classes[labels[index]]} /\n"
            f"{mark} {classes[predicted[index]]} {100 * confidences[index]:.0f} %",
            fontsize=8,
            color=colour,
            fontweight="normal" if right[index] else "bold",
            pad=4,
        )
        axes.spines[:].set(color=colour, linewidth=0.5 if right[index] else 3)
    figure.suptitle(
        f"true / predicted class: {right.sum()} of {len(images)} correct",
        **_title(),
        x=0.01,
        ha="left",
    )
    return figure


def to_png(figure: "Figure") -> bytes:
    """Returns the figure as a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    png = io.BytesIO()
    FigureCanvasAgg(figure).print_png(png)
    return png.getvalue()


def to_array(figure: "Figure") -> UInt8[np.ndarray, "h w 3"]:
    """Returns the figure as RGB pixels, for TensorBoard."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[:, :, :3]


def _new_figure(width: float, height: float) -> "Figure":
    """Returns an empty figure of that size in inches, which makes room for its labels by itself."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    margins = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06)  # inches
    return Figure(figsize=(width, height), dpi=_DPI, layout=margins)


def _title() -> dict[str, Any]:
    return {"fontsize": 10, "color": _INK}


def _plain(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_GREY)
    axes.tick_params(colors=_INK, labelsize=9)
