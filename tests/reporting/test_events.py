"""Event files read back record by record, and TensorFlow kept out."""

import io
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from small_runs import make_history
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from fer_jax.reporting.events import RunEvents

ROOT = Path(__file__).parents[2]
CONFIG = {
    "learning_rate": 1e-3,
    "epochs": 25,
    "flip": True,
    "data_dir": None,
    "model": {"name": "größer", "layers": [["conv", 8], "flatten"]},
}


def read_values(workdir: Path, *, with_config: bool = False) -> dict:
    """The values of an event file by (tag, step), without the config.

    It holds TFRecords: u64 length, u32 checksum, the event, u32 checksum.
    """
    (path,) = workdir.glob("events.out.tfevents.*")
    data, events = path.read_bytes(), []
    while data:
        (length,) = struct.unpack_from("<Q", data)
        events.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    assert events[0].file_version == "brain.Event:2"
    values = {(value.tag, event.step): value for event in events for value in event.summary.value}
    config = {("config/text_summary", 0), ("_hparams_/session_start_info", 0)}
    return values if with_config else {key: values[key] for key in values.keys() - config}


@pytest.fixture
def events(tmp_path):
    events = RunEvents(tmp_path, CONFIG)
    yield events
    events.close()


def test_scalars_of_an_epoch_are_grouped(tmp_path, events):
    first, second = make_history(2)
    events.write_epoch(first)
    events.write_epoch(second)
    written = read_values(tmp_path)
    tags = {
        "train/loss": "train_loss",
        "train/accuracy": "train_accuracy",
        "train/learning_rate": "learning_rate",
        "validation/loss": "val_loss",
        "validation/accuracy": "val_accuracy",
        "speed/images_per_second": "images_per_second",
        "speed/seconds": "seconds",
    }
    assert {key: value.simple_value for key, value in written.items()} == {
        (tag, epoch["step"]): np.float32(epoch[key])
        for epoch in (first, second)
        for tag, key in tags.items()
    }


def test_the_config_is_text_and_hyper_parameters(tmp_path, events):
    events.write_epoch(*make_history(1))
    written = read_values(tmp_path, with_config=True)
    assert set(written) >= {("config/text_summary", 0), ("_hparams_/session_start_info", 0)}
    text = written["config/text_summary", 0]
    assert text.metadata.plugin_data.plugin_name == "text"
    assert json.loads(text.tensor.string_val[0]) == CONFIG

    plugin = written["_hparams_/session_start_info", 0].metadata.plugin_data
    assert plugin.plugin_name == "hparams"
    hparams = HParamsPluginData.FromString(plugin.content).session_start_info.hparams
    assert set(hparams) == {
        *("learning_rate", "epochs", "flip", "data_dir", "model.name", "model.layers")
    }
    assert hparams["learning_rate"].number_value == 1e-3
    assert hparams["epochs"].number_value == 25
    assert hparams["flip"].bool_value is True
    assert hparams["data_dir"].string_value == "None"
    assert hparams["model.name"].string_value == "größer"
    assert hparams["model.layers"].string_value == "[['conv', 8], 'flatten']"


def test_the_result_has_the_headline_figures(tmp_path, events):
    figures = {"accuracy": 0.75, "macro_f1": 0.5, "nll": 1.25}
    report = {**figures, "n": 40, "checkpoint_step": 700}
    events.write_result(report | {"intervals": dict.fromkeys(figures, (0.0, 1.0))})
    assert {key: value.simple_value for key, value in read_values(tmp_path).items()} == {
        (f"final/{name}", 700): value for name, value in figures.items()
    }


def test_figures_are_written_pixel_by_pixel(tmp_path, events):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    events.write_figures(9, {"curves": pixels})
    ((key, value),) = read_values(tmp_path).items()
    assert key == ("figures/curves", 9)
    with Image.open(io.BytesIO(value.image.encoded_image_string)) as image:
        np.testing.assert_array_equal(np.asarray(image), pixels)


def test_a_killed_run_loses_nothing(tmp_path):
    code = """
import os, signal, sys
from small_runs import make_history
from fer_jax.reporting.events import RunEvents
events = RunEvents(sys.argv[1], {})
for epoch in make_history(3):
    events.write_epoch(epoch)
os.kill(os.getpid(), signal.SIGKILL)
"""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = os.environ | {"PYTHONPATH": path}
    run = subprocess.run([sys.executable, "-c", code, tmp_path], env=environment)
    assert run.returncode < 0
    assert len(read_values(tmp_path)) == 3 * 7


def test_a_quick_restart_keeps_the_first_file(tmp_path):
    for _ in range(2):
        events = RunEvents(tmp_path, CONFIG)
        events.write_epoch(*make_history(1))
        events.close()
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 2


def test_only_process_0_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    events = RunEvents(tmp_path / "run", CONFIG)
    events.write_epoch(*make_history(1))
    events.close()
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_is_said_once(tmp_path, capsys):
    (tmp_path / "file").write_text("not a folder")
    events = RunEvents(tmp_path / "file", CONFIG)
    for epoch in make_history(2):
        events.write_epoch(epoch)
    events.close()
    assert capsys.readouterr().err.count("events for TensorBoard cannot be written") == 1


STARTUP = """
import sys
from fer_jax.reporting import evaluation, figures, metrics
heavy = {"matplotlib", "sklearn", "rich", "jax", "tensorboardX"} & set(sys.modules)
assert not heavy, heavy

from fer_jax.reporting import events
from clu import metric_writers, periodic_actions
run = events.RunEvents(sys.argv[1], {"seed": 0})
run.write_figures(1, {})
assert isinstance(run._writer, metric_writers.MetricWriter)
run.close()
figures.to_png(figures.plot_confusion_matrix([[1]], ["a"]))
assert "matplotlib.pyplot" not in sys.modules
assert "tensorflow" not in sys.modules

try:
    metric_writers.create_default_writer(sys.argv[1])
except RuntimeError as error:
    assert str(error) == "TensorFlow was imported"
else:
    raise AssertionError("clu's own SummaryWriter is out of reach")
"""


def test_tensorflow_is_imported_only_for_clus_own_writer(tmp_path):
    package = tmp_path / "site" / "tensorflow"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('TensorFlow was imported')")
    path = os.pathsep.join([str(package.parent), str(ROOT)])
    run = subprocess.run(
        [sys.executable, "-c", STARTUP, str(tmp_path / "run")],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
