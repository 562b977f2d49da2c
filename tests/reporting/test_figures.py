"""Figures judged by what they show: curves, cells, marks, and nothing cut off or overlapping."""

import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex

from fer_jax.reporting.figures import (
    plot_confusion_matrix,
    plot_curves,
    plot_samples,
    to_png,
)

SEVEN = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
THREE = ("angry", "happy", "neutral")
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
    assert accuracy.get_title() == "best 61.0 % at epoch 2"
    for axes in (loss, accuracy, rate):
        assert any(list(line.get_xdata()) == [2, 2] for line in axes.lines)


def test_curves_of_values_that_were_not_finite():
    figure = plot_curves(history([None, 0.4]))
    assert figure.axes[1].get_title() == "best 40.0 % at epoch 2"
    nowhere = plot_curves([dict.fromkeys(epoch) | {"epoch": 1} for epoch in history([None])])
    assert nowhere.axes[1].get_title() == ""
    to_png(nowhere)


def test_a_learning_rate_of_zero_is_drawn():
    first, second = history([0.5, 0.5])
    for epochs in ([first | {"learning_rate": 0.0}], [first | {"learning_rate": 0.0}, second]):
        to_png(plot_curves(epochs))


def test_ticks_are_whole_epochs():
    figure = plot_curves(history([0.5]))
    to_png(figure)
    ticks = figure.axes[0].get_xticks()
    assert 1 in ticks
    assert all(float(tick).is_integer() for tick in ticks)


def test_confusion_matrix_shows_counts_and_percents_of_the_row():
    figure = plot_confusion_matrix(np.array([[3, 1, 0], [0, 0, 0], [0, 0, 1200]]), THREE)
    (axes,) = figure.axes
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
    *(pytest.param(lambda n=n: plot_curves(history([0.5] * n)), id=f"curves{n}") for n in (1, 60)),
    *(
        pytest.param(lambda c=c: plot_confusion_matrix(matrix(len(c)), c), id=f"matrix-{c[0]}")
        for c in (SEVEN, THREE, LONG)
    ),
    *(
        pytest.param(lambda n=n, c=c: plot_samples(*samples(n, c)), id=f"samples{n}-{c[0]}")
        for n, c in ((1, SEVEN), (2, LONG), (9, LONG), (35, SEVEN))
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
