"""Several members trained at once: their files, how they resume, and their mean prediction."""

import json

import numpy as np
import pytest
from pictures import leave_out_pictures
from test_train import read_history, stop_at, without_time

from fer_jax import Predictor
from fer_jax.config import default_config
from fer_jax.data import records
from fer_jax.errors import UserError
from fer_jax.evaluate import evaluate
from fer_jax.inference import trained
from fer_jax.reporting.evaluation import read_predictions
from fer_jax.train import train


@pytest.fixture(scope="module")
def base_config(tiny_data_dir):
    config = default_config()
    config.data_dir = str(tiny_data_dir)
    config.model.layers = ("max_pool", "max_pool", "flatten", ("dense", 16))
    config.optimizer = "sgd"
    config.learning_rate = 0.01
    config.batch_size = 16
    config.eval_batch_size = 32
    config.epochs = 3
    config.ensemble = 2
    return config


@pytest.fixture
def config(base_config):
    return base_config.copy_and_resolve_references()


def add_options(config):
    config.learning_rates = (0.01, 0.03)
    config.ema_decay = 0.9


@pytest.fixture(scope="module")
def ensemble(base_config, tmp_path_factory):
    """The workdir of two members with averaged weights, and the result of `train`."""
    config = base_config.copy_and_resolve_references()
    add_options(config)
    workdir = tmp_path_factory.mktemp("ensemble") / "both"
    with pytest.MonkeyPatch.context() as patch:
        leave_out_pictures(patch, pages=True)
        return workdir, train(config, workdir)


def test_members_are_runs_of_their_own(config, ensemble, tmp_path):
    workdir, result = ensemble
    for k, rate in enumerate((0.01, 0.03)):
        folder = workdir / f"member_{k}"
        single = json.loads((folder / "config.json").read_text())["config"]
        assert (single["seed"], single["ensemble"], single["learning_rate"]) == (k, 1, rate)
        assert read_history(folder) == result["members"][k]["history"]
        assert (folder / "report.html").exists()
    assert result["members"][0]["history"] != result["members"][1]["history"]

    # The second member, because its seed and its rate differ from the config's.
    add_options(config)
    config.update(seed=1, ensemble=1, learning_rate=0.03, learning_rates=())
    with pytest.MonkeyPatch.context() as patch:
        leave_out_pictures(patch)
        alone = train(config, tmp_path / "alone")
    for epoch, expected in zip(result["members"][1]["history"], alone["history"], strict=True):
        for key in ("train_loss", "val_loss", "val_accuracy", "learning_rate"):
            assert epoch[key] == pytest.approx(expected[key], abs=1e-4), key
    report = json.loads((workdir / "member_1/eval/validation_20/report.json").read_text())
    assert report["accuracy"] == alone["report"]["accuracy"]


def test_the_ensemble_is_the_mean_of_its_members(ensemble):
    workdir, result = ensemble
    members = [workdir / "member_0", workdir / "member_1"]
    with pytest.MonkeyPatch.context() as patch:
        leave_out_pictures(patch, pages=True)
        report = evaluate(workdir, "public_test")
    for split in ("validation_20", "public_test"):
        mean = np.mean([read_predictions(m, split).probabilities for m in members], axis=0)
        together = read_predictions(workdir, split)
        np.testing.assert_allclose(together.probabilities, mean, atol=1e-6)
        written = json.loads((workdir / f"eval/{split}/report.json").read_text())
        assert written["accuracy"] == np.mean(mean.argmax(axis=1) == together.labels)
        seeds = written["members"]
        single = [
            json.loads((m / f"eval/{split}/report.json").read_text())["accuracy"] for m in members
        ]
        assert seeds["accuracy"] == single
        assert seeds["mean"] == pytest.approx(np.mean(single))
        assert seeds["sd"] == pytest.approx(np.std(single, ddof=1))
    assert result["report"]["accuracy"] != report["accuracy"]
    assert (workdir / "report.html").exists()
    assert [path.parent for path in workdir.rglob("resources.json")] == [workdir]
    page = " ".join((workdir / "eval/public_test/report.html").read_text().split())
    assert "Mean prediction of 2 members" in page
    assert f"{100 * seeds['mean']:.1f} % <small>of 2 members" in page
    history = read_history(workdir)
    histories = [read_history(member) for member in members]
    for epoch, ones in zip(history, zip(*histories, strict=True), strict=True):
        assert epoch["val_loss"] == pytest.approx(np.mean([one["val_loss"] for one in ones]))

    face = np.random.default_rng(0).integers(0, 256, (48, 48), dtype=np.uint8)
    together, *ones = (
        Predictor.from_workdir(folder)(face).probabilities for folder in (workdir, *members)
    )
    np.testing.assert_allclose(together, np.mean(ones, axis=0), atol=1e-6)


@pytest.mark.usefixtures("no_pictures")
def test_an_evaluation_reads_and_predicts_once(ensemble, monkeypatch):
    """One opening of the data, and one prediction by each of two members."""
    calls = []
    for module, name in ((records, "open_data_set"), (trained, "predict_records")):
        function = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *a, _f=function, **k: calls.append(_f.__name__) or _f(*a, **k)
        )
    evaluate(ensemble[0], "private_test")
    assert sorted(calls) == ["open_data_set", "predict_records", "predict_records"]


@pytest.mark.usefixtures("no_pictures")
def test_resumes_all_members_from_the_same_step(config, ensemble, tmp_path):
    _, whole = ensemble
    add_options(config)
    config.checkpoint_every_steps = 4
    stop_at(config, tmp_path / "stopped", step=14)
    # As if the run had been killed while the second member was still saving.
    steps = sorted(p for p in (tmp_path / "stopped/member_1/checkpoints").iterdir())
    assert len(steps) >= 2
    latest = max(steps, key=lambda path: int(path.name))
    latest.rename(latest.with_name("gone.orbax-checkpoint-tmp"))
    resumed = train(config, tmp_path / "stopped")
    for one, other in zip(whole["members"], resumed["members"], strict=True):
        assert without_time(one["history"]) == without_time(other["history"])
        assert one["report"] == other["report"]


@pytest.mark.usefixtures("no_pictures")
def test_a_member_that_stops_early_waits_for_the_others(config, tmp_path):
    config.optimizer = "adam"
    config.learning_rates = (1e-9, 1e-3)
    config.early_stopping_patience = 1
    config.epochs = 4
    lengths = [len(m["history"]) for m in train(config, tmp_path)["members"]]
    assert lengths == [2, 4]
    assert len(read_history(tmp_path)) == 4


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"learning_rates": (0.1,)}, "1 rates for ensemble = 2; give one for each"),
        ({"ensemble": 0}, "ensemble is 0; give 1 or more"),
        ({"learning_rates": (0.1, 0.2), "learning_rate": 0.0}, "learning_rate, which is 0; set it"),
    ],
    ids=str,
)
def test_what_cannot_be_is_told_in_a_line(config, tmp_path, knobs, message):
    config.update(knobs)
    with pytest.raises(UserError, match=message):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
