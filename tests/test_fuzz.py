"""Odd inputs and damaged files end in one line of advice, or do what they should: never between.

Hypothesis makes the inputs. FUZZ_EXAMPLES=1000 tries so many for each test, new ones every time; by
default they are few, and the same in every run.
"""

import copy
import functools
import io
import json
import math
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from data_prep.checking import check as check_images
from data_prep.options import Options
from data_prep.own import open_own
from data_prep.sources import open_source
from data_prep.store import open_store
from fer_jax import Predictor
from fer_jax.config import check, default_config, flatten
from fer_jax.data.contract import ImageFormat
from fer_jax.errors import UserError
from fer_jax.inference.trained import load_trained
from fer_jax.models import create_model
from fer_jax.models.pretrained import NAMES, load_pretrained
from fer_jax.workdir import claim_workdir, read_history, read_run

_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))


def fuzz(examples: int) -> Callable:
    return settings(
        max_examples=_EXAMPLES or examples,
        derandomize=not _EXAMPLES,
        database=None,
        deadline=None,
        # Fixtures are read only, or their files are written again by every example.
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


def advises(error: UserError) -> None:
    """Asserts that an error has words; commands print them in one line."""
    assert len(str(error).split()) > 3


# --- Damage to the bytes of a file.

EDITS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "zero", "insert", "remove", "repeat"]),
        st.floats(0, 1, exclude_max=True),
        st.binary(min_size=1, max_size=16),
    ),
    min_size=1,
    max_size=4,
)


def damage(content: bytes, edits: list[tuple[str, float, bytes]]) -> bytes:
    for kind, share, more in edits:
        place = int(share * len(content))
        before, after = content[:place], content[place:]
        if kind == "flip" and after:
            content = before + bytes([after[0] ^ (more[0] or 1)]) + after[1:]
        elif kind == "cut":
            content = before
        elif kind == "zero":
            content = before + bytes(min(len(after), 64 * len(more))) + after[64 * len(more) :]
        elif kind == "insert":
            content = before + more + after
        elif kind == "remove":
            content = before + after[len(more) :]
        elif kind == "repeat":
            content = before + after[: 32 * len(more)] + after
    return content


# --- Releases.


def png(seed: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (48, 48), np.uint8)
    Image.fromarray(pixels).save(stream, "png")
    return stream.getvalue()


FOLDERS = {
    f"{split}/{name}/{prefix}_{number}.png": png(number)
    for number, (split, name, prefix) in enumerate(
        [
            *(("train", "happy", "Training"), ("train", "sad", "Training")),
            *(("test", "happy", "PublicTest"), ("test", "sad", "PrivateTest")),
        ]
    )
}


def zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in FOLDERS.items():
            archive.writestr(name, content)
    return stream.getvalue()


def table() -> bytes:
    pixels = " ".join(["7"] * 48 * 48)
    usages = ("Training", "PublicTest", "PrivateTest")
    rows = [f"{k},{pixels},{usage}" for k, usage in enumerate(usages)]
    return "\n".join(["emotion,pixels,Usage", *rows, ""]).encode()


def read_source(path: Path) -> None:
    """Reads a release to its end: each candidate becomes a record or is named with its reason."""
    try:
        with open_source(str(path)) as release, open_store(path.parent) as store:
            candidates = list(release.candidates)
            records, quarantined = check_images(candidates, ImageFormat(), store, resize=False)
    except UserError as error:
        advises(error)
        return
    assert len(records) + len(quarantined) == len(candidates)
    if release.total is not None:
        assert release.total == len(candidates)


@fuzz(60)
@given(edits=EDITS)
@pytest.mark.parametrize(("name", "make"), [("release.zip", zipped), ("fer2013.csv", table)])
def test_a_damaged_release_is_read_or_refused(tmp_path, name, make, edits):
    path = tmp_path / name
    path.write_bytes(damage(make(), edits))
    read_source(path)
    assert [file.name for file in tmp_path.iterdir()] == [name]


