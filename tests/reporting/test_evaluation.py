"""The files of an evaluation, read back, and its printed report."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from fer_jax.reporting.evaluation import print_report, write_evaluation
from fer_jax.reporting.metrics import classification_metrics

CLASSES = ("angry", "happy", "neutral")


def predictions(n: int) -> dict:
    random = np.random.default_rng(0)
    logits = random.normal(size=(n, 3)) * 3
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return {
        "images": random.integers(0, 256, (n, 48, 48, 1), dtype=np.uint8),
        "labels": random.integers(0, 3, n),
        "probabilities": probabilities.astype(np.float32),
        "filenames": [f"faces, all/{index}.jpg" for index in range(n)],
        "classes": CLASSES,
        "checkpoint_step": 1234,
    }


def test_leaves_the_contracts_files(tmp_path):
    given = predictions(40)
    report = write_evaluation(tmp_path / "eval" / "test", **given)

    folder = tmp_path / "eval" / "test"
    names = {"report.json", "predictions.csv", "confusion_matrix.png", "samples.png"}
    assert {path.name for path in folder.iterdir()} == names
    assert json.loads((folder / "report.json").read_text()) == report
    assert report == {
        **classification_metrics(given["probabilities"], given["labels"], CLASSES),
        "checkpoint_step": 1234,
    }
    for name in ("confusion_matrix.png", "samples.png"):
        with Image.open(folder / name) as image:
            image.load()
            assert min(image.size) > 300


def test_predictions_read_back_exactly(tmp_path):
    given = predictions(8)
    # Neighbours among float32, which a few digits would make equal.
    given["probabilities"][0] = [0.4, np.nextafter(np.float32(0.4), np.float32(1)), 0.2]
    write_evaluation(tmp_path, **given)
    with open(tmp_path / "predictions.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["filename", "label", "predicted", *CLASSES]
    assert [row[0] for row in rows] == given["filenames"]
    assert [row[1] for row in rows] == [CLASSES[label] for label in given["labels"]]
    probabilities = np.array([[float(value) for value in row[3:]] for row in rows])
    assert [row[2] for row in rows] == [CLASSES[guess] for guess in probabilities.argmax(axis=1)]
    np.testing.assert_array_equal(probabilities.astype(np.float32), given["probabilities"])


def test_a_single_image_is_enough(tmp_path):
    assert write_evaluation(tmp_path, **predictions(1))["n"] == 1


def test_what_does_not_fit_leaves_nothing(tmp_path):
    given = predictions(5)
    with pytest.raises(ValueError, match="5 images and 4 file names for 5 labels"):
        write_evaluation(tmp_path, **given | {"filenames": given["filenames"][:4]})
    assert not list(tmp_path.iterdir())


def test_printed_report_is_plain_and_fits_80_columns(capsys):
    given = predictions(50)
    classes = ("a name " * 12, "happy", "neutral")
    report = classification_metrics(given["probabilities"], given["labels"], classes)
    print_report(report | {"checkpoint_step": 1234}, "private_test, best checkpoint")
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert max(map(len, printed.splitlines())) <= 80
    assert "private_test, best checkpoint" in printed
    (happy,) = (line.split() for line in printed.splitlines() if "happy" in line)
    expected = report["per_class"]["happy"]
    assert happy[1:4] == [f"{100 * expected[key]:.1f}" for key in ("precision", "recall", "f1")]
    assert happy[4] == str(expected["support"])


def test_standard_error_of_the_accuracy(capsys):
    # 25 of 100 right: sqrt(0.25 * 0.75 / 100) = 4.33 points.
    right = np.arange(100) < 25
    probabilities = np.eye(2)[np.where(right, 0, 1)]
    report = classification_metrics(probabilities, np.zeros(100, int), ("a", "b"))
    print_report(report | {"checkpoint_step": 7}, "title")
    assert "25.00 ± 4.33 %" in capsys.readouterr().out
