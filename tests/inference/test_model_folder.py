"""A model folder predicts as its run does, and damage to it is told."""

import hashlib
import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fer_jax import Predictor, evaluate
from fer_jax.data.records import open_data_set
from fer_jax.errors import UserError
from fer_jax.inference.model_folder import write_model_folder
from fer_jax.inference.trained import load_trained
from fer_jax.workdir import read_run


def write(folder, workdir, **options):
    model = load_trained(workdir)
    options = {"steps": model.steps, "temperature": 1.0} | options
    write_model_folder(folder, read_run(workdir), model.networks, **options)
    return folder


@pytest.fixture(scope="module")
def intact(trained_workdir, tmp_path_factory):
    return write(tmp_path_factory.mktemp("model"), trained_workdir)


@pytest.fixture
def folder(intact, tmp_path):
    return shutil.copytree(intact, tmp_path / "model")


@pytest.fixture(scope="module")
def faces(tiny_data_dir):
    return open_data_set(tiny_data_dir).load("test").images()


def test_float32_predicts_what_the_run_predicts(intact, trained_workdir, faces):
    expected = Predictor.from_workdir(trained_workdir)
    found = Predictor.from_workdir(intact)
    np.testing.assert_array_equal(found(faces).probabilities, expected(faces).probabilities)
    np.testing.assert_array_equal(found.explain(faces)[1], expected.explain(faces)[1])


def test_float16_halves_the_file_and_rounds_kernels(trained_workdir, intact, tmp_path, faces):
    half = write(tmp_path / "half", trained_workdir, dtype="float16")
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (half, intact)]
    assert sizes[0] < 0.55 * sizes[1]
    tensors = load_file(half / "model.safetensors")
    assert {(v.ndim > 1, str(v.dtype)) for v in tensors.values()} == {
        (True, "float16"),
        (False, "float32"),
    }
    found, expected = (Predictor.from_workdir(f)(faces).probabilities for f in (half, intact))
    assert 0 < np.abs(found - expected).max() < 5e-3


def test_a_kernel_too_large_for_float16_is_refused(trained_workdir, tmp_path):
    model = load_trained(trained_workdir)
    params, statistics = model.networks[0]
    params["head"]["kernel"] = params["head"]["kernel"][...] + 7e4
    with pytest.raises(UserError, match=r"head\.kernel .* float16 .* use float32"):
        write_model_folder(
            tmp_path / "new",
            read_run(trained_workdir),
            [(params, statistics)],
            steps=model.steps,
            temperature=1.0,
            dtype="float16",
        )
    assert not (tmp_path / "new").exists()


def test_the_temperature_divides_the_logits(trained_workdir, tmp_path, faces):
    folder = write(tmp_path / "warm", trained_workdir, temperature=2.0)
    warm = Predictor.from_workdir(folder)(faces).probabilities
    plain = Predictor.from_workdir(trained_workdir)(faces).probabilities
    expected = np.sqrt(plain) / np.sqrt(plain).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(warm, expected, atol=1e-6)


def test_the_config_has_no_path_of_the_machine_and_what_hubs_read(intact, tiny_data_dir):
    text = (intact / "config.json").read_text()
    assert str(tiny_data_dir) not in text
    config = json.loads(text)
    assert config["id2label"]["3"] == "happy"
    assert config["label2id"]["neutral"] == 6
    assert config["model_type"] == "fer_jax"


@pytest.mark.usefixtures("no_pictures")
def test_evaluate_takes_it_for_a_run(folder, trained_workdir, tiny_data_dir):
    report = evaluate(folder, "public_test", data_dir=tiny_data_dir)
    expected = evaluate(trained_workdir, "public_test")
    assert report["accuracy"] == expected["accuracy"]
    assert (folder / "eval/public_test/report.json").exists()
    with pytest.raises(UserError, match="model folder with one checkpoint; leave it out"):
        evaluate(folder, "public_test", checkpoint="7", data_dir=tiny_data_dir)


def test_an_ensemble_is_one_file(trained_workdir, tmp_path, faces):
    run = read_run(trained_workdir)
    run["config"]["ensemble"] = 2
    model = load_trained(trained_workdir)
    (params, statistics) = model.networks[0]
    other = load_trained(trained_workdir).networks[0][0]
    other["head"]["kernel"] = -other["head"]["kernel"][...]
    write_model_folder(
        tmp_path,
        run,
        [(params, statistics), (other, statistics)],
        steps=[1, 2],
        temperature=1.0,
    )
    assert "member_1.head.kernel" in load_file(tmp_path / "model.safetensors")
    first, second = load_trained(tmp_path).networks
    np.testing.assert_array_equal(first[0]["head"]["kernel"], -second[0]["head"]["kernel"][...])
    assert len(Predictor.from_workdir(tmp_path)(faces)) == len(faces)


def change(folder, **keys):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"temperature": 0.0}, "`temperature` is above 0"),
        ({"temperature": "1"}, "`temperature` is above 0"),
        ({"checkpoint_steps": [1, 2]}, "whole number for each member"),
        ({"checkpoint_steps": None}, "whole number for each member"),
        ({"sha256": "0" * 64}, "not the file that config.json beside it names"),
    ],
)
def test_a_damaged_config_is_told(folder, keys, message):
    change(folder, **keys)
    with pytest.raises(UserError, match=message):
        load_trained(folder)


def test_damaged_weights_are_told(folder):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(UserError, match=r"cannot read .* get the folder anew"):
        load_trained(folder)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError, match="not the file that"):
        load_trained(folder)


def test_weights_of_another_network_are_told(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["head.bias"]
    save_file(tensors, folder / "model.safetensors")
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    change(folder, sha256=digest)
    with pytest.raises(UserError, match=r"head\.bias .* has shape None"):
        load_trained(folder)
