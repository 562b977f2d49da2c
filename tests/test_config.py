"""Knobs: defaults, the values they take, and the files that set them."""

import dataclasses
import math
import subprocess
import sys
from pathlib import Path

import pytest

from fer_jax import config as knobs
from fer_jax.config import (
    check,
    check_batch_size,
    default_config,
    find_config,
    flatten,
    load_config,
)
from fer_jax.errors import UserError

CONFIGS = sorted(path.relative_to("configs") for path in Path("configs").rglob("*.py"))


def with_value(key, value):
    """Returns the defaults with one knob changed, to a value of any type."""
    config = default_config()
    *parents, last = key.split(".")
    node = config
    for parent in parents:
        node = node[parent]
    with node.unlocked(), node.ignore_type():
        node[last] = value
    return config


def test_every_knob_has_a_rule():
    leaves = {key for key in flatten(default_config().to_dict()) if not key.startswith("model.")}
    assert set(knobs._RULES) == leaves | {"model.name"}


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_every_config_passes(path):
    config = load_config(str(path.with_suffix("")))
    assert config.is_locked
    check(config)


@pytest.mark.parametrize("key", knobs._RULES)
@pytest.mark.parametrize("value", [None, math.nan, math.inf, -1, 10**100, {"a": 1}])
def test_no_knob_takes_just_anything(key, value):
    with pytest.raises(UserError, match=r"^[^\n]*(give|choose|Did you mean)[^\n]*$"):
        check(with_value(key, value))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("seed", -1), ("seed", 2**31), ("seed", 0.5), ("seed", True)),
        *(("epochs", 0), ("epochs", 2.5), ("steps_per_epoch", -1), ("checkpoint_every_steps", -2)),
        *(("batch_size", 0), ("eval_batch_size", 0), ("ensemble", 0), ("ensemble", 1_000_000)),
        *(("warmup_epochs", value) for value in (math.nan, math.inf, -1.0)),
        *(("plateau.factor", value) for value in (0.0, 1.0, 2.0, -1.0, math.nan)),
        *(("plateau.patience", 0), ("plateau.min_delta", -1.0), ("plateau.min_delta", math.nan)),
        *(("learning_rates", ("a",)), ("learning_rates", (-1.0,)), ("learning_rates", (math.nan,))),
        *(("learning_rates", "1e-3"), ("learning_rate", 1e300)),
        *((key, -1.0) for key in ("learning_rate", "weight_decay", "clip_norm", "memory_gib")),
        *((key, math.nan) for key in ("learning_rate", "weight_decay", "clip_norm", "memory_gib")),
        *((key, -1.0) for key in ("rotation", "shear", "mixup", "zoom", "shift", "erasing")),
        *((key, math.nan) for key in ("rotation", "shear", "mixup", "zoom", "shift", "erasing")),
        *((key, 1.0) for key in ("zoom", "shift", "label_smoothing", "ema_decay")),
        *(("crop", 0.0), ("crop", 1.1), ("erasing", 1.1), ("rotation", 181.0), ("shear", 90.0)),
        *(("early_stopping_patience", -1), ("profile", -1), ("flip", 1), ("balance_classes", "no")),
        *(
            ("train_split", ""),
            ("validation_split", ""),
            ("data_dir", 3),
            ("best_by", "f1"),
            ("epoch_views", "two"),
        ),
        *((key, 256 * "x") for key in ("data_dir", "data_source", "pretrained.file")),
        *(("data_dir", "a\0b"), ("data_dir", 2048 * "x/"), ("dtype", "float16")),
        *(("classes", ("angry",)), ("classes", ("angry", "happy", "angry")), ("classes", (1, 2))),
        *(("classes", "angry"), ("classes", ("angry", ""))),
        *(("pretrained.sha256", "abc"), ("pretrained.sha256", 64 * "g"), ("model.name", "")),
    ],
)
def test_a_wrong_value_is_named(key, value):
    with pytest.raises(UserError) as caught:
        check(with_value(key, value))
    message = str(caught.value)
    assert message.startswith(f"{key} is {value!r}; ")
    assert "give" in message or "choose" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("learning_rate", 0.0), ("learning_rate", 1e30), ("weight_decay", 1), ("crop", 1)),
        *(("classes", ["angry", "happy"]), ("seed", 2**31 - 1), ("plateau.patience", 1)),
        *(("pretrained.sha256", 32 * "aB"), ("learning_rates", (1e-3, 1)), ("rotation", 180)),
    ],
)
def test_takes_what_is_at_the_limits(key, value):
    check(with_value(key, value))


