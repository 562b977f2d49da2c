"""Every knob of a run: its default, the values it takes, and the files that set it."""

import difflib
import os
import re
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from fer_jax.errors import UserError
from fer_jax.paths import check_path
from fer_jax.sweep import parse_sweep


def default_config() -> ConfigDict:
    """Returns every knob with its default, locked: a misspelt key is an error."""
    config = ConfigDict()
    config.seed = 0  # Seed of parameters, order, augmentation and dropout.

    # Data. An empty data_dir means $FER2013_DIR, then data/fer2013 in the current folder. If the
    # folder holds no records, `python -m data_prep --source <data_source>` makes them; an empty
    # data_source makes none.
    config.data_dir = ""
    config.data_source = ""
    # Splits: train, public_test, private_test, test (both tests), and the two stratified parts of
    # train, train_80 and validation_20.
    config.train_split = "train_80"
    config.validation_split = "validation_20"
    # Classes to tell apart, such as ("angry", "happy"), or angry,happy on the command line. Empty:
    # all seven.
    config.classes = ()
    # Images that training leaves out: an audit.csv of `fer_jax audit`, perhaps with the kinds that
    # count, as in "audit.csv:leak+label" (default: leak+duplicate+blank+text, see
    # fer_jax/data/exclusions.py). Validation images all stay. A run resumes with any list that
    # leaves out the same images.
    config.exclude = ""
    # A split that fits into this many GiB is decoded once, at the start. A larger one is decoded
    # image by image as the images are used.
    config.memory_gib = 4.0
    # host: Grain reads and augments batches. device: all images are kept on the devices, which
    # augment them and take many steps at a time; this needs memory there and few CPU cores. auto:
    # device on a GPU or TPU, host on a CPU.
    config.input = "auto"
    config.batch_size = 64  # Images in a batch, over all devices and processes.
    # Compute a batch in this many micro-batches, one after the other, for one update. 1: at once.
    config.accumulate = 1
    config.eval_batch_size = 512
    # Views of each image whose probabilities are averaged in evaluation: one (the image), flip (the
    # image and its mirror image), ten_crop (44x44 crops of the corners and the centre, and their
    # mirror images).
    config.views = "one"
    # Views while training, after each epoch. Empty: as `views`. With views = "ten_crop" and
    # epoch_views = "one" the ten crops are only evaluated once, at the end.
    config.epoch_views = ""

    # Augmentation of training images. Images move by whole pixels unless rotation, shear, zoom or
    # crop is on.
    config.shift = 0.1  # Largest shift each way, as a fraction of height and width.
    config.flip = True  # Mirror every second image.
    config.rotation = 0.0  # Largest rotation each way, in degrees.
    config.shear = 0.0  # Largest angle each way by which columns lean, in degrees.
    config.zoom = 0.0  # Divide height and width each by a factor from 1 - zoom to 1 + zoom.
    config.crop = 1.0  # Smallest area of a random crop, as a fraction of the image's. 1: no crop.
    config.erasing = 0.0  # Probability that a random rectangle is erased.

    # Model: a name of fer_jax.models.MODELS, and the arguments of that function.
    config.model = ConfigDict(
        {
            "name": "cnn",
            # Size that images are resized to, and 1 (grey) or 3 channels. 0: those of the data.
            "image_size": 0,
            "channels": 0,
            "layers": (
                *(("conv", 32), ("conv", 32), "batch_norm", "max_pool", ("dropout", 0.25)),
                *(("conv", 64), ("conv", 64), "batch_norm", "max_pool", ("dropout", 0.25)),
                *(("conv", 128), ("conv", 128), "batch_norm", "max_pool", ("dropout", 0.25)),
                *("flatten", ("dense", 256), "batch_norm", ("dropout", 0.5)),
            ),
        }
    )
    # Initial weights: "shipped", the model that comes with fer_jax; a workdir or model folder; an
    # .h5 file (Keras) or .safetensors file (timm, torchvision), as a path, or as a URL with its
    # SHA-256 digest.
    config.pretrained = ConfigDict({"file": "", "sha256": ""})
    # Type of the computation: float32, or bfloat16, which most CPUs lack.
    config.dtype = "float32"

    # Optimisation.
    config.epochs = 25
    config.steps_per_epoch = 0  # 0: as many as one pass over the training images takes.
    config.optimizer = "adam"  # adam, adamw, rmsprop or sgd (Nesterov momentum 0.9).
    config.learning_rate = 1e-3
    config.weight_decay = 0.0
    config.clip_norm = 0.0  # Largest global norm of the gradient. 0: no limit.
    config.schedule = "constant"  # constant, cosine (to zero) or plateau.
    config.warmup_epochs = 0.0  # The learning rate rises linearly from zero over these.
    # schedule = "plateau" multiplies the learning rate by `factor` after `patience` epochs in which
    # the validation loss has not fallen by `min_delta`.
    config.plateau = ConfigDict({"factor": 0.2, "patience": 6, "min_delta": 1e-4})
    # Stop after this many epochs without such a fall. 0: never.
    config.early_stopping_patience = 0
    # What the network learns: majority (the label); or, from the votes of several annotators,
    # probability (their shares), drawn (a label drawn by them in each step) or multi (the nearest
    # of all labels with 30 % of the votes). Evaluation counts the label.
    config.targets = "majority"
    config.label_smoothing = 0.0
    config.mixup = 0.0  # Alpha of the beta distribution that mixes pairs of images. 0: no mixing.
    # Probability that a step pastes a rectangle of one image into another instead.
    config.cutmix = 0.0
    # Evaluate an exponential moving average of the weights with this decay per step. 0: evaluate
    # the weights.
    config.ema_decay = 0.0
    config.balance_classes = False  # Weigh class c by n / (classes * n_c) in the loss.
    # Learn from trained networks too: workdirs, model folders or "shipped". Their mean prediction
    # for the same augmented images is a second target, with this weight in the loss; the labels'
    # loss has the rest. The temperature divides the logits of both sides. Training fills in the
    # digest of the teachers' weights, and a run resumes with these teachers only.
    config.teachers = ()
    config.distillation = ConfigDict({"weight": 0.9, "temperature": 2.0, "sha256": ""})

    # Checkpoints: the latest, and the best by val_accuracy or val_loss. With "last" no epoch is
    # selected: the last one counts as the best.
    config.best_by = "val_accuracy"
    config.checkpoint_every_steps = 0  # Save within an epoch too. 0: after each epoch only.

    # Train this many networks at once, from seeds `seed`, `seed` + 1, ... Each has its own workdir,
    # `member_<k>`, and evaluation takes the mean of their predictions.
    config.ensemble = 1
    config.learning_rates = ()  # Learning rate of each member. Empty: `learning_rate` for all.
    # Train `ensemble` networks with each of several settings, and compare the settings. All
    # combinations of some values: "learning_rate=0.1,0.03;mixup=0,0.2". Several such grids, or
    # single settings: "learning_rate=0.1 | learning_rate=0.03;mixup=0.2". fer_jax/sweep.py has the
    # knobs that can be swept. Empty: no sweep.
    config.sweep = ""

    config.profile = 0  # Record this many steps, after the first ones, into profile/.
    return config.lock()


