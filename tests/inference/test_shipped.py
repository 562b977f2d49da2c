"""The model that comes with fer_jax predicts what its card says."""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from data_prep.sample import render
from fer_jax import Predictor
from fer_jax.config import load_config
from fer_jax.data.contract import CLASS_NAMES
from fer_jax.inference.warm_start import choose_initial_weights
from fer_jax.models import create_model
from fer_jax.models.functional import split
from fer_jax.workdir import SHIPPED, WEIGHTS, read_report, read_run

EXPECTED = json.loads((Path(__file__).parents[1] / "fixtures/shipped.json").read_text())


@pytest.fixture(scope="module")
def predictor():
    return Predictor.pretrained()


def test_it_is_small_and_names_no_folder_of_its_maker():
    assert (SHIPPED / WEIGHTS).stat().st_size <= 6_000_000
    assert read_run(SHIPPED)["config"]["data_dir"] == ""
    text = "".join(path.read_text() for path in SHIPPED.rglob("*.[jm][sd]*"))
    assert "/tmp/" not in text
    assert "/home/" not in text


def test_drawn_faces_have_the_probabilities_of_its_release(predictor):
    faces = render(range(7), [np.random.default_rng(k) for k in range(7)])
    assert predictor.classes == CLASS_NAMES
    np.testing.assert_allclose(
        predictor(np.stack(faces)).probabilities, EXPECTED["probabilities"], atol=2e-3
    )


def test_real_faces_have_the_probabilities_of_its_release(predictor, fer2013_source):
    """The files are read without records: every 90th of public_test, in the order of names."""
    files = sorted(fer2013_source.glob("test/*/PublicTest_*"), key=lambda path: path.name)
    if len(files) != 3589:
        pytest.skip("FER2013_SOURCE is not the whole of FER-2013")
    found = predictor(files[::90])
    # Another processor, or another decoder of JPEG, rounds otherwise.
    expected = EXPECTED["probabilities_of_every_ninetieth"]
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-2)
    right = np.array(found.labels) == [path.parent.name for path in files[::90]]
    assert right.mean() > 0.6


def test_its_card_states_the_accuracy_of_its_report():
    report, card = read_report(SHIPPED, "public_test"), (SHIPPED / "README.md").read_text()
    assert report["accuracy"] == EXPECTED["accuracy"]
    assert f"| {100 * report['accuracy']:.2f} ±" in card
    assert report["ece"] < 0.035
    for name, row in report["per_class"].items():
        assert f"| {name} | {100 * row['precision']:.1f} | {100 * row['recall']:.1f} |" in card
    for picture in ("grad_cam.jpg", "reliability.png"):
        assert picture in card
        assert (SHIPPED / picture).exists()


def test_the_readmes_fine_tuning_starts_from_it():
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (command,) = re.findall(r"fer_jax\.main ([^`]*pretrained[^`]*)```", readme)
    flags = dict(word[2:].split("=") for word in command.replace("\\", "").split())
    config = load_config(flags["config"])
    classes = tuple(flags["config.classes"].split(","))
    config.pretrained.file = flags["config.pretrained.file"]
    initialize, line = choose_initial_weights(config, classes)
    assert "a new last layer" in line

    model = nnx.eval_shape(
        lambda: create_model(
            config.model, num_classes=len(classes), dtype="float32", rngs=nnx.Rngs(0)
        )
    )
    _, *state = split(model)
    params, statistics = initialize(
        *jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state)
    )
    assert params["head"]["kernel"].shape == (256, 3)
    assert not params["head"]["kernel"][...].any()
    kernel = params["features"]["layers"][0]["conv"]["kernel"][...]
    shipped = load_file(SHIPPED / WEIGHTS)["features.layers.0.conv.kernel"]
    np.testing.assert_array_equal(kernel, shipped.astype(np.float32))
    assert all(leaf.any() for leaf in jax.tree.leaves(statistics))
