"""Event files read back record by record, and TensorFlow kept out."""

import inspect
import io
import os
import struct
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from fer_jax.reporting.summary_writer import SummaryWriter
from fer_jax.reporting.writers import create_writer, metric_writers


def read_events(workdir: Path) -> list[Event]:
    """Parses the TFRecords: u64 length, u32 checksum, the event, u32 checksum."""
    (path,) = workdir.glob("events.out.tfevents.*")
    data, events = path.read_bytes(), []
    while data:
        (length,) = struct.unpack_from("<Q", data)
        events.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return events


def values(workdir: Path) -> dict:
    """The written values by (tag, step)."""
    return {
        (value.tag, event.step): value
        for event in read_events(workdir)
        for value in event.summary.value
    }


@pytest.fixture
def writer(tmp_path):
    writer = create_writer(tmp_path)
    yield writer
    writer.close()


def test_scalars_are_on_disk_after_flush(tmp_path, writer):
    writer.write_scalars(3, {"train_loss": 0.5, "val/accuracy": jnp.float32(0.25)})
    writer.write_scalars(4, {"train_loss": np.float64(0.125), "epoch": 2})
    writer.flush()
    assert read_events(tmp_path)[0].file_version == "brain.Event:2"
    assert {key: value.simple_value for key, value in values(tmp_path).items()} == {
        ("train_loss", 3): 0.5,
        ("val/accuracy", 3): 0.25,
        ("train_loss", 4): 0.125,
        ("epoch", 4): 2,
    }


def test_images_are_on_disk_pixel_by_pixel(tmp_path, writer):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)
    grey = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4, 1)
    writer.write_images(1, {"figure": pixels[0], "faces": pixels, "grey": grey})
    writer.flush()
    written = {}
    for (tag, step), value in values(tmp_path).items():
        assert step == 1
        with Image.open(io.BytesIO(value.image.encoded_image_string)) as image:
            written[tag] = np.asarray(image)
    assert set(written) == {"figure", "faces/0", "faces/1", "grey"}
    np.testing.assert_array_equal(written["figure"], pixels[0])
    np.testing.assert_array_equal(written["faces/1"], pixels[1])
    np.testing.assert_array_equal(written["grey"][..., :1], (grey * 255).astype(np.uint8))


def test_texts_and_histograms(tmp_path, writer):
    writer.write_texts(2, {"note": "**größer**"})
    writer.write_histograms(2, {"kernel": jnp.arange(10.0), "few": np.arange(4)}, {"few": 2})
    writer.flush()
    written = values(tmp_path)
    assert written["note/text_summary", 2].tensor.string_val == ["**größer**".encode()]
    kernel = written["kernel", 2].histo
    assert (kernel.num, kernel.min, kernel.max, sum(kernel.bucket)) == (10, 0, 9, 10)
    assert sum(bucket > 0 for bucket in written["few", 2].histo.bucket) == 2


def test_hparams_of_every_kind(tmp_path, writer):
    given = {"rate": 1e-3, "epochs": 25, "augment": True, "name": "resnet", "crops": (40, 44)}
    writer.write_hparams(given | {"seed": None})
    writer.flush()
    (value,) = values(tmp_path).values()
    content = value.metadata.plugin_data.content
    written = HParamsPluginData.FromString(content).session_start_info.hparams
    assert written["rate"].number_value == 1e-3
    assert written["epochs"].number_value == 25
    assert written["augment"].bool_value is True
    assert written["name"].string_value == "resnet"
    assert written["crops"].string_value == "(40, 44)"
    assert written["seed"].string_value == "None"


def test_what_tensorboard_does_not_get_is_no_error(tmp_path, writer):
    writer.write_videos(1, {"clip": np.zeros((2, 4, 4, 3))})
    writer.write_audios(1, {"sound": np.zeros((1, 8, 1))}, sample_rate=8000)
    writer.write_summaries(1, {"tensor": np.zeros(3)})
    writer.flush()
    assert not values(tmp_path)


def test_a_quick_restart_keeps_the_first_file(tmp_path):
    for _ in range(2):
        create_writer(tmp_path).close()
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 2


def test_only_process_0_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    writer = create_writer(tmp_path / "run")
    writer.write_scalars(1, {"loss": 1.0})
    writer.flush()
    writer.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", sorted(metric_writers.MetricWriter.__abstractmethods__))
def test_has_clus_whole_interface(name):
    # It is registered with clu's base, not derived from it, so nothing else would notice a gap.
    ours = inspect.signature(getattr(SummaryWriter, name)).parameters
    clus = inspect.signature(getattr(metric_writers.MetricWriter, name)).parameters
    assert [(p.name, p.kind, p.default) for p in ours.values()] == [
        (p.name, p.kind, p.default) for p in clus.values()
    ]


STARTUP = """
import sys
from fer_jax.reporting import evaluation, figures, history, metrics
heavy = {"matplotlib", "sklearn", "rich", "jax", "tensorboardX"} & set(sys.modules)
assert not heavy, heavy

from clu import metric_writers, periodic_actions
from fer_jax.reporting import summary_writer, writers
assert metric_writers.SummaryWriter is summary_writer.SummaryWriter
assert issubclass(summary_writer.SummaryWriter, metric_writers.MetricWriter)
writers.create_writer(sys.argv[1]).close()
figures.to_png(figures.plot_confusion_matrix([[1]], ["a"]))
assert "matplotlib.pyplot" not in sys.modules
"""


def test_tensorflow_is_never_imported_even_where_it_is_installed(tmp_path):
    package = tmp_path / "site" / "tensorflow"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('TensorFlow was imported')")
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(package.parent), str(root)])
    run = subprocess.run(
        [sys.executable, "-c", STARTUP, str(tmp_path / "run")],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