def test_knobs_that_do_not_go_together():
    config = default_config()
    config.learning_rate, config.learning_rates = 0.0, (1e-3,)
    with pytest.raises(UserError, match=r"learning_rates.*learning_rate, which is 0"):
        check(config)
    config = default_config()
    config.seed, config.ensemble = 2**31 - 2, 3
    with pytest.raises(UserError, match=r"seed is .*; give less"):
        check(config)
    config = default_config()
    config.epochs, config.steps_per_epoch = 10**6, 10**6
    with pytest.raises(UserError, match="epochs times steps_per_epoch"):
        check(config)
    config = default_config()
    config.accumulate = 3
    with pytest.raises(UserError, match="batch_size is 64, which accumulate = 3 does not divide"):
        check(config)


def test_a_batch_is_no_larger_than_the_split():
    config = default_config()
    check_batch_size(config, 64)
    with pytest.raises(UserError, match="batch_size is 64, more than the 63 images of train_80; "):
        check_batch_size(config, 63)


def test_a_knob_that_is_missing_or_unknown_is_named():
    config = default_config().unlock()
    del config["mixup"]
    with pytest.raises(UserError, match="mixup is missing; give"):
        check(config)
    config.mixup = 0.0
    config.lerning_rate = 1.0
    with pytest.raises(UserError, match=r'no knob lerning_rate\. Did you mean "learning_rate"'):
        check(config)
    del config["lerning_rate"]
    config.model = {}
    with pytest.raises(UserError, match=r"model\.name is missing"):
        check(config)


def test_finds_names_and_paths(tmp_path, monkeypatch):
    assert find_config("published/small_cnn") == Path("configs/published/small_cnn.py").resolve()
    assert load_config("configs/resnet.py").to_dict() == load_config("resnet").to_dict()
    monkeypatch.chdir(tmp_path)
    Path("resnet").mkdir()
    assert load_config("resnet").model.name == "resnet"
    Path("mine.py").write_text(
        "from fer_jax.config import load_config\n"
        "def get_config():\n"
        "    config = load_config('published/small_cnn')\n"
        "    config.epochs = 3\n"
        "    return config\n"
    )
    assert load_config("mine.py").epochs == 3


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        *(("quikstart", '"quickstart"'), ("configs/resnt.py", '"resnet"')),
        *(("small_cnn", '"published/small_cnn"'), ("zzz", "choose one of cnn, convnext")),
        *(("configs", "is a folder"), ("", "neither config nor file"), (256 * "x", "neither")),
        *(("~nouser/x", "neither"), ("/dev/zero", "neither config nor file")),
    ],
)
def test_an_unknown_name_has_the_nearest(name, nearest):
    with pytest.raises(UserError) as caught:
        load_config(name)
    assert name in str(caught.value)
    assert nearest in str(caught.value)
    assert "\n" not in str(caught.value)


@dataclasses.dataclass
class Broken:
    content: str | bytes
    message: str


BROKEN = {
    "syntax": Broken("def get_config(:\n", r"line 1: SyntaxError: "),
    "at import": Broken("import math\n1 / 0\n", r"line 2: ZeroDivisionError: division by zero"),
    "in get_config": Broken("def get_config():\n    return nothing\n", r"line 2: NameError: "),
    "misspelt knob": Broken(
        "from fer_jax.config import default_config\n"
        "def get_config():\n"
        "    config = default_config()\n"
        "    config.lerning_rate = 1\n",
        r"line 4: AttributeError: .*learning_rate",
    ),
    "several lines": Broken("raise ValueError('one\\ntwo')\n", r"line 1: ValueError: one two"),
    "no get_config": Broken("config = 3\n", r"give it a function get_config\(\)"),
    "another type": Broken("get_config = dict\n", r"returns a ConfigDict"),
    "not a function": Broken("get_config = 3\n", r"TypeError: 'int' object is not callable"),
    "exit": Broken("import sys\nsys.exit(0)\n", r"line 2: SystemExit: 0"),
    "bytes": Broken(b"\x7fELF\x00\xff", r"Error: "),
    "built on nothing": Broken(
        "from fer_jax.config import load_config\nconfig = load_config('resnt')\n",
        r'resnt.*Did you mean "resnet"',
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_ends_in_one_line(kind, tmp_path):
    file = tmp_path / "broken.py"
    content = BROKEN[kind].content
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError, match=BROKEN[kind].message) as caught:
        load_config(str(file))
    assert "\n" not in str(caught.value)
    if kind != "built on nothing":
        assert str(caught.value).startswith(str(file))


def test_imports_no_jax():
    code = "import fer_jax.config, sys; sys.exit('jax' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
