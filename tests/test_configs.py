"""Every shipped config takes a real step, with a smaller network where it takes long to compile.

Its own network is built without values, and counted.
"""

import ast
import functools
import json
import os
from pathlib import Path

import commands
import h5py
import jax
import numpy as np
import optax
import pytest
from flax import nnx
from small_records import make_records

from data_prep.description import Description
from data_prep.ferplus import CLASSES as FERPLUS
from fer_jax.config import load_config
from fer_jax.data.contract import CLASS_NAMES
from fer_jax.devices import compiler_options, create_mesh
from fer_jax.errors import UserError
from fer_jax.models import create_model, resnet
from fer_jax.models.functional import abstract_network
from fer_jax.models.pretrained import NAMES
from fer_jax.summary import count_parameters
from fer_jax.train import train
from fer_jax.training.ensemble import Members
from fer_jax.training.step import create_state, make_train_step
from fer_jax.training.targets import TARGETS

CONFIGS = sorted(Path("configs").rglob("*.py"))

# The knobs that make each network small.
SMALL = {
    "convnext": {"depths": (1, 1, 1, 1), "widths": (8, 8, 16, 16)},
    "densenet": {"blocks": (1, 1, 1), "growth": 4},
    "efficientnet": {"width": 0.1, "depth": 0.1},
    "resnet": {"width": 4},
    "resnet50_v1": {"image_size": 32},
    "vgg16": {"image_size": 32, "dense": (16, 16)},
}


def shrink(model):
    """Makes a config's network small, with all its kinds of layers."""
    with model.unlocked():
        if model.name == "cnn":
            model.layers = tuple(
                (layer[0], max(4, layer[1] // 8), *layer[2:])
                if layer[0] in ("conv", "dense")
                else layer
                for layer in model.layers
            )
        else:
            model.update(SMALL[model.name])


def small_configs():
    """Returns each config with its network small, by path.

    A network that an earlier config has too is replaced by one that compiles fastest, unless it is
    an ensemble's. It reads the same images.
    """
    configs, seen = {}, set()
    for path in CONFIGS:
        config = load_config(str(path))
        shrink(config.model)
        images = {key: config.model.get(key, 0) for key in ("image_size", "channels")}
        network = repr(sorted((config.model.to_dict() | images | {"image_size": 0}).items()))
        if network in seen and config.ensemble == 1:
            config.model = {"name": "cnn", "layers": ("max_pool", "max_pool", "flatten"), **images}
        seen.add(network)
        configs[path] = config
    return configs


def write_weights(model, file):
    """Writes a file of Keras's with weights for all features of `model`."""
    build = functools.partial(create_model, model, num_classes=7, dtype="float32")
    state = nnx.state(nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0))))
    keras_name = NAMES[model.name](model).keras
    with h5py.File(file, "w") as weights:
        for path, variable in nnx.to_flat_state(state["features"]):
            name = keras_name(".".join(map(str, ("features", *path))))
            group = weights.require_group(name.split("/")[0])
            group[name] = np.full(variable.shape, 0.01, np.float32)
            names = [name, *map(os.fsdecode, group.attrs.get("weight_names", ()))]
            group.attrs["weight_names"] = [name.encode() for name in names]


@pytest.fixture
def short_resnets(monkeypatch):
    """Residual networks have five blocks, of each kind and with each kind of shortcut."""
    for depth, (block, _) in resnet._DEPTHS.items():
        monkeypatch.setitem(resnet._DEPTHS, depth, (block, (2, 1, 1, 1)))


@pytest.fixture(scope="module")
def tiny_ferplus(tmp_path_factory):
    """Records with votes for FER+'s eight classes, as many of each as `tiny_data_dir` has."""
    labels = {"train": [*range(8)] * 30, "public_test": [*range(8)] * 5}
    folder = tmp_path_factory.mktemp("ferplus")
    return make_records(folder, labels, description=Description("ferplus", FERPLUS), votes=True)


@pytest.mark.usefixtures("no_pictures", "short_resnets")
@pytest.mark.parametrize("config", small_configs().values(), ids=map(str, CONFIGS))
def test_takes_a_step(config, tiny_data_dir, tiny_ferplus, trained_workdir, tmp_path):
    votes = TARGETS[config.targets].by_votes
    classes = FERPLUS if votes else config.classes or CLASS_NAMES
    config.data_dir = str(tiny_ferplus if votes else tiny_data_dir)
    config.data_source = ""
    config.epochs = 1
    config.warmup_epochs = 0.0
    config.steps_per_epoch = 1
    config.ensemble = min(config.ensemble, 2)
    config.teachers = len(config.teachers) * (str(trained_workdir),)
    # Without a common divisor, so on one device, where a step compiles fastest.
    config.batch_size = 5
    config.eval_batch_size = 42
    if config.pretrained.file == "shipped":  # It fits the network of full size only.
        config.pretrained.file = ""
    if config.model.get("frozen_stages"):
        config.pretrained.file = str(tmp_path / "weights.h5")
        write_weights(config.model, config.pretrained.file)
        tmp_path = tmp_path / "workdir"
    result = train(config, tmp_path)
    assert all(len(run["history"]) == 1 for run in result.get("members", [result]))
    images_per_class = {"validation_20": 6, "public_test": 5}[config.validation_split]
    assert result["report"]["n"] == images_per_class * len(classes)


