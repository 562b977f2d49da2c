"""A trained model in Python: the same prediction for a picture in any form."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image, ImageOps

import fer_jax
from data_prep.sample import render
from fer_jax import Predictor
from fer_jax.data.contract import ImageFormat
from fer_jax.data.records import open_data_set
from fer_jax.errors import UserError
from fer_jax.evaluate import evaluate
from fer_jax.inference.pictures import open_picture, to_input
from fer_jax.inference.trained import load_trained


@pytest.fixture(scope="module")
def predictor(trained_workdir):
    return Predictor.from_workdir(trained_workdir)


@pytest.fixture(scope="module")
def faces(tiny_data_dir):
    """UInt8[70, 48, 48, 1]"""
    return open_data_set(tiny_data_dir).load("test").images()


def test_agrees_with_the_evaluation(predictor, faces, trained_workdir, tiny_data_dir):
    records = open_data_set(tiny_data_dir).load("test")
    prediction = predictor(faces)
    np.testing.assert_array_equal(
        prediction.probabilities, load_trained(trained_workdir).probabilities(records)
    )
    assert len(prediction) == 70
    assert len(set(prediction.labels)) > 3
    best = [prediction.classes.index(label) for label in prediction.labels]
    np.testing.assert_array_equal(prediction.probabilities[range(70), best], prediction.confidences)
    assert np.mean(np.array(best) == records.labels) > 0.3


def test_averages_the_views_that_are_asked_for_or_the_runs(
    predictor, faces, trained_workdir, tmp_path
):
    both = [predictor(images).probabilities for images in (faces, faces[:, :, ::-1])]
    mean = np.mean(both, axis=0)
    assert np.abs(mean - both[0]).max() > 0.01
    run = shutil.copytree(trained_workdir, tmp_path / "run")
    facts = json.loads((run / "config.json").read_text())

    facts["config"]["views"] = "flip"
    (run / "config.json").write_text(json.dumps(facts))
    flipped = Predictor.from_workdir(run)(faces)
    np.testing.assert_allclose(flipped.probabilities, mean, atol=1e-6)
    report = evaluate(run, "test", views="one")
    assert report["views"] == "one"
    labels = open_data_set(facts["config"]["data_dir"]).load("test").labels
    assert report["accuracy"] == np.mean(both[0].argmax(axis=1) == labels)

    del facts["config"]["views"]  # Like runs that are older than the knob.
    (run / "config.json").write_text(json.dumps(facts))
    np.testing.assert_array_equal(Predictor.from_workdir(run)(faces).probabilities, both[0])


def test_pictures_of_any_form(predictor, faces, tmp_path):
    faces = faces[:5]
    paths = [tmp_path / f"{index}.png" for index in range(5)]
    for face, path in zip(faces, paths, strict=True):
        Image.fromarray(face[:, :, 0]).save(path)
    forms = {
        "n h w": faces[..., 0],
        "n h w 3": np.repeat(faces, 3, axis=-1),
        "arrays": list(faces),
        "jax": jax.numpy.asarray(faces),
        "jax arrays": [jax.numpy.asarray(face[..., 0]) for face in faces],
        "PIL": [Image.open(path) for path in paths],
        "colour": [Image.open(path).convert("RGBA") for path in paths],
        "paths": iter(paths),
        "names": [*map(str, paths)],
        "array of names": np.array([*map(str, paths)]),
        "int32": [Image.fromarray(face[:, :, 0].astype(np.int32)) for face in faces],
        "float": [Image.fromarray(face[:, :, 0] / np.float32(255)) for face in faces],
        "16 bits": [Image.fromarray(face[:, :, 0].astype(np.uint16) * 257) for face in faces],
        "mixed": [faces[0], str(paths[1]), Image.open(paths[2]), paths[3], faces[4, :, :, 0]],
    }
    expected = predictor(faces).probabilities
    for name, images in forms.items():
        np.testing.assert_array_equal(predictor(images).probabilities, expected, err_msg=name)
    one = (faces[0], faces[0, :, :, 0], np.repeat(faces[0], 3, axis=-1), paths[0], str(paths[0]))
    for image in (*one, *map(jax.numpy.asarray, one[:3]), Image.open(paths[0])):
        probabilities = predictor(image).probabilities
        assert probabilities.shape == (1, 7)
        np.testing.assert_allclose(probabilities, expected[:1], rtol=1e-5)


def test_sizes_mix_and_shrink_without_aliasing(predictor, faces):
    large = np.kron(faces[0, :, :, 0], np.ones((9, 9), np.uint8))
    probabilities = predictor([faces[0], large, large[:, ::3]]).probabilities
    assert np.abs(probabilities - probabilities[0]).max() < 0.05
    board = 255 * (np.indices((960, 960)).sum(axis=0) % 2).astype(np.uint8)
    assert np.abs(to_input(Image.fromarray(board), ImageFormat()).astype(int) - 127.5).max() < 3


def test_explains_what_it_predicts(predictor, faces):
    prediction, heat = predictor.explain(faces)
    np.testing.assert_allclose(
        prediction.probabilities, predictor(faces).probabilities, rtol=1e-4, atol=1e-6
    )
    assert heat.shape == (70, 24, 24)
    assert heat.min() >= 0
    assert set(heat.max(axis=(1, 2)).round(6)) <= {0, 1}


def test_files_are_read_as_they_look(tmp_path):
    """EXIF orientation is applied, and 16-bit grey equals the same grey in 8 bits."""
    ramp = np.tile(np.arange(0, 240, 5, dtype=np.uint8), (60, 1))
    upright = Image.fromarray(ramp)
    turn_back = Image.Exif()
    turn_back[0x0112] = 6  # Orientation: turn clockwise to view.
    upright.rotate(90, expand=True).save(tmp_path / "turned.png", exif=turn_back)
    np.testing.assert_array_equal(open_picture(tmp_path / "turned.png"), ramp)
    Image.fromarray(ramp.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(open_picture(tmp_path / "deep.png"), ramp)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_whoever_opens_it(predictor, orientation, suffix, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned.{suffix}"
    Image.fromarray(render([3], [np.random.default_rng(3)])[0]).save(path, exif=exif)
    by_path = predictor(path).probabilities
    np.testing.assert_array_equal(predictor(Image.open(path)).probabilities, by_path)
    loaded = Image.open(path)
    loaded.load()
    np.testing.assert_array_equal(predictor([loaded, path]).probabilities[0], by_path[0])
    upright = ImageOps.exif_transpose(loaded)
    np.testing.assert_array_equal(predictor(upright).probabilities, by_path)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (np.zeros((2, 48, 48), np.float32), TypeError, "float32; pictures are uint8"),
        ([np.zeros((48, 48, 2), np.uint8)], ValueError, r"\(48, 48, 2\)"),
        (np.zeros((48, 48, 2), np.uint8), ValueError, r"\(48, 48, 2\); a picture is \[h, w\]"),
        (np.zeros((48, 48, 4), np.uint8), ValueError, r"\(48, 48, 4\); a picture is \[h, w\]"),
        (jax.numpy.zeros((48, 48, 4), "uint8"), ValueError, r"\(48, 48, 4\); a picture is"),
        (np.zeros((5, 48, 48, 4), np.uint8), ValueError, r"\(48, 48, 4\); a picture is"),
        (np.zeros(2304, np.uint8), ValueError, r"\(2304,\); a picture is"),
        (np.uint8(3), ValueError, r"\(\); a picture is"),
        (jax.numpy.zeros((48, 48)), TypeError, "float32; pictures are uint8"),
        (b"content", TypeError, "bytes; a picture is a path, a PIL image or an array"),
        ([[0, 255]], TypeError, "list; a picture is a path, a PIL image or an array"),
        (Image.new("F", (48, 48), -1), UserError, "cannot read the picture: levels from -1"),
        (Image.new("L", (0, 48)), UserError, "cannot read the picture: 0x48 pixels"),
        (Path(__file__).parent, UserError, "inference: a folder, not a file"),
        (np.zeros((2, 2, 48, 48, 3), np.uint8), ValueError, r"\(2, 48, 48, 3\)"),
        (np.zeros((0, 48, 48), np.uint8), ValueError, "no picture"),
        ([np.zeros((0, 48), np.uint8)], ValueError, r"\(0, 48\)"),
        (["nowhere.jpg"], UserError, "cannot read nowhere.jpg: No such file"),
        (__file__, UserError, "test_predictor.py: not a picture"),
    ],
)
def test_names_what_is_no_picture(predictor, images, error, message):
    with pytest.raises(error, match=message):
        predictor(images)


def test_a_damaged_picture_that_the_caller_opened_is_named(predictor, tmp_path):
    Image.new("RGB", (200, 200), "red").save(tmp_path / "half.jpg")
    content = (tmp_path / "half.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(content[: len(content) // 2])
    message = r"cannot read .*half\.jpg: image file is truncated"
    with Image.open(tmp_path / "half.jpg") as picture, pytest.raises(UserError, match=message):
        predictor(picture)


def test_no_such_run_or_checkpoint(trained_workdir):
    with pytest.raises(UserError, match="nowhere is no workdir"):
        Predictor.from_workdir("nowhere")
    with pytest.raises(UserError, match="12345"):
        Predictor.from_workdir(trained_workdir, checkpoint="12345")


def test_importing_the_package_is_instant():
    code = "import fer_jax, sys; sys.exit('jax' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert not hasattr(fer_jax, "Predicter")
