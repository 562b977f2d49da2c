"""Figures of runs and evaluations, for files, TensorBoard and pages.

They use matplotlib's objects without pyplot, so there is no global state and no display. The first
figure imports matplotlib. The colours are Okabe and Ito's, which colour-blind
readers can tell apart. No information is in colour alone.
"""

import html
import io
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from fer_jax.reporting.metrics import wilson_intervals

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BLUE, _VERMILION, _GREEN, _PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
_INK, _GREY, _FAINT = "#222222", "#666666", "#DDDDDD"
_CSS_VARIABLES = {
    "blue": _BLUE,
    "vermilion": _VERMILION,
    "green": _GREEN,
    "purple": _PURPLE,
    "ink": _INK,
    "grey": _GREY,
    "faint": _FAINT,
}
_LINES = ("-", "--", "-.", ":")
_DPI = 150  # pixels per inch
_GRID_COLUMNS = 8
_PHONE = 3.6  # inches: the width of a phone's screen in CSS units
_HEIGHT = 3.0  # inches: of every chart that stands beside others

PANELS = {
    "loss": (("train_loss", "val_loss"), 1),
    "accuracy (%)": (("train_accuracy", "val_accuracy"), 100),
    "learning rate": (("learning_rate",), 1),
    "images/s": (("images_per_second",), 1),
}
"""Columns of metrics.jsonl and scale of each panel, by its title. All columns but the last are of
training."""


def plot_curves(
    history: Sequence[Mapping[str, Any]],
    panels: Sequence[str] = ("loss", "accuracy (%)", "learning rate"),
    heading: str = "",
) -> "Figure":
    """Plots a history over its epochs.

    A dotted line and a star mark the first epoch with the best validation accuracy. Values that
    are None (in metrics.jsonl: not finite) are left out.

    Args:
      history: rows of metrics.jsonl, at least one.
      panels: keys of `PANELS`, drawn side by side.
      heading: line above the panels, such as the run's name.
    """
    figure = _new_figure(_PHONE * len(panels), _HEIGHT)
    _head(figure, heading)
    epochs = [epoch["epoch"] for epoch in history]
    val_accuracy = _column(history, "val_accuracy")
    best = int(np.nanargmax(val_accuracy)) if np.isfinite(val_accuracy).any() else None
    style = {"marker": "o" if len(history) <= 20 else "", "markersize": 3.5, "linewidth": 1.5}
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        (*training, last), scale = PANELS[panel]
        for key in training:
            values = scale * _column(history, key)
            axes.plot(epochs, values, "--", color=_VERMILION, label="training", **style)
        colour, label = (_BLUE, "validation") if training else (_INK, None)
        axes.plot(epochs, scale * _column(history, last), color=colour, label=label, **style)
        if best is not None:
            axes.axvline(epochs[best], color=_GREY, linestyle=":", zorder=0, label="best epoch")
            if last == "val_accuracy":
                value = scale * val_accuracy[best]
                axes.plot(epochs[best], value, "*", color=_BLUE, markersize=11)
                axes.set_title(f"{panel}, best {value:.1f} at epoch {epochs[best]}", **_title())
        _over_epochs(axes, panel, history)
        if training:
            axes.legend(frameon=False, fontsize=9, labelcolor=_INK)
    return figure


