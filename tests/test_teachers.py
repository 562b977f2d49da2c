"""Runs that learn from trained networks: what they learn, how they resume, what is refused."""

import json
import shutil

import jax
import numpy as np
import pytest
from pictures import leave_out_pictures
from small_records import make_records
from test_train import read_history, stop_at, without_time

from fer_jax.config import default_config
from fer_jax.data.records import open_data_set
from fer_jax.errors import UserError
from fer_jax.inference.teachers import Teachers
from fer_jax.inference.trained import load_trained
from fer_jax.train import train
from fer_jax.workdir import SHIPPED

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture
def config(tiny_data_dir, trained_workdir):
    config = default_config()
    config.data_dir = str(tiny_data_dir)
    config.model.layers = ("max_pool", "max_pool", "flatten", ("dropout", 0.1), ("dense", 16))
    config.batch_size, config.eval_batch_size = 16, 64
    config.epochs, config.steps_per_epoch = 2, 5
    config.mixup, config.cutmix = 0.2, 0.3
    config.input = "device"
    config.teachers = (str(trained_workdir),)
    return config


@pytest.fixture(scope="module")
def pair(tiny_data_dir, tmp_path_factory):
    """An ensemble of two networks of other images."""
    config = default_config()
    config.data_dir = str(tiny_data_dir)
    config.model.update(layers=("max_pool", "flatten"), image_size=24, channels=3)
    config.batch_size, config.eval_batch_size = 16, 64
    config.ensemble, config.epochs, config.steps_per_epoch = 2, 1, 3
    workdir = tmp_path_factory.mktemp("pair") / "run"
    with pytest.MonkeyPatch.context() as patch:
        leave_out_pictures(patch)
        train(config, workdir)
    return workdir


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_they_predict_the_mean_of_all_networks(
    backend, pair, trained_workdir, tiny_data_dir, monkeypatch
):
    models = [load_trained(run, views="one") for run in (pair, trained_workdir, SHIPPED)]
    records = open_data_set(tiny_data_dir).load("public_test")
    each = [p for model in models for p in model.network_probabilities(records)]
    runs = [str(pair), str(trained_workdir), "shipped"]
    monkeypatch.setattr("fer_jax.inference.teachers.supported_dtype", lambda *_, **__: "float32")
    teachers = Teachers(runs, models[0].classes)
    assert teachers.count == len(each) == 4
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    weights = teachers.place(models[0].mesh)
    images = records.read(np.arange(len(records))).astype(np.float32) / 255
    found = jax.jit(teachers.probabilities, static_argnums=2)(weights, images, 1.0)
    np.testing.assert_allclose(found, np.mean(each, axis=0), atol=1e-5)
    flat = jax.jit(teachers.probabilities, static_argnums=2)(weights, images, 1e4)
    np.testing.assert_allclose(flat, 1 / 7, atol=1e-2)


def test_a_student_learns_its_teachers_predictions(config, trained_workdir, tmp_path, capsys):
    """From noise, whose labels say nothing: only the teacher can tell what it would predict."""
    noise = make_records(tmp_path / "noise", {"train": range(7), "public_test": range(7)})
    config.update(data_dir=str(noise), train_split="train", validation_split="public_test")
    config.update(batch_size=7, mixup=0.0, cutmix=0.0, shift=0.0, flip=False, epochs=1)
    config.update(learning_rate=1e-3, steps_per_epoch=100)
    config.model.layers = ("flatten",)
    config.distillation.update(weight=1.0, temperature=1.0)
    train(config, tmp_path / "student")
    assert f"learning from {trained_workdir}\n" in capsys.readouterr().out
    records = open_data_set(noise).load("train")
    theirs = load_trained(trained_workdir, views="one").probabilities(records)
    student = load_trained(tmp_path / "student", views="one").probabilities(records)
    assert abs(student - theirs).mean() < 0.2 * abs(theirs - theirs.mean(axis=0)).mean()


@pytest.mark.usefixtures("cached_programs")
@pytest.mark.parametrize("source", ["device", "host"])
def test_a_student_resumes_bit_for_bit_though_its_teacher_moves(
    source, config, trained_workdir, tmp_path
):
    config.input = source
    train(config, tmp_path / "unbroken")
    recorded = json.loads((tmp_path / "unbroken/config.json").read_text())["config"]
    assert len(recorded["distillation"]["sha256"]) == 64
    stop_at(config, tmp_path / "stopped", 7, steps_per_epoch=5)
    shutil.copytree(trained_workdir, tmp_path / "moved")
    config.teachers = (str(tmp_path / "moved"),)
    train(config, tmp_path / "stopped")
    histories = [read_history(tmp_path / name) for name in ("unbroken", "stopped")]
    assert without_time(histories[0]) == without_time(histories[1])


@pytest.mark.usefixtures("cached_programs")
def test_members_are_students_of_the_same_teachers(config, pair, tmp_path):
    config.teachers = (*config.teachers, str(pair))
    config.ensemble = 2
    members = train(config, tmp_path / "both")["members"]
    config.update(ensemble=1, seed=1)
    alone = train(config, tmp_path / "alone")["history"]
    for epoch, expected in zip(members[1]["history"], alone, strict=True):
        for key in ("train_loss", "val_loss"):
            assert epoch[key] == pytest.approx(expected[key], abs=1e-4), key
    assert members[0]["history"] != members[1]["history"]


@pytest.mark.usefixtures("cached_programs")
def test_other_teachers_are_refused(config, pair, tmp_path):
    config.epochs = 1
    train(config, tmp_path / "run")
    config.update(epochs=2, teachers=(str(pair),))
    with pytest.raises(UserError, match=r"of another config: distillation.sha256 was '\w+', is '"):
        train(config, tmp_path / "run")
    config.distillation.sha256 = "0" * 64
    with pytest.raises(UserError, match=r"have digest \w{64}, and distillation.sha256 is 0000"):
        train(config, tmp_path / "new")
    config.teachers = ()
    with pytest.raises(UserError, match=r"teachers \(none\) have digest \(none\)"):
        train(config, tmp_path / "new")
    config.distillation.sha256 = ""
    config.teachers = (str(tmp_path / "nowhere"),)
    with pytest.raises(UserError, match=r"nowhere is no workdir .*; train that teacher first"):
        train(config, tmp_path / "new")
    config.update(teachers=(str(pair),), classes=("happy", "sad"))
    with pytest.raises(UserError, match=r"tells apart angry, .*; give runs with the classes h"):
        train(config, tmp_path / "new")
    assert not (tmp_path / "new").exists()
