"""The networks, and the one table from a config's `model.name` to what builds it."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx

from fer_jax.errors import UserError
from fer_jax.models import cnn, convnext, densenet, efficientnet, resnet, vgg
from fer_jax.models.layers import Classifier

MODELS: dict[str, Callable[..., Classifier]] = {
    "cnn": cnn.cnn,
    "convnext": convnext.convnext,
    "densenet": densenet.densenet,
    "efficientnet": efficientnet.efficientnet,
    "resnet": resnet.resnet,
    "resnet50_v1": resnet.resnet50_v1,
    "vgg16": vgg.vgg16,
}


def create_model(
    config: Mapping[str, Any], *, num_classes: int, dtype: str, rngs: nnx.Rngs
) -> Classifier:
    """Builds the network that `config` describes.

    Args:
      config: `name`, a key of `MODELS`, and the arguments of what it names.
      num_classes: logits in a row.
      dtype: of the computation, "float32" or "bfloat16"; parameters are float32.
      rngs: for the initial parameters.

    Returns:
      A module from images, Float[batch, 48, 48, 1] in [0, 1], to logits, Float[batch, classes].

    Raises:
      UserError: there is no such network, or it does not take these arguments.
    """
    arguments = dict(config)
    name = arguments.pop("name")
    if name not in MODELS:
        raise UserError(f"model.name is {name!r}; choose one of {', '.join(MODELS)}")
    for key, value in arguments.items():
        for number in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(number, int) and number < 1 and not key.startswith("frozen"):
                raise UserError(f"model.{key} is {value}; give 1 or more")
    try:
        return MODELS[name](**arguments, num_classes=num_classes, dtype=jnp.dtype(dtype), rngs=rngs)
    except TypeError as error:
        raise UserError(f"model {name!r} cannot be built: {error}") from error
