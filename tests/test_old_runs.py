"""A workdir of version 0.1.0 stays usable: it resumes, is evaluated, and predicts."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from test_train import without_time

from fer_jax import Predictor, evaluate, train
from fer_jax.data.records import open_data_set
from fer_jax.workdir import read_run

RUN = Path(__file__).parent / "fixtures/run_0_1_0"
"""Records, a run stopped by SIGTERM in its third of four epochs, and the unbroken run's results."""


@pytest.fixture
def workdir(tmp_path):
    return shutil.copytree(RUN / "run", tmp_path / "run")


@pytest.fixture
def expected():
    return json.loads((RUN / "expected.json").read_text())


@pytest.mark.usefixtures("no_pictures")
def test_it_resumes_and_ends_as_the_unbroken_run_did(workdir, expected):
    config = ConfigDict(read_run(workdir)["config"])
    config.data_dir = str(RUN / "records")
    result = train(config, workdir)
    history = without_time(result["history"])
    assert [epoch["epoch"] for epoch in history] == [1, 2, 3, 4]
    for epoch, before in zip(history, expected["history"], strict=True):
        # Another processor rounds otherwise.
        assert epoch == pytest.approx(before, rel=1e-3)
    assert result["report"]["checkpoint_step"] == expected["report"]["checkpoint_step"]
    assert result["report"]["accuracy"] == expected["report"]["accuracy"]


@pytest.mark.usefixtures("no_pictures")
def test_it_is_evaluated_and_predicts(workdir, expected):
    report = evaluate(workdir, "public_test", data_dir=RUN / "records")
    epoch = expected["history"][1]
    assert (report["checkpoint_step"], report["views"]) == (epoch["step"], "flip")
    assert report["accuracy"] == pytest.approx(epoch["val_accuracy"])
    assert report["nll"] == pytest.approx(epoch["val_loss"], rel=1e-4)

    records = open_data_set(RUN / "records").load("public_test")
    prediction = Predictor.from_workdir(workdir)(records.images())
    right = np.array(prediction.labels) == np.array(prediction.classes)[records.labels]
    assert right.mean() == pytest.approx(epoch["val_accuracy"])