VIEWS = ("one", "flip", "ten_crop")
"""Values of `views`."""

_MOST = 2**31 - 1  # Steps and seeds are int32 on the devices.
_MEMBERS = 1000


class _Rule(NamedTuple):
    """The values that a knob takes: their type, a test of them, and what to give instead."""

    kind: type | tuple[type, ...]
    accepts: Callable[[Any], bool]
    advice: str

    def holds(self, value: Any) -> bool:
        of_kind = isinstance(value, self.kind) and isinstance(value, bool) == (self.kind is bool)
        return of_kind and self.accepts(value)


def _whole(least: int, most: int = _MOST) -> _Rule:
    advice = f"give {least} or more, a whole number up to {most:,}"
    return _Rule(int, lambda value: least <= value <= most, advice)


def _number(accepts: Callable[[float], bool], advice: str) -> _Rule:
    return _Rule((int, float), accepts, f"give {advice}")  # No comparison holds for NaN.


def _several(accepts: Callable[[Any], bool], advice: str) -> _Rule:
    return _Rule((tuple, list), accepts, f"give {advice}")


def _choice(*names: str) -> _Rule:
    return _Rule(str, lambda value: value in names, f"choose one of {', '.join(names)}")


def _are_classes(names: Collection[Any]) -> bool:
    distinct = {name for name in names if isinstance(name, str) and name}
    return len(distinct) == len(names) != 1


def _may_be_path(text: str) -> bool:
    try:
        check_path(text or ".")
    except UserError:
        return False
    return True


