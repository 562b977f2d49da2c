"""The files of an evaluation, read back, and its printed report."""

import csv
import dataclasses
import json
import re

import numpy as np
import pytest
from PIL import Image
from small_runs import make_evaluation, make_run

from fer_jax.errors import UserError
from fer_jax.reporting.evaluation import read_predictions, variant
from fer_jax.reporting.metrics import classification_metrics, confidence_intervals
from fer_jax.reporting.report import print_report, write_evaluation

CLASSES = ("angry", "happy", "neutral")


def test_leaves_the_contracts_files(tmp_path):
    run = make_run(tmp_path / "run")
    given = dataclasses.replace(make_evaluation(run, 40, classes=CLASSES), views="ten_crop")
    report = write_evaluation(given)

    folder = run / "eval" / "test"
    pictures = {"confusion_matrix.png", "samples.png"}
    names = {"report.json", "predictions.csv", "report.html", *pictures}
    assert {path.name for path in folder.iterdir()} == names
    written = json.loads((folder / "report.json").read_text())
    assert written == json.loads(json.dumps(report))
    assert report == {
        **classification_metrics(given.probabilities, given.records.labels, CLASSES),
        "intervals": confidence_intervals(given.probabilities, given.records.labels),
        "data": "fer2013",
        "folder": "test",
        "checkpoint_step": 1234,
        "views": "ten_crop",
        "data_fingerprint": "ab12" * 16,
        "run_data_fingerprint": "12ab" * 16,
        "notes": report["notes"],
    }
    for name in pictures:
        with Image.open(folder / name) as image:
            image.load()
            assert min(image.size) > 300


def test_predictions_read_back_exactly(tmp_path):
    run = make_run(tmp_path / "run")
    given = make_evaluation(run, 8, classes=CLASSES, name="faces, all/{}.jpg")
    # Neighbours among float32, which a few digits would make equal.
    given.probabilities[0] = [0.4, np.nextafter(np.float32(0.4), np.float32(1)), 0.2]
    write_evaluation(given)
    with open(run / "eval/test/predictions.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["filename", "label", "predicted", *CLASSES]
    assert [row[0] for row in rows] == given.records.filenames
    assert [row[1] for row in rows] == [CLASSES[label] for label in given.records.labels]
    probabilities = np.array([[float(value) for value in row[3:]] for row in rows])
    assert [row[2] for row in rows] == [CLASSES[guess] for guess in probabilities.argmax(axis=1)]
    np.testing.assert_array_equal(probabilities.astype(np.float32), given.probabilities)

    saved = read_predictions(run, "test")
    assert saved.filenames == given.records.filenames
    assert saved.classes == list(CLASSES)
    np.testing.assert_array_equal(saved.labels, given.records.labels)
    np.testing.assert_array_equal(saved.probabilities.astype(np.float32), given.probabilities)
    assert saved.fingerprint == given.data.fingerprint


def test_the_command_for_a_missing_variant_makes_it(tmp_path):
    name = f"test{variant(views='flip', step=12, fingerprint='ab12' * 16)}"
    assert name == "test+flip+step_12+data_ab12ab12ab12"
    command = f"--workdir={tmp_path} --split=test --views=flip --checkpoint=12 --data_dir=DIR`"
    with pytest.raises(UserError, match=re.escape(command)):
        read_predictions(tmp_path, name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "has no predictions for test"),
        ("", "cannot read"),
        ("filename,label,predicted,a\n", "it holds no image"),
        ("filename,label,predicted,a\nx.png,b,a,1\n", "cannot read"),
        ("filename,label,predicted,a\nx.png,a,a,one\n", "cannot read"),
        ("filename,label,predicted,a\n\n", "cannot read"),
    ],
)
def test_predictions_that_cannot_be_read(content, message, tmp_path):
    if content is not None:
        path = tmp_path / "eval/test/predictions.csv"
        path.parent.mkdir(parents=True)
        path.write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        read_predictions(tmp_path, "test")
    assert f"python -m fer_jax.evaluate --workdir={tmp_path} --split=test" in str(caught.value)


def test_a_single_image_is_enough(tmp_path):
    assert write_evaluation(make_evaluation(make_run(tmp_path / "run"), 1))["n"] == 1


def test_what_does_not_fit_is_refused(tmp_path):
    given = make_evaluation(tmp_path, 5)
    with pytest.raises(ValueError, match="4 rows of probabilities and 5 file names for 5 labels"):
        dataclasses.replace(given, probabilities=given.probabilities[:4])


def test_printed_report_is_plain_and_fits_80_columns(tmp_path, capsys):
    given = make_evaluation(tmp_path, 50, classes=CLASSES)
    classes = ("a name " * 12, "happy", "neutral")
    report = classification_metrics(given.probabilities, given.records.labels, classes)
    report |= {"checkpoint_step": 1234, "views": "one", "notes": ["A note [/of] words. " * 9]}
    print_report(report, "private_test, best checkpoint")
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
    print_report(report | {"checkpoint_step": 7, "views": "one", "notes": []}, "title")
    assert "25.00 ± 4.33 %" in capsys.readouterr().out


def test_zero_by_zero_is_a_dash_in_the_printed_table(capsys):
    """Class b is predicted but has no images; class c has images but is never predicted."""
    report = classification_metrics(np.eye(4)[[0, 1, 0]], np.array([0, 0, 2]), tuple("abcd"))
    print_report(report | {"checkpoint_step": 7, "views": "one", "notes": []}, "title")
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["b", "0.0", "\N{EN DASH}", "0.0", "0"] in rows
    assert ["c", "\N{EN DASH}", "0.0", "0.0", "1"] in rows
    assert ["d", *"\N{EN DASH}" * 3, "0"] in rows
