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
"""Features and number of convolutions of each block; a max-pool ends the block."""

FEATURES = _BLOCKS[-1][0]
"""Number of channels that go into the dense layers."""

TIMM_LAYERS = {"classifier.0": "pre_logits.fc1", "classifier.3": "pre_logits.fc2"}
"""timm's name of each layer that torchvision names otherwise."""


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
      dense: number of features of each dense layer before the logits; ReLU and dropout follow
        each.
      dropout: rate of that dropout.
      frozen_stages: number of convolutional blocks, from the first of five, that keep the weights
        they are given. 0 trains everything; 4 leaves the last block and the dense layers to train;
        5 leaves the dense layers.
      channels, image_size, normalization: see `Classifier`; the defaults fit Keras's weights.
      num_classes: number of logits per image.
      dtype: type of the computation; parameters are float32.
      rngs: generators of the initial parameters.

    Raises:
      UserError: `frozen_stages` is not from 0 to 5, or the images are too small for five blocks.
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
        # A convolution counts as two layers: itself and its ReLU.
        frozen=sum(2 * convolutions + 1 for _, convolutions in _BLOCKS[:frozen_stages]),
        num_classes=num_classes,
        dtype=dtype,
        rngs=rngs,
    )


def _places() -> dict[int, str]:
    """Returns Keras's name of each convolution, by the convolution's index among the layers."""
    places, index = {}, 0
    for block, (_, convolutions) in enumerate(_BLOCKS, start=1):
        for number in range(1, convolutions + 1):
            places[index] = f"block{block}_conv{number}"
            index += 2
        index += 1
    return places


_CONVOLUTIONS = _places()
_FIRST_DENSE = max(_CONVOLUTIONS) + 4  # ReLU, max-pool and flatten stand between.


def keras_name(path: str) -> str:
    """Returns Keras's name of the variable at `path`."""
    index, kind = _split(path)
    return f"{_CONVOLUTIONS.get(index) or f'fc{_dense_number(index)}'}/{kind}"


def timm_name(path: str) -> str:
    """Returns timm's name of the variable at `path`."""
    index, kind = _split(path)
    layer = (
        f"features.{index}" if index in _CONVOLUTIONS else f"pre_logits.fc{_dense_number(index)}"
    )
    return f"{layer}.{'weight' if kind == 'kernel' else kind}"


def _split(path: str) -> tuple[int, str]:
    """Returns INDEX and KIND of "features.layers.INDEX.KIND"."""
    _, _, index, kind = path.split(".")
    return int(index), kind


def _dense_number(index: int) -> int:
    return (index - _FIRST_DENSE) // 3 + 1  # Each counts as three: itself, ReLU and dropout.