@fuzz(40)
@given(which=st.sampled_from(sorted(FOLDERS)), edits=EDITS)
def test_a_damaged_file_of_a_folder_is_read_or_named(tmp_path, which, edits):
    for name, content in FOLDERS.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(damage(content, edits) if name == which else content)
    read_source(tmp_path)


@fuzz(60)
@given(edits=EDITS)
def test_a_damaged_table_of_own_data_is_read_or_refused(tmp_path, edits):
    source = tmp_path / "own"
    source.mkdir(exist_ok=True)
    for number in range(4):
        (source / f"{number}.png").write_bytes(png(number))
    rows = [f"{number}.png,{'ab'[number % 2]},train,{number} 2" for number in range(4)]
    table = "\n".join(["file,label,split,votes", *rows]).encode()
    (source / "labels.csv").write_bytes(damage(table, edits))
    options = Options(
        source=str(source),
        data_dir=tmp_path / "records",
        labels="folders",
        label_map={"a": "a", "b": "b"},
        test_fraction=0.5,
    )
    try:
        with open_own(options) as release, open_store(tmp_path) as store:
            candidates = list(release.candidates)
            records, quarantined = check_images(candidates, ImageFormat(), store, resize=True)
    except UserError as error:
        advises(error)
        return
    assert len(records) + len(quarantined) == len(candidates) == release.total
    assert {record.label for record in records} <= {*release.classes}


# --- Options.

NUMBERS = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([-1, 0, 1, 2, -0.5, 0.5, 1e9, 10**9, 10**12, math.nan, math.inf, -math.inf]),
)
VALUES = st.one_of(
    NUMBERS,
    st.text(max_size=9),
    st.none(),
    st.booleans(),
    st.lists(st.one_of(NUMBERS, st.text(max_size=9)), max_size=3).map(tuple),
    st.dictionaries(st.text("abc", min_size=1, max_size=5), NUMBERS, max_size=2),
)
KNOBS = sorted(key for key in flatten(default_config().to_dict()) if not key.startswith("model."))

WRONG = [
    *(("seed", -1), ("steps_per_epoch", -1), ("checkpoint_every_steps", -2)),
    *(("warmup_epochs", math.nan), ("warmup_epochs", math.inf)),
    *(("plateau.factor", value) for value in (0, 2, -1, math.nan)),
    *(("plateau.min_delta", -1), ("learning_rates", ("a",)), ("ensemble", 1_000_000)),
    *(("learning_rate", value) for value in (-1, math.nan, math.inf)),
    *(("weight_decay", math.nan), ("weight_decay", -1), ("clip_norm", -1), ("clip_norm", math.nan)),
    *((knob, math.nan) for knob in ("rotation", "shear", "mixup", "memory_gib")),
    ("early_stopping_patience", -1),
]


def set_knob(key: str, value: object):
    config = default_config()
    *parents, last = key.split(".")
    node = functools.reduce(lambda tree, name: tree[name], parents, config)
    with config.unlocked(), node.ignore_type():
        node[last] = value
    return config


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_a_value_that_cannot_be_is_refused(key, value):
    with pytest.raises(UserError, match=key.split(".")[0]) as caught:
        check(set_knob(key, value))
    advises(caught.value)


@fuzz(200)
@given(key=st.sampled_from(KNOBS), value=VALUES)
def test_an_accepted_value_has_the_knobs_type_and_is_finite(key, value):
    config = set_knob(key, value)
    try:
        check(config)
    except UserError as error:
        advises(error)
        return
    value = flatten(config.to_dict())[key]  # ml_collections makes 0.0 of False.
    default = flatten(default_config().to_dict())[key]
    kinds = (int, float) if isinstance(default, float) else (type(default),)
    assert type(value) in (*kinds, list) if isinstance(default, tuple) else type(value) in kinds
    for number in value if isinstance(value, tuple) else [value]:
        if isinstance(number, int | float):
            assert math.isfinite(number)
            assert 0 <= number <= 3.5e38


@fuzz(30)
@given(value=VALUES)
@example({})
@example({"name": 3})
def test_a_model_that_is_none_is_refused(value):
    with pytest.raises(UserError) as caught:
        check(set_knob("model", value))
    advises(caught.value)