def plot_validation(histories: Mapping[str, Sequence[Mapping[str, Any]]], panel: str) -> "Figure":
    """Plots the last curve of a panel for several runs.

    Args:
      histories: rows of metrics.jsonl by the letter that marks the run's curve.
      panel: a key of `PANELS`.
    """
    figure = _new_figure(_PHONE, _HEIGHT)
    axes = figure.subplots()
    (*_, key), scale = PANELS[panel]
    colours = itertools.cycle((_BLUE, _VERMILION, _GREEN, _PURPLE))
    for index, (letter, history) in enumerate(histories.items()):
        apart = max(1, len(history) // 3)
        axes.plot(
            [epoch["epoch"] for epoch in history],
            scale * _column(history, key),
            color=next(colours),
            # Neighbours differ in style, and so do curves of the same colour.
            linestyle=_LINES[(index + index // len(_LINES)) % len(_LINES)],
            linewidth=1.3,
            marker=rf"$\mathrm{{{letter}}}$",
            markersize=7.5,
            markevery=(index * apart // len(histories), apart),
        )
    _over_epochs(axes, panel, max(histories.values(), key=len))
    return figure


def plot_phases(seconds: Mapping[str, float]) -> "Figure":
    """Draws how many seconds each phase of a run took, from the first at the top."""
    figure = _new_figure(_PHONE, _HEIGHT)
    axes = figure.subplots()
    bars = axes.barh(range(len(seconds)), list(seconds.values()), 0.7, color=_BLUE)
    axes.bar_label(bars, fmt="{:,.1f}", fontsize=9, color=_INK, padding=2)
    axes.set_yticks(range(len(seconds)), list(seconds), parse_math=False)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.2 * max(seconds.values(), default=0) or 1)  # Room for the labels.
    axes.set_title(f"seconds, {sum(seconds.values()):,.0f} in all", **_title())
    _plain(axes)
    axes.xaxis.set_major_formatter(_thousands)
    axes.tick_params(axis="y", length=0)
    return figure


def plot_confusion_matrix(
    matrix: Int[np.ndarray, "classes classes"], classes: Sequence[str], heading: str = ""
) -> "Figure":
    """Draws counts and percentages of the row. Rows are true classes, columns predicted classes.

    The colour shows the percentage. A class without images has no percentages. `heading` is a line
    above, such as the run and the split.
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
            f"{matrix[row, column]:,}\n"
            + (f"{100 * share[row, column]:.0f} %" if totals[row, 0] else "\N{EN DASH}"),
            ha="center",
            va="center",
            fontsize=8.5,
            color="white" if share[row, column] > 0.55 else _INK,
        )
    axes.set_xticks(
        range(len(classes)),
        classes,
        parse_math=False,
        rotation=40,
        ha="right",
        rotation_mode="anchor",
    )
    axes.set_yticks(range(len(classes)), classes, parse_math=False)
    axes.set_xlabel("predicted class", color=_INK)
    axes.set_ylabel("true class (rows sum to 100 %)", color=_INK)
    accuracy = matrix.trace() / max(matrix.sum(), 1)
    axes.set_title(f"{100 * accuracy:.1f} % of {matrix.sum():,} images correct", **_title())
    _head(figure, heading)
    axes.tick_params(length=0, labelsize=9.5, colors=_INK)
    axes.spines[:].set_visible(False)
    return figure


def plot_samples(
    images: UInt8[np.ndarray, "n h w channels"],
    labels: Int[np.ndarray, " n"],
    predicted: Int[np.ndarray, " n"],
    confidences: Float[np.ndarray, " n"],
    classes: Sequence[str],
    heading: str = "",
) -> "Figure":
    """Draws one or more images, each with its true and its predicted class as the title.

    Wrong predictions have a cross, bold type and a thick vermilion frame. `confidences` are the
    probabilities of the predicted classes, in [0, 1]. `heading` is a line above, such as the run
    and the split.
    """
    columns = min(_GRID_COLUMNS, len(images))
    rows = math.ceil(len(images) / columns)
    width = max(1.35, 0.085 * (max(map(len, classes)) + 8))
    side, height, head = 1.15, 1.65, 0.6 if heading else 0.4  # inches of a picture, row, heading
    size = (max(columns * width, 3.2), rows * height + head)
    figure = _new_figure(*size)
    # As all sizes are known, the slow layout engine is not needed.
    figure.set_layout_engine("none")
    beside = (size[0] - (columns - 1) * width - side) / 2
    margins = {
        "left": beside / size[0],
        "right": 1 - beside / size[0],
        "bottom": 0.08 / size[1],
        "top": 1 - (head + height - side - 0.08) / size[1],
        "wspace": width / side - 1,
        "hspace": height / side - 1,
    }
    grid = figure.subplots(rows, columns, squeeze=False, gridspec_kw=margins).ravel()
    for axes in grid[len(images) :]:
        axes.set_axis_off()
    correct = np.asarray(labels) == np.asarray(predicted)
    grey = images.shape[-1] == 1
    for index, axes in enumerate(grid[: len(images)]):
        axes.imshow(
            images[index].squeeze(-1) if grey else images[index], cmap="gray", vmin=0, vmax=255
        )
        axes.set_xticks([])
        axes.set_yticks([])
        colour, mark = (_INK, "✓") if correct[index] else (_VERMILION, "✗")
        axes.set_title(
            f"{classes[labels[index]]} /\n"
            f"{mark} {classes[predicted[index]]} {100 * confidences[index]:.0f} %",
            fontsize=8,
            color=colour,
            fontweight="normal" if correct[index] else "bold",
            pad=4,
            parse_math=False,
        )
        axes.spines[:].set(color=colour, linewidth=0.5 if correct[index] else 3)
    _head(figure, heading, f"true / predicted class: {correct.sum()} of {len(images)} correct")
    return figure


def plot_reliability(
    count: Int[np.ndarray, " bins"],
    confidence: Float[np.ndarray, " bins"],
    accuracy: Float[np.ndarray, " bins"],
) -> "Figure":
    """Draws a reliability diagram above a histogram of its equal-width bins.

    The error bars are Wilson's 95 % intervals.

    Args:
      count: number of images in each bin.
      confidence: mean confidence in each bin, in [0, 1]; NaN for an empty bin.
      accuracy: fraction of correct predictions in each bin; NaN for an empty bin.
    """
    figure = _new_figure(_PHONE, 3.9)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    occupied = count > 0
    correct = np.round(accuracy[occupied] * count[occupied]).astype(int)
    intervals = wilson_intervals(correct, count[occupied])
    upper.plot([0, 100], [0, 100], "--", color=_GREY, linewidth=1, label="perfectly calibrated")
    upper.errorbar(
        100 * confidence[occupied],
        100 * accuracy[occupied],
        yerr=100 * np.abs(intervals.T - accuracy[occupied]),
        fmt="o",
        color=_BLUE,
        markersize=5,
        elinewidth=1.2,
        capsize=2,
        label="this model, 95 %",
    )
    ticks = range(0, 101, 20)
    upper.set(xlim=(-3, 103), ylim=(-3, 103), xticks=ticks, yticks=ticks)  # Whole dots at the ends.
    upper.set_ylabel("accuracy (%)", color=_INK)
    upper.set_title("accuracy and images by confidence", **_title())
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8.5, labelcolor=_INK)
    edges = np.linspace(0, 100, len(count) + 1)
    lower.bar(edges[:-1], count, np.diff(edges), align="edge", color=_BLUE, edgecolor=_FAINT)
    lower.set_ylabel("images", color=_INK)
    lower.set_xlabel("confidence (%)", color=_INK)
    for axes in (upper, lower):
        _plain(axes)
    upper.grid(color=_FAINT, linewidth=0.6)
    return figure


def plot_precision_recall(
    precision: Float[np.ndarray, " k"],
    recall: Float[np.ndarray, " k"],
    *,
    share: float,
    chosen: tuple[float, float] | None,
) -> "Figure":
    """Draws the small precision-recall curve of one class.

    Args:
      precision: fractions from `metrics.precision_recall`.
      recall: fractions from the same call.
      share: fraction of the images in this class, which is the precision of a random guess; drawn
        as a dotted line.
      chosen: recall and precision when the most probable class is predicted; drawn as a dot.
        None if the class is never predicted.
    """
    figure = _new_figure(_PHONE / 2, 1.75)
    axes = figure.subplots()
    axes.axhline(100 * share, color=_GREY, linestyle=":", linewidth=1)
    axes.plot(100 * recall, 100 * precision, color=_BLUE, linewidth=1.3, drawstyle="steps-post")
    if chosen is not None:
        axes.plot(100 * chosen[0], 100 * chosen[1], "o", color=_VERMILION, markersize=5)
    axes.set(xlim=(-4, 104), ylim=(-4, 104), xticks=(0, 50, 100), yticks=(0, 50, 100))
    axes.set_xlabel("recall (%)", color=_INK, fontsize=8.5)
    axes.set_ylabel("precision (%)", color=_INK, fontsize=8.5)
    axes.grid(color=_FAINT, linewidth=0.6)
    _plain(axes)
    return figure


def plot_class_shares(
    counts: Mapping[str, Int[np.ndarray, " classes"]], classes: Sequence[str]
) -> "Figure":
    """Draws the distribution of one to three sets of images over the classes, in percent.

    Args:
      counts: number of images in each class, by the set's name; the bars keep this order.
      classes: names.
    """
    figure = _new_figure(_PHONE, 0.17 * len(classes) * (len(counts) + 1) + 0.8)
    axes = figure.subplots()
    height = 0.84 / len(counts)
    looks: tuple[dict[str, Any], ...] = (
        {"facecolor": _BLUE, "edgecolor": _BLUE},
        {"facecolor": "none", "edgecolor": _VERMILION, "hatch": "//////"},
        {"facecolor": _FAINT, "edgecolor": _GREY},
    )
    for index, (name, count) in enumerate(counts.items()):
        shares = 100 * count / count.sum()
        positions = np.arange(len(classes)) + (index + 0.5) * height - 0.42
        bars = axes.barh(positions, shares, 0.9 * height, linewidth=0.8, **looks[index])
        bars.set_label(name)
        axes.bar_label(bars, fmt="%.1f", fontsize=7.5, color=_INK, padding=2)
    axes.set_yticks(range(len(classes)), classes, parse_math=False)
    axes.set_ylim(len(classes) - 0.5, -0.5)
    axes.set_title("share of the images (%)", **_title())
    axes.margins(x=0.12)
    _plain(axes)
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside lower left", frameon=False, fontsize=8.5, labelcolor=_INK)
    return figure


def to_svg(figure: "Figure", description: str) -> str:
    """Returns the figure as an `<svg>` element for an HTML page.

    It scales to the width of its container, its text stays text, and its background is
    transparent. Its colours are the page's CSS variables `--ink`, `--grey`, `--faint`, `--blue`,
    `--vermilion`, `--green` and `--purple`, so that it follows the page into dark mode.

    Args:
      figure: a figure of this module.
      description: text for screen readers; unique within the page.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    figure.patch.set_visible(False)
    for axes in figure.axes:
        axes.patch.set_visible(False)
    file = io.StringIO()
    # The salt makes the ids inside the figure unique within the page, and reproducible.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": description}):
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        FigureCanvasSVG(figure).print_svg(file, metadata=no_metadata)
    head, body = file.getvalue().split("<svg", 1)[1].split(">", 1)
    (box,) = re.findall(r'viewBox="[^"]*"', head)
    for name, colour in _CSS_VARIABLES.items():
        body = body.replace(colour.lower(), f"var(--{name})")
    # These ids number the parts of a figure, so they would repeat in the next one.
    body = re.sub(r' id="[\w.]+_\d+"', "", body)
    return f'<svg {box} role="img" aria-label="{html.escape(description)}">{body}'


def to_png(figure: "Figure") -> bytes:
    """Returns the figure as a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    png = io.BytesIO()
    FigureCanvasAgg(figure).print_png(png)
    return png.getvalue()


def _new_figure(width: float, height: float) -> "Figure":
    """Returns an empty figure of this size in inches, laid out to fit its labels."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    margins = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06)  # inches
    return Figure(figsize=(width, height), dpi=_DPI, layout=margins)


def _title() -> dict[str, Any]:
    return {"fontsize": 10, "color": _INK}


def _plain(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_GREY)
    axes.tick_params(which="both", colors=_INK, labelsize=9)


def _thousands(value: float, _: float) -> str:
    """Returns the text of a tick."""
    return f"{value:,.10g}"


def _head(figure: "Figure", heading: str, *lines: str) -> None:
    """Writes lines above a figure; of a long heading the end, which tells runs apart."""
    most = int(11 * figure.get_figwidth())  # characters
    if len(heading) > most:
        heading = f"…{heading[1 - most :]}"
    if text := "\n".join(filter(None, (heading, *lines))):
        figure.suptitle(text, **_title(), x=0.01, ha="left", parse_math=False)


def _over_epochs(axes: "Axes", panel: str, history: Sequence[Mapping[str, Any]]) -> None:
    """Labels a panel of curves. Its title, if it has none, is its name."""
    from matplotlib.ticker import MaxNLocator

    _plain(axes)
    axes.set_title(axes.get_title() or panel, **_title())
    axes.set_xlabel("epoch", color=_INK)
    axes.grid(color=_FAINT, linewidth=0.6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
    if panel in ("learning rate", "images/s"):
        axes.set_ylim(0, 1.04 * axes.get_ylim()[1])  # Even a flat curve has room above it.
    if panel == "images/s":
        axes.yaxis.set_major_formatter(_thousands)
    if len(history) == 1:
        axes.set_xlim(history[0]["epoch"] - 1, history[0]["epoch"] + 1)


def _column(history: Sequence[Mapping[str, Any]], key: str) -> Float[np.ndarray, " epochs"]:
    return np.array([epoch[key] for epoch in history], dtype=float)
