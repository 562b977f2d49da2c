"""Figures judged by what they show: curves, cells, marks, and nothing cut off or overlapping."""

import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex

from fer_jax.reporting.figures import (
    PANELS,
    plot_confusion_matrix,
    plot_curves,
    plot_phases,
    plot_reliability,
    plot_samples,
    plot_validation,
    to_png,
)

SEVEN = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
THREE = ("angry", "happy", "neutral")
RUN = "a_run_of_a_rather_long_name" * 5 + ", public_test+ten_crop"
LONG = ("contemptuous and bored", "x", "pleasantly surprised")


def history(accuracies: list) -> list[dict]:
    return [
        {
            "epoch": index,
            "step": 100 * index,
            "train_loss": 1 / index,
            "train_accuracy": 0.5,
            "val_loss": 1.5 / index,
            "val_accuracy": accuracy,
            "learning_rate": 1e-3,
            "images_per_second": 1000.0,
            "seconds": 3.0,
        }
        for index, accuracy in enumerate(accuracies, start=1)
    ]


def samples(n: int, classes: tuple, seed: int = 0) -> tuple:
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (n, 48, 48, 1), dtype=np.uint8)
    labels, predicted = random.integers(0, len(classes), (2, n))
    return images, labels, predicted, random.uniform(0.2, 1, n), classes


def matrix(size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 9000, (size, size))


def test_curves_show_the_history_and_mark_the_best_epoch():
    epochs = history([0.3, 0.61, 0.5, 0.61])
    loss, accuracy, rate = plot_curves(epochs).axes
    curves = {line.get_label(): line.get_ydata() for line in loss.lines}
    np.testing.assert_allclose(curves["training"], [epoch["train_loss"] for epoch in epochs])
    np.testing.assert_allclose(curves["validation"], [epoch["val_loss"] for epoch in epochs])
    np.testing.assert_allclose(accuracy.lines[1].get_ydata(), [30, 61, 50, 61])
    assert accuracy.get_title() == "accuracy (%), best 61.0 at epoch 2"
    for axes in (loss, accuracy, rate):
        assert any(list(line.get_xdata()) == [2, 2] for line in axes.lines)


def test_curves_of_values_that_were_not_finite():
    figure = plot_curves(history([None, 0.4]))
    assert figure.axes[1].get_title() == "accuracy (%), best 40.0 at epoch 2"
    nowhere = plot_curves([dict.fromkeys(epoch) | {"epoch": 1} for epoch in history([None])])
    assert nowhere.axes[1].get_title() == "accuracy (%)"
    to_png(nowhere)


def test_a_learning_rate_of_zero_is_drawn():
    first, second = history([0.5, 0.5])
    for epochs in ([first | {"learning_rate": 0.0}], [first | {"learning_rate": 0.0}, second]):
        to_png(plot_curves(epochs))


def test_a_rate_that_falls_to_zero_is_drawn_as_it_falls():
    cosine = [1e-3, 7.5e-4, 2.5e-4, 0.0]
    epochs = [e | {"learning_rate": r} for e, r in zip(history([0.5] * 4), cosine, strict=True)]
    (axes,) = plot_curves(epochs, ["learning rate"]).axes
    heights = axes.transData.transform([(0, rate) for rate in cosine])[:, 1]
    np.testing.assert_allclose(np.diff(heights) / np.diff(cosine), np.ptp(heights) / 1e-3)
    assert axes.get_ylim()[0] == 0


@pytest.mark.parametrize("speeds", [[1000.0] * 3, [31_000.0, 31_300.0, 31_200.0], [0.0] * 3])
def test_no_speed_is_clipped(speeds):
    epochs = [e | {"images_per_second": s} for e, s in zip(history([0.5] * 3), speeds, strict=True)]
    histories = {"A": epochs[:1] * 3, "B": epochs}
    for figure in (plot_curves(epochs, ["images/s"]), plot_validation(histories, "images/s")):
        bottom, top = figure.axes[0].get_ylim()
        assert bottom == 0
        assert top > 1.03 * max(speeds)


