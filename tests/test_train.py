"""Whole runs on small records, in this process: their files, and how they resume."""

import itertools
import json
import os
import shutil
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from pictures import leave_out_pictures

from fer_jax.config import default_config
from fer_jax.errors import UserError
from fer_jax.evaluate import evaluate
from fer_jax.inference import validation
from fer_jax.train import train
from fer_jax.training.input import INPUTS
from fer_jax.workdir import read_resources, read_run


@pytest.fixture
def config(tiny_data_dir):
    return make_config(tiny_data_dir)


def make_config(tiny_data_dir):
    config = default_config()
    config.data_dir = str(tiny_data_dir)
    config.model.layers = (
        *(("conv", 8), "batch_norm", "max_pool", "max_pool", "max_pool", ("dropout", 0.2)),
        *("flatten", ("dense", 16)),
    )
    config.batch_size = 16
    config.eval_batch_size = 32
    config.epochs = 3
    return config


@pytest.fixture(scope="module")
def finished(tiny_data_dir, tmp_path_factory):
    """A run of one epoch, without pictures."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        leave_out_pictures(patch)
        train(_with(make_config(tiny_data_dir), epochs=1), workdir)
    return workdir


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def read_history(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def without_time(history):
    clocks = ("seconds", "images_per_second")
    return [{k: v for k, v in epoch.items() if k not in clocks} for epoch in history]


def test_leaves_what_is_promised(config, tmp_path, capsys):
    result = train(config, tmp_path)
    left = files_below(tmp_path)
    assert {
        "config.json",
        "metrics.jsonl",
        "resources.json",
        "figures/curves.png",
        "figures/confusion_matrix.png",
        "figures/samples.png",
        "report.html",
        "eval/validation_20/report.html",
        "eval/validation_20/report.json",
        "eval/validation_20/predictions.csv",
    } <= left
    assert any(name.startswith("events.out.tfevents.") for name in left)

    history = read_history(tmp_path)
    assert [epoch["epoch"] for epoch in history] == [1, 2, 3]
    assert [epoch["step"] for epoch in history] == [10, 20, 30]  # round(168 / 16) a pass
    assert history == result["history"]
    best = max(history, key=lambda epoch: (epoch["val_accuracy"], epoch["epoch"]))
    report = json.loads((tmp_path / "eval/validation_20/report.json").read_text())
    assert report["checkpoint_step"] == best["step"] == result["best_step"]
    assert report["accuracy"] == best["val_accuracy"]
    np.testing.assert_allclose(report["nll"], best["val_loss"], rtol=1e-6)

    run = json.loads((tmp_path / "config.json").read_text())
    assert run["config"]["batch_size"] == 16
    assert len(run["data"]["fingerprint"]) == 64
    assert run["devices"]["count"] == 6
    assert {"jax", "flax", "python"} <= run["versions"].keys()
    assert "best" in capsys.readouterr().out


@pytest.mark.usefixtures("no_pictures")
def test_learns(config, tmp_path):
    """Without dropout and shifts, few steps are enough for any seed and order of the images."""
    config.epochs = 12
    config.shift = 0.0
    config.model.layers = [layer for layer in config.model.layers if layer[0] != "dropout"]
    config.learning_rate = 3e-3
    history = train(config, tmp_path)["history"]
    assert history[-1]["train_loss"] < history[0]["train_loss"] - 0.3
    assert read_run(tmp_path)["config"]["input"] == "host"  # The meaning of "auto" on a CPU.


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("source", INPUTS)
def test_resumes_as_if_never_stopped(config, tmp_path, source):
    """A run stopped within the second epoch has the same losses, accuracies and predictions."""
    config.schedule = "plateau"
    config.input = source
    config.ema_decay = 0.9
    whole = train(config, tmp_path / "whole")

    # Saves within an epoch change nothing, and a stop goes on from its own.
    config.checkpoint_every_steps = 4
    stop_at(config, tmp_path / "stopped", step=14)
    assert len(read_history(tmp_path / "stopped")) == 1
    before = read_resources(tmp_path / "stopped")
    resumed = train(config, tmp_path / "stopped")
    after = read_resources(tmp_path / "stopped")
    assert (before["starts"], after["starts"]) == (1, 2)
    assert all(after["seconds"][phase] >= seconds for phase, seconds in before["seconds"].items())
    assert without_time(resumed["history"]) == without_time(whole["history"])
    assert resumed["report"] == whole["report"]
    seconds = [epoch["seconds"] for epoch in resumed["history"]]
    assert seconds == sorted(seconds)
    for name in ("metrics.jsonl", "eval/validation_20/predictions.csv"):
        assert (tmp_path / "stopped" / name).exists()


def stop_at(config, workdir, step, *, steps_per_epoch=10):
    """Trains until a SIGTERM that arrives while `step` is under way."""
    from fer_jax.training import interruption

    points = itertools.count(1)  # Every step, and the end of every epoch.

    class Stopping(interruption.Interruption):
        def asked(self):
            if next(points) == step + (step - 1) // steps_per_epoch:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().asked()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["fer_jax.train"], "Interruption", Stopping)
        with pytest.raises(SystemExit, match=f"stopped at step {step}"):
            train(config, workdir)


def test_a_finished_run_says_so_and_changes_nothing(config, tmp_path, capsys, monkeypatch):
    leave_out_pictures(monkeypatch, pages=True)
    config.epochs = 1
    first = json.loads(json.dumps(train(config, tmp_path)))
    before = {name: (tmp_path / name).stat().st_mtime_ns for name in files_below(tmp_path)}
    capsys.readouterr()
    assert train(config, tmp_path) == first
    assert "is finished" in (out := capsys.readouterr().out)
    assert f"{tmp_path / 'report.html'}" in out.splitlines()[0]
    assert {n: (tmp_path / n).stat().st_mtime_ns for n in files_below(tmp_path)} == before

    # Of a run killed before its page was written, the page is made.
    (tmp_path / "report.html").unlink()
    assert json.loads(json.dumps(train(config, tmp_path))) == first
    assert (tmp_path / "report.html").exists()


@pytest.mark.usefixtures("no_pictures")
def test_a_run_goes_on_for_more_epochs_where_the_schedule_allows_it(config, finished, tmp_path):
    """As if it had had them from the start."""
    shutil.copytree(finished, tmp_path / "grown")
    config.epochs = 2
    grown = train(config, tmp_path / "grown")
    assert json.loads((tmp_path / "grown/config.json").read_text())["config"]["epochs"] == 2
    whole = train(config, tmp_path / "whole")
    assert without_time(grown["history"]) == without_time(whole["history"])
    assert grown["report"] == whole["report"]


@pytest.mark.usefixtures("no_pictures")
def test_neither_streaming_nor_a_profile_changes_a_run(config, tmp_path):
    """The run has less memory than the images take, and records some steps."""
    config.epochs = 2
    plain = train(config, tmp_path / "plain")
    config.memory_gib = 1e-6
    config.profile = 2
    assert without_time(train(config, tmp_path / "other")["history"]) == without_time(
        plain["history"]
    )
    assert list((tmp_path / "other/profile").rglob("*.xplane.pb"))
    assert not (tmp_path / "plain/profile").exists()


@pytest.mark.usefixtures("no_pictures")
def test_another_config_is_refused_with_the_difference(config, finished):
    config.epochs = 1
    before = {name: (finished / name).read_bytes() for name in files_below(finished)}
    config.learning_rate = 0.5
    config.model.layers = ("flatten",)
    with pytest.raises(UserError, match=r"learning_rate was 0.001, is 0.5.*choose another"):
        train(config, finished)
    assert {name: (finished / name).read_bytes() for name in files_below(finished)} == before


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("epochs", 0), ("batch_size", 0), ("label_smoothing", 1.5), ("shift", -0.1)),
        *(("best_by", "f1"), ("dtype", "float16"), ("validation_split", "val")),
        *(("crop", 0.0), ("erasing", 1.5), ("views", "two"), ("mixup", -1.0), ("input", "gpu")),
    ],
)
def test_a_wrong_value_is_named_and_nothing_left(config, tmp_path, key, value):
    config[key] = value
    with pytest.raises(UserError, match=f"{key.removesuffix('_split')}.*{value}|{value}.*choose"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_workdir_that_cannot_be_one_is_named(config, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=r"file cannot be a workdir.*choose another"):
        train(config, tmp_path / "file")


@pytest.mark.usefixtures("no_pictures")
def test_the_last_epoch_counts_and_is_seen_through_all_views(config, tmp_path, monkeypatch):
    calls, call = [], validation.Predict.__call__
    monkeypatch.setattr(
        validation.Predict,
        "__call__",
        lambda self, *net, **named: calls.append(self) or call(self, *net, **named),
    )
    config.epochs, config.best_by = 2, "last"
    config.views, config.epoch_views = "flip", "one"
    result = train(config, tmp_path)
    assert calls[0] is calls[1] is not calls[2]
    assert len(calls) == 3
    report = evaluate(tmp_path, "validation_20")
    assert (report["checkpoint_step"], report["views"]) == (20, "flip")
    assert (result["best_step"], result["report"]["accuracy"]) == (20, report["accuracy"])
    one = evaluate(tmp_path, "validation_20", views="one")
    assert one["nll"] == pytest.approx(result["history"][-1]["val_loss"], rel=1e-4)


@pytest.mark.usefixtures("no_pictures")
def test_keeps_the_best_and_the_latest(config, tmp_path):
    config.epochs = 6
    config.learning_rate = 0.02
    history = train(config, tmp_path)["history"]
    best = max(history, key=lambda epoch: (epoch["val_accuracy"], epoch["step"]))
    kept = {int(path.name) for path in (tmp_path / "checkpoints").iterdir()}
    assert kept == {best["step"], history[-2]["step"], history[-1]["step"]}

    for which, epoch in (("best", best), ("latest", history[-1]), (str(best["step"]), best)):
        report = evaluate(tmp_path, "validation_20", checkpoint=which)
        assert report["checkpoint_step"] == epoch["step"]
        assert report["accuracy"] == epoch["val_accuracy"]
    with pytest.raises(UserError, match=r"no checkpoint '7'.*it holds"):
        evaluate(tmp_path, "validation_20", checkpoint="7")


@pytest.mark.usefixtures("no_pictures")
def test_early_stopping_waits_as_keras_does(config, tmp_path):
    """With a learning rate of zero the loss does not fall after the first epoch."""
    config.epochs = 9
    config.learning_rate = 0.0
    config.model.layers = ("flatten",)
    config.early_stopping_patience = 2
    assert len(train(config, tmp_path)["history"]) == 3


@pytest.mark.usefixtures("no_pictures")
def test_a_loss_that_is_not_finite_keeps_the_best_checkpoint(config, finished, tmp_path):
    kept = files_below(finished / "checkpoints")
    config.epochs = 5
    config.learning_rate = 1e30
    config.optimizer = "sgd"
    other = tmp_path / "other"
    with pytest.raises(UserError, match=r"the loss is (nan|inf) at step \d+.*checkpoints are kept"):
        train(config, other)
    assert files_below(finished / "checkpoints") == kept
    assert not [name for name in files_below(other / "checkpoints") if "model" in name]


@pytest.mark.usefixtures("no_pictures")
def test_trains_away_from_the_main_thread(config, tmp_path):
    """As in a notebook that trains in the background, where signals cannot be handled."""
    config.epochs = 1
    results = []
    thread = threading.Thread(target=lambda: results.append(train(config, tmp_path)))
    thread.start()
    thread.join()
    assert len(results[0]["history"]) == 1


@pytest.mark.usefixtures("no_pictures")
def test_evaluation_shapes_never_compile_again(config, tmp_path):
    """Each function is compiled once, even with a partly filled last batch."""
    import jax

    config.epochs = 1
    with pytest.MonkeyPatch.context() as patch:
        names = []
        import logging

        handler = logging.Handler()
        handler.emit = lambda record: names.append(record.getMessage())
        logger = logging.getLogger("jax._src.interpreters.pxla")
        logger.addHandler(handler)
        patch.setattr(logger, "propagate", False)
        jax.config.update("jax_log_compiles", True)  # In all threads.
        train(config, tmp_path)
        jax.config.update("jax_log_compiles", False)
        logger.removeHandler(handler)
    compiled = [name.split()[1] for name in names if name.startswith("Compiling")]
    for function in ("jit(take_steps)", "jit(predict)", "jit(end_epoch)"):
        assert compiled.count(function) == 1, compiled


def _with(config, **changes):
    config = config.copy_and_resolve_references()
    config.update(changes)
    return config