@pytest.mark.usefixtures("short_resnets")
@pytest.mark.filterwarnings("ignore:Error writing persistent compilation cache entry")
@pytest.mark.parametrize(
    "name", ["convnext", "densenet", "efficientnet", "resnet", "published/resnet50_transfer"]
)
def test_learns_a_batch(name):
    """One image of each class, until the loss is below that of guessing.

    VGG16 does not learn from random weights, being deep without normalisation, and never starts
    from them.
    """
    model = load_config(name).model
    shrink(model)
    with model.unlocked():
        model.frozen_stages = 0
        model.image_size = min(96, model.get("image_size", 0))  # More take longer and show no more.
    build = functools.partial(create_model, model, num_classes=7, dtype="float32")
    members = Members(1, create_mesh(1))
    graph, _, _ = abstract_network(build, members.mesh)
    optimizer = optax.adam(3e-3)
    state = create_state(build, optimizer, None, members=members, seeds=[0])
    step = jax.jit(
        make_train_step(graph, optimizer, class_weights=np.ones(7, np.float32)),
        compiler_options=compiler_options(),
    )
    images = np.random.default_rng(0).integers(0, 256, (7, 48, 48, 1), dtype=np.uint8)
    batch = {"image": images, "label": np.arange(7, dtype=np.int32)}
    losses = []
    for _ in range(20):
        state, loss = step(state, batch)
        losses.append(float(loss))
        # Not only the last loss: for a bias before normalisation, Adam turns rounding errors into
        # steps.
        if losses[-1] < 0.9 * np.log(7):
            break
    assert losses[-1] < 0.9 * np.log(7), losses
    # A weakly typed variable, as from a Python number, would cause a second compilation.
    assert step._cache_size() == 1, "the step was compiled anew"


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_says_how_to_run_it(path):
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert f"python -m fer_jax.main --config={path}" in docstring


# Total, trainable, non-trainable; for published/* as published, or as counted by Keras.
PARAMETERS = {
    "convnext": (3_375_007, 3_375_007, 0),
    "densenet": (699_055, 688_783, 10_272),
    "efficientnet": (4_057_955, 4_015_939, 42_016),
    "efficientnet_lite": (3_421_991, 3_379_975, 42_016),
    "resnet": (11_180_871, 11_171_271, 9_600),
    "resnet_cpu": (2_801_063, 2_796_263, 4_800),
    "resnet_ensemble": (11_180_871, 11_171_271, 9_600),
    "resnet_fast": (2_801_063, 2_796_263, 4_800),
    "published/small_cnn": (319_527, 319_527, 0),
    "published/medium_cnn": (4_496_903, 4_492_935, 3_968),
    "published/large_cnn": (17_046_535, 17_044_871, 1_664),
    "published/large_cnn_augmented": (17_046_535, 17_044_871, 1_664),
    "published/large_cnn_shift_flip": (17_046_535, 17_044_871, 1_664),
    "published/three_emotions": (2_434_435, 2_425_731, 8_704),
    "published/vgg16_transfer": (134_289_223, 119_574_535, 14_714_688),
    "published/resnet50_transfer": (23_602_055, 14_343, 23_587_712),
}


@pytest.mark.parametrize(("name", "totals"), PARAMETERS.items(), ids=PARAMETERS)
def test_parameter_counts(name, totals):
    config = load_config(name)
    build = functools.partial(
        create_model,
        config.model,
        num_classes=len(config.classes or CLASS_NAMES),
        dtype=config.dtype,
    )
    counts = count_parameters(nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0))))
    assert counts == dict(zip(("total", "trainable", "non_trainable"), totals, strict=True))


def test_the_summary_prints_the_counts():
    name = "published/three_emotions"
    flags = (f"--config=configs/{name}.py", "--format=json")
    result = commands.run("fer_jax.summary", *flags)
    assert tuple(json.loads(result.stdout).values()) == PARAMETERS[name]


def test_the_quickstart_uses_given_data(monkeypatch, tmp_path):
    monkeypatch.delenv("FER2013_DIR", raising=False)
    assert load_config("quickstart").data_source == "sample"
    monkeypatch.setenv("FER2013_DIR", str(tmp_path))
    config = load_config("quickstart")
    assert (config.data_dir, config.data_source) == ("", "")


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("resnet", "width", 0),
        ("densenet", "blocks", (6, 0, 6)),
        ("convnext", "image_size", -48),
    ],
)
def test_a_size_that_no_network_can_have_is_named(name, key, value):
    model = load_config(name).model
    model[key] = value
    with pytest.raises(UserError, match=rf"model\.{key} is .*; give 1 or more"):
        create_model(model, num_classes=7, dtype="float32", rngs=nnx.Rngs(0))
