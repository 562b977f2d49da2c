"""Other faces than FER-2013's, from their files to a trained, evaluated and exported network."""

import json

import jax
import numpy as np
import onnxruntime
import pytest
import safetensors.numpy
import small_sets
from PIL import Image

from data_prep.__main__ import main as prepare
from fer_jax.config import default_config, load_config
from fer_jax.data.contract import ImageFormat
from fer_jax.data.records import open_data_set
from fer_jax.errors import UserError
from fer_jax.evaluate import evaluate
from fer_jax.export import export
from fer_jax.inference.pictures import to_input
from fer_jax.inference.predictor import Predictor
from fer_jax.inference.trained import load_trained
from fer_jax.train import train

pytestmark = pytest.mark.usefixtures("no_pictures")

SETS = {
    "raf": (
        small_sets.write_raf_folders,
        ["--image_size=100", "--channels=3", f"--label_map={small_sets.RAF_MAP}"],
        ImageFormat(100, 3),
        small_sets.RAF,
        "test",
    ),
    "affectnet": (
        small_sets.write_affectnet,
        [f"--label_map={small_sets.AFFECTNET_MAP}", f"--columns={small_sets.AFFECTNET_COLUMNS}"],
        ImageFormat(),
        small_sets.AFFECTNET,
        "validation",
    ),
    "moods": (
        small_sets.write_people,
        ["--fit=crop", "--image_size=40", "--validation_fraction=0.2", "--group_by=^(s[0-9]+)_"],
        ImageFormat(40, 1, "crop"),
        ("bored", "confused", "happy"),
        "validation",
    ),
}
"""Of each set its maker, flags of data_prep, the format, the classes and a split to evaluate."""


def make(name, folder):
    """Prepares a set below a folder; returns the folder of its records."""
    write, flags = SETS[name][:2]
    (folder / "source").mkdir()
    write(folder / "source")
    arguments = [f"--source={folder / 'source'}", f"--data_dir={folder / 'data'}", *flags]
    assert prepare(["--labels=folders", f"--name={name}", *arguments]) == 0
    return folder / "data"


def tiny(data_dir, split):
    config = default_config()
    config.data_dir = str(data_dir)
    config.train_split, config.validation_split = "train", split
    config.update(epochs=2, batch_size=6, eval_batch_size=6, views="ten_crop", rotation=10.0)
    config.model.layers = (("conv", 4), "max_pool", ("conv", 4), "max_pool", "flatten")
    return config


@pytest.mark.parametrize("name", SETS)
def test_a_set_from_its_files_to_an_export(name, tmp_path):
    *_, images, classes, split = SETS[name]
    data_dir = make(name, tmp_path)
    data = open_data_set(data_dir)
    assert (data.name, data.images, data.classes) == (name, images, classes)

    run = tmp_path / "run"
    report = train(tiny(data_dir, split), run)["report"]
    facts = json.loads((run / "config.json").read_text())
    assert facts["data"]["name"] == name
    assert facts["config"]["model"]["image_size"] == images.size
    assert facts["config"]["model"]["channels"] == images.channels
    assert list(report["per_class"]) == list(classes)
    assert evaluate(run, split) == report
    assert report["data"] == name

    # A picture of any size becomes what the records hold.
    records = data.load(split)
    predictor = Predictor.from_workdir(run)
    assert predictor.images == images
    picture = Image.fromarray(records.read(np.arange(1))[0].squeeze())
    prediction = predictor([picture, picture.resize((300, 200))])
    assert prediction.probabilities.shape == (2, len(classes))
    np.testing.assert_array_equal(to_input(picture, images), records.read(np.arange(1))[0])
    expected = np.loadtxt(
        run / f"eval/{split}/predictions.csv", str, delimiter=",", skiprows=1, usecols=range(3, 6)
    )[0].astype(float)
    np.testing.assert_allclose(prediction.probabilities[0, :3], expected, atol=1e-5)

    file = tmp_path / "faces.onnx"
    export(run, "onnx", file)
    session = onnxruntime.InferenceSession(file)
    levels = records.read(np.arange(3))
    found = session.run(None, {"images": levels})[0]
    np.testing.assert_allclose(
        found, predictor([levels[k] for k in range(3)]).probabilities, atol=1e-5
    )


def test_persons_are_in_one_split(tmp_path):
    data = open_data_set(make("moods", tmp_path))
    persons = {split: set(data.load(split).groups) for split in ("train", "validation")}
    assert persons["train"].isdisjoint(persons["validation"])
    halves = [set(data.load(part).groups) for part in ("train_80", "validation_20")]
    assert halves[0].isdisjoint(halves[1])


def test_colour_at_112_trains_a_network_of_full_size(tmp_path):
    (tmp_path / "source").mkdir()
    small_sets.write_raf_folders(tmp_path / "source", per_class=1)
    flags = ["--name=raf", "--image_size=112", "--channels=3", f"--data_dir={tmp_path / 'data'}"]
    assert prepare(["--labels=folders", f"--source={tmp_path / 'source'}", *flags]) == 0
    config = tiny(tmp_path / "data", "test")
    config.update(epochs=1, batch_size=6, views="one")
    config.model = load_config("published/vgg16_transfer").model
    config.model.update(image_size=0, normalization="imagenet", dense=())
    config.pretrained.file = str(write_vgg16(tmp_path / "vgg16.safetensors"))
    train(config, tmp_path / "run")
    [states] = load_trained(tmp_path / "run").networks
    size = sum(leaf.size for leaf in jax.tree.leaves(states))
    # VGG16's convolutions have 14,714,688 parameters, and leave 3x3 pixels of 512 features.
    assert size == 14_714_688 + (3 * 3 * 512 + 1) * 7


def write_vgg16(path):
    """Writes the convolutions of VGG16, drawn by He's rule, under torchvision's names."""
    places = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    features = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
    random, tensors = np.random.default_rng(0), {}
    for place, inputs, outputs in zip(places, (3, *features), features, strict=False):
        kernel = random.standard_normal((outputs, inputs, 3, 3), np.float32)
        tensors[f"features.{place}.weight"] = kernel * np.sqrt(2 / (9 * inputs), dtype=np.float32)
        tensors[f"features.{place}.bias"] = np.zeros(outputs, np.float32)
    safetensors.numpy.save_file(tensors, path)
    return path


def test_data_of_another_format_are_refused(tmp_path, tiny_data_dir):
    (tmp_path / "moods").mkdir()
    moods = make("moods", tmp_path / "moods")
    run = tmp_path / "run"
    train(tiny(moods, "validation"), run)
    (tmp_path / "other").mkdir()
    flags = SETS["moods"][1]
    source = tmp_path / "moods/source"
    arguments = [f"--source={source}", f"--data_dir={tmp_path / 'other'}", *flags]
    arguments[-3] = "--image_size=48"
    assert prepare(["--labels=folders", "--name=moods", *arguments]) == 0
    with pytest.raises(UserError, match="images are 48x48 grey, the run's 40x40 grey; prepare"):
        evaluate(run, "validation", data_dir=tmp_path / "other")
    with pytest.raises(UserError, match="has no class 'bored'"):
        evaluate(run, "validation_20", data_dir=tiny_data_dir)
