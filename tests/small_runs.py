"""Workdirs of runs that were never trained, with made-up files for the pages to read."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from fer_jax.data.contract import ImageFormat
from fer_jax.data.records import Records
from fer_jax.reporting.evaluation import Evaluation
from fer_jax.workdir import write_history

SEVEN = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")


def make_run(workdir: Path, **config) -> Path:
    """Writes the config.json and metrics.jsonl of a run; `config` overrides knobs."""
    facts = {
        "config": {
            "epochs": 12,
            "seed": 0,
            "shift": 0.1,
            "flip": True,
            "rotation": 0.0,
            "shear": 0.0,
            "zoom": 0.0,
            "crop": 1.0,
            "erasing": 0.0,
            "learning_rate": 1e-3,
            "train_split": "train_80",
            "validation_split": "validation_20",
            "model": {"name": "cnn", "layers": [["conv", 8], "flatten"] * 6},
        }
        | config,
        "data": {"fingerprint": "12ab" * 16, "source": "sample", "classes": list(SEVEN)},
        "devices": {"kind": "cpu", "count": 2, "processes": 1},
        "versions": {"python": "3.12.1", "jax": "0.12.0"},
    }
    workdir.mkdir()
    (workdir / "config.json").write_text(json.dumps(facts))
    write_history(workdir / "metrics.jsonl", make_history(12))
    return workdir


def make_history(epochs: int) -> list[dict]:
    return [
        {
            "epoch": epoch,
            "step": 100 * epoch,
            "train_loss": 2 / epoch,
            "train_accuracy": 1 - 0.8 / epoch,
            "val_loss": 1.8 / epoch + 0.02 * epoch,
            "val_accuracy": 0.9 - 0.7 / epoch,
            "learning_rate": 1e-3,
            "images_per_second": 1000.0 + 10 * epoch,
            "seconds": 60.0 * epoch,
        }
        for epoch in range(1, epochs + 1)
    ]


def make_evaluation(
    workdir: Path, n: int, *, split="test", classes=SEVEN, skill=2.0, name="{}.png"
):
    """Returns an evaluation on `n` images, the same images for every `skill`."""
    random = np.random.default_rng(0)
    labels = random.integers(0, len(classes), n).astype(np.int32)
    images = random.integers(0, 256, (n, 48, 48, 1), dtype=np.uint8)
    logits = 1.5 * random.normal(size=(n, len(classes))) + skill * np.eye(len(classes))[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return Evaluation(
        workdir=workdir,
        split=split,
        checkpoint_step=1234,
        data=SimpleNamespace(
            classes=classes,
            source="sample",
            fingerprint="ab12" * 16,
            name="fer2013",
            title="FER-2013",
            images=ImageFormat(),
        ),
        records=Records(labels, [name.replace("{}", str(k)) for k in range(n)], images.__getitem__),
        probabilities=probabilities.astype(np.float32),
    )
