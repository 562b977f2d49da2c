"""Every shipped config, shrunk only in how long it trains, takes real steps."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from fer_jax.train import train

# base.py is what cnn.py trains as it stands.
CONFIGS = [p for p in sorted(Path("configs").rglob("*.py")) if p.stem not in ("__init__", "base")]


def load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_takes_a_step(path, tiny_data_dir, tmp_path):
    config = load(path).get_config()
    config.data_dir = str(tiny_data_dir)
    config.data_source = ""
    config.epochs = 1
    config.warmup_epochs = 0.0
    config.steps_per_epoch = 1
    config.batch_size = 8
    config.eval_batch_size = 56
    result = train(config, tmp_path)
    assert len(result["history"]) == 1
    assert (
        result["report"]["n"] == {"validation_20": 42, "public_test": 35}[config.validation_split]
    )


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_says_how_to_run_it(path):
    assert f"python -m fer_jax.main --config={path}" in load(path).__doc__


@pytest.mark.parametrize(
    ("name", "totals"),
    [("published/small_cnn", (319_527, 319_527, 0)), ("resnet", (11_180_871, 11_171_271, 9_600))],
)
def test_parameter_counts(name, totals):
    command = [sys.executable, "-m", "fer_jax.summary", f"--config=configs/{name}.py"]
    result = subprocess.run([*command, "--format=json"], check=True, capture_output=True, text=True)
    assert json.loads(result.stdout) == dict(
        zip(("total", "trainable", "non_trainable"), totals, strict=True)
    )


def test_the_quickstart_uses_given_data(monkeypatch, tmp_path):
    monkeypatch.delenv("FER2013_DIR", raising=False)
    assert load(Path("configs/quickstart.py")).get_config().data_source == "sample"
    monkeypatch.setenv("FER2013_DIR", str(tmp_path))
    config = load(Path("configs/quickstart.py")).get_config()
    assert (config.data_dir, config.data_source) == ("", "")