def test_charts_side_by_side_have_titles_and_the_same_height():
    epochs = history([0.3, 0.61])
    charts = [plot_curves(epochs, [panel]) for panel in PANELS]
    charts += [plot_validation({"A": epochs}, panel) for panel in PANELS]
    charts.append(plot_phases({"imports": 4.0, "training": 60.0, "other": 0.0}))
    for chart in charts:
        FigureCanvasAgg(chart).draw()
        assert chart.axes[0].get_title()
    assert len({tuple(chart.get_size_inches()) for chart in charts}) == 1
    curves = [chart.axes[0].get_position() for chart in charts[:-1]]
    np.testing.assert_allclose([(box.y0, box.y1) for box in curves], [curves[0].intervaly] * 8)


def test_calibration_shows_whole_dots_beside_its_legend():
    count = np.array([5, 0, 20])
    shares = np.array([0.0, np.nan, 1.0])
    figure = plot_reliability(count, shares, shares)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    upper, lower = figure.axes
    (legend,) = figure.legends
    box = legend.get_window_extent(canvas.get_renderer())
    assert not any(box.overlaps(axes.get_tightbbox()) for axes in (upper, lower))
    radius = 2.5 / 72 * figure.dpi  # pixels
    dots = upper.transData.transform([(0, 0), (100, 100)])
    assert (dots - radius >= upper.bbox.min).all()
    assert (dots + radius <= upper.bbox.max).all()


def test_ticks_are_whole_epochs():
    figure = plot_curves(history([0.5]))
    to_png(figure)
    ticks = figure.axes[0].get_xticks()
    assert 1 in ticks
    assert all(float(tick).is_integer() for tick in ticks)


def test_confusion_matrix_shows_counts_and_percents_of_the_row():
    counts = np.array([[3, 1, 0], [0, 0, 0], [0, 0, 1200]])
    figure = plot_confusion_matrix(counts, THREE, "my_run, public_test")
    (axes,) = figure.axes
    assert figure.get_suptitle() == "my_run, public_test"
    assert axes.get_title() == "99.9 % of 1,204 images correct"
    cells = [text.get_text() for text in axes.texts]
    without_images = ["0\n\N{EN DASH}"] * 3
    assert cells[:6] == ["3\n75 %", "1\n25 %", "0\n0 %", *without_images]
    assert cells[6:] == ["0\n0 %", "0\n0 %", "1,200\n100 %"]
    np.testing.assert_allclose(axes.images[0].get_array(), [[0.75, 0.25, 0], [0, 0, 0], [0, 0, 1]])
    assert [label.get_text() for label in axes.get_yticklabels()] == list(THREE)
    assert axes.get_ylabel().startswith("true")


def test_wrong_samples_are_marked_with_and_without_colour():
    arguments = samples(10, SEVEN)
    _, labels, predicted, _, _ = arguments
    figure = plot_samples(*arguments)
    tiles = [axes for axes in figure.axes if axes.images]
    assert len(tiles) == 10
    plain = {
        to_hex(tile.title.get_color()) for tile in itertools.compress(tiles, labels == predicted)
    }
    for tile, label, guess in zip(tiles, labels, predicted, strict=True):
        wrong = label != guess
        true_line, predicted_line = tile.get_title().split("\n")
        assert SEVEN[label] in true_line
        assert SEVEN[guess] in predicted_line
        assert ("✗" in predicted_line) == wrong
        assert (tile.spines["top"].get_linewidth() > 1) == wrong
        assert (to_hex(tile.title.get_color()) not in plain) == wrong


FIGURES = [
    *(
        pytest.param(lambda n=n: plot_curves(history([0.5] * n), heading=RUN), id=f"curves{n}")
        for n in (1, 60)
    ),
    *(
        pytest.param(lambda c=c: plot_confusion_matrix(matrix(len(c)), c, RUN), id=f"matrix-{c[0]}")
        for c in (SEVEN, THREE, LONG)
    ),
    *(
        pytest.param(lambda n=n, c=c: plot_samples(*samples(n, c), RUN), id=f"samples{n}-{c[0]}")
        for n, c in ((1, SEVEN), (2, LONG), (9, LONG), (32, SEVEN))
    ),
]


@pytest.mark.parametrize("make", FIGURES)
def test_nothing_is_cut_off_and_no_titles_overlap(make):
    figure = make()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    box = figure.get_tightbbox(canvas.get_renderer())
    width, height = figure.get_size_inches()
    assert box.x0 >= 0
    assert box.y0 >= 0
    assert box.x1 <= width
    assert box.y1 <= height
    titles = [axes.title for axes in figure.axes] + ([figure._suptitle] if figure._suptitle else [])
    boxes = [title.get_window_extent() for title in titles if title.get_text()]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
