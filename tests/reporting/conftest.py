"""A run that was never trained: what the pages read of one, and predictions to show."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fer_jax.data.records import Records
from fer_jax.reporting.predictions import Predictions

RUN = {
    "config": {
        "epochs": 3,
        "seed": 0,
        "shift": 0.1,
        "flip": True,
        "train_split": "train_80",
        "model": {"name": "cnn", "layers": [["conv", 8], "flatten"]},
    },
    "data": {"fingerprint": "12ab" * 16, "source": "sample"},
    "devices": {"kind": "cpu", "count": 2, "processes": 1},
    "versions": {"python": "3.12.1", "jax": "0.12.0"},
}


@pytest.fixture
def run(tmp_path) -> Path:
    """A workdir that holds a config.json and nothing else."""
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "config.json").write_text(json.dumps(RUN))
    return workdir


@pytest.fixture
def predict(run):
    """Makes `n` predictions for a split `test`, right more often than not."""

    def predict(n, classes=("angry", "happy", "neutral"), name="faces, all/{}.jpg") -> Predictions:
        random = np.random.default_rng(0)
        labels = random.integers(0, len(classes), n).astype(np.int32)
        logits = 1.5 * random.normal(size=(n, len(classes))) + 2 * np.eye(len(classes))[labels]
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        images = random.integers(0, 256, (n, 48, 48, 1), dtype=np.uint8)
        return Predictions(
            workdir=run,
            split="test",
            checkpoint_step=1234,
            data=SimpleNamespace(classes=classes, source="sample", fingerprint="ab12" * 16),
            records=Records(labels, [name.format(k) for k in range(n)], images.__getitem__),
            probabilities=probabilities.astype(np.float32),
        )

    return predict