_AMOUNT = _number(lambda value: 0 <= value < 3.4e38, "0 or more, a number that float32 holds")
_FRACTION = _number(lambda value: 0 <= value < 1, "a fraction in [0, 1)")
_SWITCH = _Rule(bool, lambda _: True, "give True or False")
_PATH = _Rule(str, _may_be_path, "give a path, whose names have at most 255 bytes each, or none")
_NAME = _Rule(str, bool, "give a name")
_PROBABILITY = _number(lambda value: 0 <= value <= 1, "a probability")
_DIGEST = _Rule(
    str,
    lambda value: bool(re.fullmatch("([0-9a-fA-F]{64})?", value)),
    "give 64 hexadecimal digits, or none",
)

_RULES: dict[str, _Rule] = {
    "seed": _whole(0),
    "data_dir": _PATH,
    "data_source": _PATH,
    "train_split": _NAME,
    "validation_split": _NAME,
    "exclude": _PATH,
    "classes": _several(_are_classes, "two or more different names, or none for all classes"),
    "memory_gib": _AMOUNT,
    "input": _NAME,
    "batch_size": _whole(1, 2**20),
    "accumulate": _whole(1, 2**20),
    "eval_batch_size": _whole(1, 2**20),
    "views": _choice(*VIEWS),
    "epoch_views": _Rule(
        str, lambda name: name in ("", *VIEWS), f"choose one of {', '.join(VIEWS)}, or none"
    ),
    "shift": _FRACTION,
    "flip": _SWITCH,
    "rotation": _number(lambda value: 0 <= value <= 180, "0 or more degrees, up to 180"),
    "shear": _number(lambda value: 0 <= value < 90, "0 or more degrees, below 90"),
    "zoom": _FRACTION,
    "crop": _number(lambda value: 0 < value <= 1, "a fraction in (0, 1]"),
    "erasing": _PROBABILITY,
    "model.name": _NAME,
    "pretrained.file": _PATH,
    "pretrained.sha256": _DIGEST,
    "dtype": _choice("float32", "bfloat16"),
    "epochs": _whole(1, 10**6),
    "steps_per_epoch": _whole(0),
    "optimizer": _NAME,
    "learning_rate": _AMOUNT,
    "weight_decay": _AMOUNT,
    "clip_norm": _AMOUNT,
    "schedule": _NAME,
    "warmup_epochs": _AMOUNT,
    "plateau.factor": _number(lambda value: 0 < value < 1, "a fraction in (0, 1)"),
    "plateau.patience": _whole(1),
    "plateau.min_delta": _AMOUNT,
    "early_stopping_patience": _whole(0),
    "targets": _choice("majority", "probability", "drawn", "multi"),
    "label_smoothing": _FRACTION,
    "mixup": _AMOUNT,
    "cutmix": _PROBABILITY,
    "ema_decay": _FRACTION,
    "balance_classes": _SWITCH,
    "teachers": _several(
        lambda runs: all(isinstance(run, str) and run and _may_be_path(run) for run in runs),
        "workdirs or model folders, or none",
    ),
    "distillation.weight": _number(lambda value: 0 < value <= 1, "a share of the loss in (0, 1]"),
    "distillation.temperature": _number(lambda value: 0 < value < 1e6, "a number above 0"),
    "distillation.sha256": _DIGEST,
    "best_by": _choice("val_accuracy", "val_loss", "last"),
    "checkpoint_every_steps": _whole(0),
    "ensemble": _whole(1, _MEMBERS),
    "learning_rates": _several(
        lambda rates: all(map(_AMOUNT.holds, rates)), "numbers of 0 or more"
    ),
    "sweep": _Rule(str, lambda _: True, 'give settings such as "mixup=0,0.2", or none'),
    "profile": _whole(0),
}
"""The rule of every knob. Tables elsewhere hold the names of networks, optimisers and the like."""


