"""`python -m fer_jax.export` on a trained run, and the programs of docs/export.md."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import commands
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from data_prep.sample import render
from fer_jax import Predictor
from fer_jax.errors import UserError
from fer_jax.export import export
from fer_jax.exporting.onnx import run_onnx

PAGE = Path(__file__).parents[1] / "docs" / "export.md"


def run(*arguments):
    return commands.run("fer_jax.export", *arguments)


@pytest.fixture(scope="module")
def files(trained_workdir, tmp_path_factory) -> Path:
    """The three exports of a trained run, and the picture of a face."""
    folder = tmp_path_factory.mktemp("exports")
    names = {"onnx": "faces.onnx", "stablehlo": "faces.stablehlo", "safetensors": "faces"}
    for kind, name in names.items():
        flags = (f"--workdir={trained_workdir}", f"--format={kind}", f"--output={folder / name}")
        result = run(*flags)
        assert result.returncode == 0, result.stderr
        assert re.search(
            r"on 42 images of validation_20 its probabilities are the predictor's to \de[+-]\d\d$",
            result.stdout,
        )
    assert sorted(path.name for path in folder.iterdir()) == sorted(names.values())
    face = render([3], [np.random.default_rng(3)])[0]
    Image.fromarray(face).resize((96, 96)).convert("RGB").save(folder / "anna.png")
    return folder


def programs() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.mark.parametrize(("number", "blocked"), [(0, "jax flax fer_jax"), (1, "flax fer_jax")])
def test_the_programs_of_the_page_need_no_fer_jax(number, blocked, files, trained_workdir):
    """Each runs as it stands in the page, in a process that cannot import what it does without."""
    program = programs()[number]
    assert len(program.splitlines()) <= 15
    block = f"import sys\nsys.modules.update(dict.fromkeys({blocked.split()}))\n"
    done = subprocess.run(
        [sys.executable, "-c", block + program], cwd=files, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    prediction = Predictor.from_workdir(trained_workdir)(files / "anna.png")
    label, confidence = prediction.labels[0], prediction.confidences[0]
    assert done.stdout == f"{label} {confidence:.0%}\n"


def test_the_folder_is_a_workdir_for_the_predictor(files, trained_workdir):
    """As the page's third program has it."""
    names: dict = {}
    program = programs()[2].replace('"faces"', repr(str(files / "faces")))
    exec(program.replace('"anna.png"', repr(str(files / "anna.png"))), names)
    expected = Predictor.from_workdir(trained_workdir)(files / "anna.png")
    np.testing.assert_allclose(names["prediction"].probabilities, expected.probabilities, atol=1e-6)
    again = files / "again"
    result = run(f"--workdir={files / 'faces'}", "--format=safetensors", f"--output={again}")
    assert result.returncode == 0, result.stderr
    assert (again / "model.safetensors").read_bytes() == (
        files / "faces" / "model.safetensors"
    ).read_bytes()
    shutil.rmtree(again)


def test_the_model_that_ships_is_the_default(tmp_path):
    result = run("--format=onnx", f"--output={tmp_path / 'faces'}")
    assert result.returncode == 0, result.stderr
    assert "64 drawn faces" in result.stdout
    predict = run_onnx(tmp_path / "faces")
    face = render([3], [np.random.default_rng(3)])
    expected = Predictor.pretrained()(face).probabilities
    np.testing.assert_allclose(predict(face[..., None]), expected, atol=1e-4)


def test_other_views_than_the_runs(trained_workdir, tmp_path):
    export(trained_workdir, "stablehlo", tmp_path / "faces", views="flip")
    with zipfile.ZipFile(tmp_path / "faces") as file:
        assert json.loads(file.read("metadata.json"))["views"] == "flip"


def test_a_damaged_export_leaves_no_file(trained_workdir, tmp_path, monkeypatch):
    """The check reads what was written: a weight that changes on the way is noticed."""
    write = Path.write_bytes

    def damage(path, content):
        proto = onnx.load_from_string(content)
        weight = max(proto.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        values = numpy_helper.to_array(weight) * 1.5
        weight.CopyFrom(numpy_helper.from_array(values, weight.name))
        return write(path, proto.SerializeToString())

    monkeypatch.setattr(Path, "write_bytes", damage)
    with pytest.raises(UserError, match=r"differ from the predictor's .*; nothing is written"):
        export(trained_workdir, "onnx", tmp_path / "faces.onnx")
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name)
    )
    with pytest.raises(UserError, match=r"needs onnxruntime: pip install 'fer_jax\[export\]'"):
        export(tmp_path, "onnx", tmp_path / "faces.onnx")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--format=tflite", "--output={folder}/x"), "onnx|stablehlo|safetensors"),
        (("--format=onnx", "--output={folder}/no/x.onnx"), "there is no folder {folder}/no"),
        (("--format=onnx", "--output={folder}"), "is a folder; name a file"),
        (("--format=onnx", "--output={folder}/file/x.onnx"), "there is no folder"),
        (("--format=safetensors", "--output={folder}"), "holds other files; name a new folder"),
        (("--format=onnx",), "--output"),
        (("--format=onnx", "--output={folder}/x", "--checkpoint=7"), "7"),
        (("--format=onnx", "--output={folder}/x", "--workdir={folder}"), "no workdir of a run"),
        (("--format=onnx", "--output=/proc/x.onnx"), "--output=/proc"),
    ],
)
def test_a_mistake_is_one_line(flags, message, trained_workdir, tmp_path):
    (tmp_path / "file").touch()
    flags = [flag.format(folder=tmp_path) for flag in flags]
    result = run(f"--workdir={trained_workdir}", *flags)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert message.format(folder=tmp_path) in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