# --- Arrays for Predictor.


def expected_rows(shape: tuple[int, ...]) -> int | None:
    """The number of faces that an array holds; None if it must be refused."""
    if 0 in shape:
        return None
    if len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3)):
        return 1
    if len(shape) == 3 and shape[2] > 4:
        return shape[0]
    return shape[0] if len(shape) == 4 and shape[3] in (1, 3) else None


@pytest.fixture(scope="module")
def predictor(trained_workdir):
    return Predictor.from_workdir(trained_workdir)


def rows_of(predictor, array) -> int | type:
    """Returns the number of rows, or the kind of an error that names shape or type."""
    try:
        return len(predictor(array))
    except (TypeError, ValueError) as error:
        shape = tuple(array.shape)
        named = {"no picture", str(shape), str(shape[1:]), str(array.dtype)}
        assert any(word in str(error) for word in named), error  # noqa: PT017
        return type(error)


@fuzz(30)
@given(
    shape=st.lists(st.sampled_from([0, 1, 2, 3, 4, 5, 48]), max_size=5).map(tuple),
    dtype=st.sampled_from(["uint8", "uint8", "uint8", "int32", "float32", "uint16", "bool"]),
)
@example((48, 48, 4), "uint8")
@example((48, 48, 2), "uint8")
@example((48, 48, 1), "uint8")
@example((48, 48, 3), "uint8")
@example((48, 48), "uint8")
@example((2, 48, 48), "uint8")
@example((2, 48, 48, 1), "uint8")
@example((2, 48, 48, 3), "uint8")
@example((48, 48), "int32")
def test_an_array_has_the_rows_of_its_shape_or_is_refused(predictor, shape, dtype):
    if math.prod(shape) > 100_000:
        return
    array = np.ones(shape, dtype)
    rows = rows_of(predictor, array)
    assert rows == rows_of(predictor, jnp.asarray(array))
    expected = expected_rows(shape) if dtype == "uint8" else None
    if expected is None:
        # Four channels may also be taken as one picture, but never as its rows.
        assert isinstance(rows, type) or (rows == 1 and len(shape) == 3)
    else:
        assert rows == expected


# --- Files of a workdir.

JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=4,
)


def paths_of(tree: object, path: tuple = ()) -> list[tuple]:
    """The paths of all nodes of a JSON value."""
    items = tree.items() if isinstance(tree, dict) else ()
    return [path, *(inner for key, value in items for inner in paths_of(value, (*path, key)))]


def replace(tree: object, path: tuple, value: object, remove: bool) -> object:
    if not path:
        return value
    tree = copy.deepcopy(tree)
    node = functools.reduce(lambda parent, key: parent[key], path[:-1], tree)
    if remove:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return tree


@pytest.fixture(scope="module")
def facts(trained_workdir) -> Callable[[], dict]:
    """Function that returns the content of config.json; Hypothesis prints a dict at length."""
    return lambda: json.loads((trained_workdir / "config.json").read_text())


@pytest.fixture(scope="module")
def copied(trained_workdir, tmp_path_factory) -> Path:
    """A copy of the run, without its evaluation."""
    workdir = tmp_path_factory.mktemp("copied") / "run"
    shutil.copytree(trained_workdir, workdir, ignore=shutil.ignore_patterns("eval", "events*"))
    return workdir


def edited(data, facts: dict) -> str:
    path = data.draw(st.sampled_from(paths_of(facts)))
    return json.dumps(replace(facts, path, data.draw(JSON), data.draw(st.booleans())))


@fuzz(80)
@given(data=st.data())
def test_a_wrong_config_json_lets_no_run_resume_in_silence(tmp_path, facts, data):
    text = edited(data, facts())
    (tmp_path / "config.json").write_text(text)
    try:
        read_run(tmp_path)
        claim_workdir(
            tmp_path,
            config=facts()["config"],
            model_defaults={},
            data=facts()["data"],
            devices=facts()["devices"],
            write=True,
        )
    except UserError as error:
        advises(error)


