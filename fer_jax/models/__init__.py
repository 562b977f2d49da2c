"""The networks, and the one table from a config's `model.name` to the function that builds it."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx

from fer_jax.data.contract import ImageFormat
from fer_jax.errors import UserError
from fer_jax.models import cnn, convnext, densenet, efficientnet, resnet, vgg
from fer_jax.models.layers import Classifier, is_whole

MODELS: dict[str, Callable[..., Classifier]] = {
    "cnn": cnn.cnn,
    "convnext": convnext.convnext,
    "densenet": densenet.densenet,
    "efficientnet": efficientnet.efficientnet,
    "resnet": resnet.resnet,
    "resnet50_v1": resnet.resnet50_v1,
    "vgg16": vgg.vgg16,
}

_KINDS: dict[Any, tuple[str, Callable[[Any], bool]]] = {
    int: ("a whole number", is_whole),
    float: ("a number", lambda value: is_whole(value) or isinstance(value, float)),
    str: ("text", lambda value: isinstance(value, str)),
    Sequence[int]: (
        "a list of whole numbers",
        lambda value: isinstance(value, list | tuple) and all(map(is_whole, value)),
    ),
    Sequence[str | tuple]: ("a list", lambda value: isinstance(value, list | tuple)),
}
"""Types of the networks' arguments, each with its name in messages and a test for values."""

_COUNT = ("1 or more, up to 1,048,576", lambda number: 0 < number <= 2**20)
_DEPTH = ("1 or more, up to 1,000", lambda number: 0 < number <= 1000)
_RATE = ("a fraction in [0, 1)", lambda number: 0 <= number < 1)
_RANGES: dict[str, tuple[str, Callable[[float], bool]]] = {
    **dict.fromkeys(("blocks", "depth", "depths"), _DEPTH),
    **dict.fromkeys(("dropout", "stochastic_depth"), _RATE),
}
"""Numbers that arguments take, by argument; those of the others are `_COUNT`."""


def create_model(
    config: Mapping[str, Any], *, num_classes: int, dtype: str, rngs: nnx.Rngs
) -> Classifier:
    """Builds the network that `config` describes.

    Args:
      config: `name`, a key of `MODELS`, and the arguments of that function. See `follow_data` for
        those of the data; here they are FER-2013's.
      num_classes: number of logits per image.
      dtype: type of the computation, "float32" or "bfloat16"; parameters are float32.
      rngs: generators of the initial parameters.

    Returns:
      A module from images, Float[batch, size, size, channels] in [0, 1], to logits,
      Float[batch, classes].

    Raises:
      UserError: there is no such network, or it does not take these arguments.
    """
    arguments = follow_data(config, ImageFormat())
    name = arguments.pop("name", None)
    if not name:
        raise UserError(f"model.name is missing; choose one of {', '.join(MODELS)}")
    if name not in MODELS:
        raise UserError(f"model.name is {name!r}; choose one of {', '.join(MODELS)}")
    _check_names(name, arguments)
    for key, value in arguments.items():
        _check(key, value, _parameters(name)[key].annotation)
    return MODELS[name](**arguments, num_classes=num_classes, dtype=jnp.dtype(dtype), rngs=rngs)


def follow_data(model: Mapping[str, Any], images: ImageFormat) -> dict[str, Any]:
    """Returns a config's `model` with the image size and channels of the data.

    They replace zeros, and what the config leaves out unless the network has a default of its own,
    as the networks with published weights have.

    Args:
      model: `name`, a key of `MODELS`, and arguments of that function.
      images: format of the data's images.
    """
    taken = _parameters(model["name"]) if model.get("name") in MODELS else {}
    found = dict(model)
    default = ImageFormat()
    for key, usual, of_data in (
        ("image_size", default.size, images.size),
        ("channels", default.channels, images.channels),
    ):
        left_out = key not in model and key in taken and taken[key].default == usual
        if left_out or model.get(key) == 0:
            found[key] = of_data
    return found


def default_arguments(name: str) -> dict[str, Any]:
    """Returns the arguments of a network that a config may leave out, with their defaults."""
    required = _required(name)
    return {k: p.default for k, p in _parameters(name).items() if k not in required}


def _parameters(name: str) -> dict[str, inspect.Parameter]:
    """Returns the parameters that a config may set."""
    parameters = dict(inspect.signature(MODELS[name]).parameters)
    for key in ("num_classes", "dtype", "rngs"):
        del parameters[key]
    return parameters


def _required(name: str) -> dict[str, inspect.Parameter]:
    taken = _parameters(name)
    return {key: taken[key] for key in taken if taken[key].default is inspect.Parameter.empty}


def _check_names(name: str, arguments: Mapping[str, Any]) -> None:
    taken, given = _parameters(name), arguments.keys()
    if foreign := [key for key in given if key not in taken]:
        owners = [
            repr(other)
            for other in MODELS
            if _required(other).keys() <= given <= _parameters(other).keys()
        ]
        hint = f"it takes {', '.join(taken)}"
        if owners:
            hint = (
                f"this config's model section belongs to {' or '.join(owners)}: "
                f"choose a config of {name!r}, or set model.name back"
            )
        raise UserError(f"model {name!r} takes no {' and no '.join(map(repr, foreign))}; {hint}")
    if missing := [key for key in _required(name) if key not in given]:
        raise UserError(
            f"model {name!r} needs {' and '.join(map(repr, missing))}; "
            f"set {' and '.join(f'model.{key}' for key in missing)}"
        )


def _check(key: str, value: Any, annotation: Any) -> None:
    kind, fits = _KINDS.get(annotation, ("", lambda value: True))
    if not fits(value):
        raise UserError(f"model.{key} is {value!r}; give {kind}")
    numbers = value if isinstance(value, list | tuple) else [value]
    if key.startswith("frozen"):  # Each network says how much of it can be frozen.
        return
    advice, holds = _RANGES.get(key, _COUNT)
    if not all(holds(number) for number in numbers if isinstance(number, int | float)):
        raise UserError(f"model.{key} is {value}; give {advice}")