def check(config: ConfigDict) -> None:
    """Raises `UserError` if a knob is missing, unknown, or has a value that it does not take.

    Names from a table, such as optimisers, are checked by the module that has the table.
    """
    values = flatten(config.to_dict())
    for key in values:
        if key not in _RULES and not key.startswith("model."):
            raise UserError(f"there is no knob {key}{suggest(key, _RULES)}")
    for key, rule in _RULES.items():
        if key not in values:
            raise UserError(f"{key} is missing; {rule.advice}")
        if not rule.holds(values[key]):
            raise UserError(f"{key} is {values[key]!r}; {rule.advice}")
    if config.batch_size % config.accumulate:
        raise UserError(
            f"batch_size is {config.batch_size}, which accumulate = {config.accumulate} does not "
            "divide; choose a multiple"
        )
    settings = parse_sweep(config.sweep)
    for knob, value in (item for setting in settings for item in setting.items()):
        if not _RULES[knob].holds(value):
            raise UserError(f"sweep has {knob}={value!r}; {_RULES[knob].advice}")
    if settings and config.learning_rates:
        raise UserError("sweep and learning_rates do not go together; sweep learning_rate")
    if len(settings) * config.ensemble > _MEMBERS:
        raise UserError(
            f"sweep has {len(settings)} settings for ensemble = {config.ensemble} seeds; give "
            f"fewer of either, up to {_MEMBERS} networks"
        )
    swept = config.learning_rates or any("learning_rate" in setting for setting in settings)
    if swept and not config.learning_rate:
        raise UserError("learning_rates are divided by learning_rate, which is 0; set it")
    if config.seed + config.ensemble - 1 > _MOST:
        raise UserError(f"seed is {config.seed}; give less, because each member adds 1 to it")
    if config.epochs * config.steps_per_epoch > _MOST:
        raise UserError(f"epochs times steps_per_epoch is above {_MOST:,}; give fewer of either")


def check_batch_size(config: ConfigDict, images: int) -> None:
    """Raises `UserError` if a batch is larger than the training split of this many images."""
    if config.batch_size > images:
        raise UserError(
            f"batch_size is {config.batch_size:,}, more than the {images:,} images of "
            f"{config.train_split}; give {images:,} or less"
        )


def flatten(tree: Mapping) -> dict[str, Any]:
    """Returns the leaves of nested mappings, by their keys joined with dots."""
    return dict(_leaves(tree, ""))


def _leaves(tree: Mapping, prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def shipped_configs() -> dict[str, Path]:
    """Returns the files of the configs that come with fer_jax, by name."""
    installed = Path(__file__).parent / "configs"
    folder = installed if installed.is_dir() else Path(__file__).parents[1] / "configs"
    files = sorted(folder.rglob("*.py"))
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}


def find_config(name: str) -> Path:
    """Returns the file of a config.

    Args:
      name: name of a config that comes with fer_jax, such as "resnet" or "published/small_cnn"; or
        the path of a file.

    Raises:
      UserError: there is no such config; the message has the nearest names.
    """
    shipped = shipped_configs()
    path = shipped.get(name, Path(name))
    if not os.path.isfile(path):  # Path.is_file raises if a name is too long.
        problem = (
            "is a folder, not a config" if os.path.isdir(name) else "is neither config nor file"
        )
        raise UserError(f"{name!r} {problem}{suggest(name.removesuffix('.py'), shipped)}")
    return path


def load_config(name: str) -> ConfigDict:
    """Runs `get_config()` of a config's file, and returns the config, locked.

    Args:
      name: see `find_config`.

    Raises:
      UserError: there is no such config, or its file fails; the message then has the line.
    """
    path = find_config(name)
    namespace: dict[str, Any] = {"__name__": path.stem, "__file__": str(path)}
    try:
        exec(compile(path.read_bytes(), str(path), "exec"), namespace)
        config = namespace["get_config"]() if "get_config" in namespace else None
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(path)]
        line = error.lineno if isinstance(error, SyntaxError) else (lines or [None])[-1]
        place = f"{path}, line {line}" if line else str(path)
        text = error.msg if isinstance(error, SyntaxError) else str(error)
        raise UserError(f"{place}: {type(error).__name__}: {' '.join(text.split())}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"{path}: give it a function get_config() that returns a ConfigDict")
    return config.lock()


def suggest(name: str, names: Mapping[str, Any]) -> str:
    """Returns the end of an error about an unknown name: the nearest names, or all of them."""
    last_parts = {other.rpartition("/")[2]: other for other in names}
    near = difflib.get_close_matches(name, names) or [
        last_parts[part] for part in difflib.get_close_matches(name.rpartition("/")[2], last_parts)
    ]
    if near:
        return f". Did you mean {' or '.join(f'"{other}"' for other in near)}?"
    return f"; choose one of {', '.join(names)}" if names else ""
