"""A list of images in use: training leaves them out, evaluation gives both figures."""

import dataclasses
import json

import commands
import numpy as np
import pytest
from small_runs import make_evaluation, make_run

from fer_jax.auditing.predictions import out_of_fold
from fer_jax.config import default_config
from fer_jax.data.exclusions import Exclusion
from fer_jax.data.records import open_data_set
from fer_jax.errors import UserError
from fer_jax.evaluate import evaluate
from fer_jax.reporting.evaluation import read_predictions
from fer_jax.reporting.metrics import classification_metrics
from fer_jax.reporting.report import print_report, write_evaluation
from fer_jax.train import train


@pytest.fixture
def listed(tiny_data_dir, tmp_path):
    """A list of six images of train and five of public_test."""
    data = open_data_set(tiny_data_dir)
    rows = [f"duplicate,{name},train" for name in data.load("train").filenames[:6]]
    rows += [f"leak,{name},public_test" for name in data.load("public_test").filenames[:5]]
    path = tmp_path / "audit.csv"
    path.write_text("\n".join(["kind,file,split", *rows]) + "\n")
    return path


@pytest.mark.usefixtures("no_pictures")
def test_evaluation_gives_the_figures_with_and_without(trained_workdir, listed, tmp_path, capsys):
    plain = evaluate(trained_workdir, "public_test")
    report = evaluate(trained_workdir, "public_test", exclude=f"{listed}:leak")
    assert {key: report[key] for key in plain} == plain
    assert report["excluded"]["file"] == "audit.csv"
    assert report["excluded"]["kinds"] == {"leak": 5}
    without = report["excluded"]["without"]
    predictions = read_predictions(trained_workdir, "public_test")
    assert len(predictions.labels) == 35
    names = [line.split(",")[1] for line in listed.read_text().splitlines()]
    kept = np.array([name not in names for name in predictions.filenames])
    expected = classification_metrics(
        predictions.probabilities[kept], predictions.labels[kept], predictions.classes
    )
    assert without["n"] == 30
    for key in ("accuracy", "macro_f1", "nll", "ece"):
        assert without[key] == pytest.approx(expected[key])
        low, high = without["intervals"][key]
        assert low < high
    written = json.loads((trained_workdir / "eval/public_test/report.json").read_text())
    assert written["excluded"] == json.loads(json.dumps(report["excluded"]))
    print_report(report, "title")
    printed = " ".join(capsys.readouterr().out.split())
    assert "images 35 30 " in printed
    assert f"NLL {report['nll']:.4f} nats {without['nll']:.4f} nats" in printed
    assert "audit.csv lists 5 of the images (5 leak)." in printed
    evaluate(trained_workdir, "public_test")  # The run is shared.


def test_the_page_of_an_evaluation_has_both_figures(tmp_path):
    whole = make_evaluation(make_run(tmp_path / "run"), 200)
    kept = np.arange(200) % 4 > 0
    excluded = Exclusion("audit.csv", {"leak": 50, "blank": 0}, kept, "12ab")
    report = write_evaluation(dataclasses.replace(whole, excluded=excluded))
    page = " ".join((whole.directory / "report.html").read_text().split())
    assert "the 50 images that audit.csv lists: 50 leak</caption>" in page
    assert '<th scope="col">all 200</th> <th scope="col">without: 150</th>' in page
    without = report["excluded"]["without"]
    assert f"<td>{100 * without['accuracy']:.1f} %" in page
    assert f"<td>{without['nll']:.3f}" in page


@pytest.mark.usefixtures("no_pictures")
def test_training_leaves_out_and_resumes_with_the_same_images_only(
    tiny_data_dir, listed, tmp_path, capsys
):
    config = default_config()
    config.data_dir, config.train_split = str(tiny_data_dir), "train"
    config.validation_split = "public_test"
    config.update(epochs=1, batch_size=16, eval_batch_size=16)
    config.model.layers = ("max_pool", "max_pool", "flatten")
    config.exclude = str(listed)
    workdir = tmp_path / "run"
    train(config, workdir)
    printed = capsys.readouterr().out
    assert "; 204 images to train on and 35 to validate on" in printed
    assert f"left out: 6 of 210 images, by {listed} (6 duplicate)" in printed
    facts = json.loads((workdir / "config.json").read_text())
    excluded = facts["data"]["excluded"]
    assert (excluded["images"], excluded["kinds"]) == (6, {"duplicate": 6})
    assert str(tmp_path) not in json.dumps(excluded)

    config.epochs = 2
    config.exclude = f"{listed.rename(tmp_path / 'moved.csv')}:leak+duplicate"
    assert len(train(config, workdir)["history"]) == 2  # The same images by another list.
    config.epochs = 3
    for other in ("", f"{tmp_path / 'moved.csv'}:leak"):
        config.exclude = other
        with pytest.raises(UserError, match=r"excluded images was '6 \(names \w{12}\)', is '0'"):
            train(config, workdir)


@pytest.mark.usefixtures("no_pictures")
def test_predictions_are_out_of_fold(trained_workdir, tiny_data_dir, tmp_path, capsys):
    data = open_data_set(tiny_data_dir)
    found = out_of_fold(trained_workdir, data)  # It was trained on train_80.
    assert capsys.readouterr().err == ""
    assert list(found) == list(data.split_sizes)
    part = read_predictions(trained_workdir, "validation_20")
    train_names = list(data.load("train").filenames)
    rows = [train_names.index(name) for name in part.filenames]
    np.testing.assert_array_equal(found["train"][rows], part.probabilities)
    assert np.isnan(found["train"]).all(axis=1).sum() == 210 - len(rows)
    # The two tests have the same images, and nobody has predicted private_test.
    of = dict(zip(data.load("public_test").filenames, found["public_test"], strict=True))
    for name, row in zip(data.load("private_test").filenames, found["private_test"], strict=True):
        np.testing.assert_allclose(row, of[name.replace("Private", "Public")], atol=1e-5)

    facts = json.loads((trained_workdir / "config.json").read_text())
    facts["config"]["train_split"] = "train"
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(json.dumps(facts))
    (run / "eval").symlink_to(trained_workdir / "eval")
    (run / "checkpoints").symlink_to(trained_workdir / "checkpoints")
    assert list(out_of_fold(run, data)) == ["private_test", "public_test"]
    error = capsys.readouterr().err
    assert "its predictions for train are not out-of-fold" in error
    assert error.count("\n") == 1

    facts["data"]["classes"] = ["angry", "happy"]
    (run / "config.json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match="tells angry, happy apart, and the data have"):
        out_of_fold(run, data)


def test_a_list_that_cannot_be_used_ends_each_command_in_one_line(
    trained_workdir, tiny_data_dir, tmp_path
):
    missing, new = tmp_path / "no.csv", tmp_path / "new"
    for module, *flags in (
        (
            *("fer_jax.main", "--config=cnn", f"--config.data_dir={tiny_data_dir}"),
            *(f"--workdir={new}", f"--config.exclude={missing}", "--config.batch_size=8"),
        ),
        (
            *("fer_jax.evaluate", f"--workdir={trained_workdir}", "--split=public_test"),
            f"--exclude={missing}:leak",
        ),
    ):
        result = commands.run(module, *flags)
        assert (result.returncode, result.stderr.count("\n")) == (2, 1), result.stderr
        assert f"cannot read {missing}: No such file" in result.stderr
    assert not new.exists()
