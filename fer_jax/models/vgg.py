"""VGG16: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
Recognition", ICLR 2015, configuration D.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx

from fer_jax.errors import UserError
from fer_jax.models.cnn import cnn
from fer_jax.models.layers import Classifier

_BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Of each: features, and how many convolutions come before its max-pool."""

FEATURES = _BLOCKS[-1][0]
"""Channels that the dense layers see."""

TIMM_NAMES = {"classifier.0": "pre_logits.fc1", "classifier.3": "pre_logits.fc2"}
"""What timm calls those of torchvision's layers that it gives other names."""


def vgg16(
    *,
    dense: Sequence[int] = (4096, 4096),
    dropout: float = 0.5,
    frozen_stages: int = 0,
    channels: int = 3,
    image_size: int = 224,
    normalization: str = "caffe",
    num_classes: int,
    dtype: jnp.dtype,
    rngs: nnx.Rngs,
) -> Classifier:
    """Builds VGG16.

    Args:
      dense: features of the dense layers before the logits, each followed by ReLU and dropout.
      dropout: its rate.
      frozen_stages: how many of the five blocks of convolutions keep the weights they are given: 5
        trains the dense layers, 4 the last block too, 0 everything.
      channels, image_size, normalization: see `Classifier`; by default those of Keras's weights.
      num_classes: logits in a row.
      dtype: of the computation; parameters are float32.
      rngs: for the initial parameters.

    Raises:
      UserError: there are not so many blocks, or the images are too small for them.
    """
    if not 0 <= frozen_stages <= len(_BLOCKS):
        raise UserError(f"model.frozen_stages is {frozen_stages}; give 0 to {len(_BLOCKS)}")
    layers: list[str | tuple] = []
    for features, convolutions in _BLOCKS:
        layers += [*(convolutions * [("conv", features)]), "max_pool"]
    layers.append("flatten")
    for features in dense:
        layers += [("dense", features), ("dropout", dropout)]
    return cnn(
        layers=layers,
        channels=channels,
        image_size=image_size,
        normalization=normalization,
        # A convolution is two layers, itself and its ReLU.
        frozen=sum(2 * convolutions + 1 for _, convolutions in _BLOCKS[:frozen_stages]),
        num_classes=num_classes,
        dtype=dtype,
        rngs=rngs,
    )


def _places() -> dict[int, str]:
    """Returns Keras's name of each convolution, by its index among the layers."""
    places, index = {}, 0
    for block, (_, convolutions) in enumerate(_BLOCKS, start=1):
        for number in range(1, convolutions + 1):
            places[index] = f"block{block}_conv{number}"
            index += 2
        index += 1
    return places


_CONVOLUTIONS = _places()
_FIRST_DENSE = max(_CONVOLUTIONS) + 4  # After that convolution's ReLU, its max-pool and flatten.


def keras_name(path: str) -> str:
    """Returns what Keras calls the variable at `path`."""
    index, kind = _split(path)
    return f"{_CONVOLUTIONS.get(index) or f'fc{_dense_number(index)}'}/{kind}"


def timm_name(path: str) -> str:
    """Returns what timm calls the variable at `path`."""
    index, kind = _split(path)
    layer = (
        f"features.{index}" if index in _CONVOLUTIONS else f"pre_logits.fc{_dense_number(index)}"
    )
    return f"{layer}.{'weight' if kind == 'kernel' else kind}"


def _split(path: str) -> tuple[int, str]:
    """Returns index and kind of "features.layers.INDEX.KIND"."""
    _, _, index, kind = path.split(".")
    return int(index), kind


def _dense_number(index: int) -> int:
    return (index - _FIRST_DENSE) // 3 + 1  # A dense layer is three: itself, ReLU and dropout.