@fuzz(15)
@given(data=st.data())
@example(None)
def test_a_wrong_config_json_is_refused_by_evaluate_and_predict(copied, facts, data):
    text = edited(data, facts()) if data else "{}"
    (copied / "config.json").write_text(text)
    try:
        load_trained(copied)
    except UserError as error:
        advises(error)


@fuzz(60)
@given(edits=EDITS)
def test_a_damaged_config_json_is_refused(tmp_path, facts, edits):
    path = tmp_path / "config.json"
    path.write_bytes(damage(json.dumps(facts()).encode(), edits))
    try:
        run = read_run(tmp_path)
    except UserError as error:
        advises(error)
    else:
        assert run.keys() >= {"config", "data"}


@fuzz(60)
@given(edits=EDITS)
def test_a_damaged_history_is_refused(tmp_path, trained_workdir, edits):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(damage((trained_workdir / "metrics.jsonl").read_bytes(), edits))
    try:
        history = read_history(path)
    except UserError as error:
        advises(error)
    else:
        assert history


# --- Weight files.

MODEL = {"name": "densenet", "blocks": (1, 1), "growth": 4, "stem": "imagenet", "channels": 3}


def initial() -> list[nnx.State]:
    """Parameters and statistics, all zero."""
    build = functools.partial(create_model, MODEL, num_classes=7, dtype="float32")
    _, *states = nnx.split(nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0))), nnx.Param, ...)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), states)


@pytest.fixture(scope="module")
def weights() -> Callable[[str], bytes]:
    """Function that returns a file in the format of a suffix, with weights of 0.5 that fit."""
    names = NAMES["densenet"](MODEL)
    h5, tensors = io.BytesIO(), {}
    with h5py.File(h5, "w") as file:
        for key, leaf in jax.tree_util.tree_leaves_with_path(initial()):
            path = jax.tree_util.keystr(key[1:], simple=True, separator=".").removesuffix(".value")
            if path.startswith("head."):
                continue
            value = np.full(leaf.shape, 0.5, np.float32)
            layer, kind = names.keras(path).rsplit("/", 1)
            group = file.require_group(layer)
            group.attrs["weight_names"] = [*group.attrs.get("weight_names", []), kind]
            group[kind] = value
            tensors[names.timm(path)] = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
    files = {".h5": h5.getvalue(), ".safetensors": safetensors.numpy.save(tensors)}
    return lambda suffix: files[suffix]


@pytest.fixture(scope="module")
def load() -> Callable[[Path], list[jax.Array]]:
    """Function that returns all arrays with the weights of a file."""
    params, statistics = initial()

    def load(path: Path) -> list[jax.Array]:
        loaded = load_pretrained(
            str(path), sha256="", model=MODEL, params=params, statistics=statistics
        )
        return jax.tree.leaves(loaded)

    return load


@pytest.mark.parametrize("suffix", [".h5", ".safetensors"])
def test_sound_weights_are_loaded(tmp_path, load, weights, suffix):
    path = tmp_path / f"sound{suffix}"
    path.write_bytes(weights(suffix))
    loaded = load(path)
    assert sum(bool((array == 0.5).all()) for array in loaded) == len(loaded) - 2  # But the head.


def load_damaged(path: Path, load, content: bytes) -> None:
    path.write_bytes(content)
    try:
        loaded = load(path)
    except UserError as error:
        advises(error)
        return
    for before, after in zip(jax.tree.leaves(initial()), loaded, strict=True):
        assert after.shape == before.shape
        assert jnp.isfinite(after).all()


@fuzz(10)
@given(edits=EDITS)
def test_damaged_weights_of_keras_are_loaded_or_refused(tmp_path, load, weights, edits):
    load_damaged(tmp_path / "damaged.h5", load, damage(weights(".h5"), edits))


@fuzz(25)
@given(edits=EDITS)
def test_damaged_safetensors_are_loaded_or_refused(tmp_path, load, weights, edits):
    load_damaged(tmp_path / "damaged.safetensors", load, damage(weights(".safetensors"), edits))
