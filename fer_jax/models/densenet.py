"""DenseNets: Huang et al., "Densely Connected Convolutional Networks", CVPR 2017.

This is DenseNet-BC: it has bottlenecks, and transitions that halve the features. Padding is equal
on both sides, as in all published weights.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from fer_jax.data.contract import IMAGE_SIZE
from fer_jax.errors import UserError
from fer_jax.kernels.batch_norm import BatchNorm
from fer_jax.kernels.convolution import Conv
from fer_jax.kernels.initializers import variance_scaling
from fer_jax.models.layers import Classifier, check_image_size, global_average_pool

_HE_NORMAL = variance_scaling(2.0, "fan_in")
_batch_norm = functools.partial(BatchNorm, momentum=0.9, epsilon=1e-5)


def densenet(
    *,
    blocks: Sequence[int],
    growth: int,
    stem: str,
    frozen_stages: int = 0,
    channels: int = 1,
    image_size: int = IMAGE_SIZE,
    normalization: str = "none",
    num_classes: int,
    dtype: jnp.dtype,
    rngs: nnx.Rngs,
) -> Classifier:
    """Builds a DenseNet.

    Args:
      blocks: number of dense layers of each block; DenseNet-121 has (6, 12, 24, 16).
      growth: number of features that each dense layer adds to its input, "k" in the paper; 32 for
        ImageNet. The stem makes twice as many.
      stem: "small" (3x3 convolution at full resolution) for small images, or "imagenet" (7x7
        convolution and 3x3 max-pool, each with stride two).
      frozen_stages: number of blocks, from the first, that keep the weights they are given. The
        stem, and the transition or last normalisation after a block, freeze with it. 0 trains
        everything; all blocks frozen leave the logits to train.
      channels, image_size, normalization: see `Classifier`; published weights need 3 channels and
        "imagenet".
      num_classes: number of logits per image.
      dtype: type of the computation; parameters and batch statistics are float32.
      rngs: generators of the initial parameters.

    Raises:
      UserError: there is no such stem, `frozen_stages` is not from 0 to the number of blocks, or
        the images are too small.
    """
    if stem not in _STEMS:
        raise UserError(f"model.stem is {stem!r}; choose one of {', '.join(_STEMS)}")
    if not 0 <= frozen_stages <= len(blocks):
        raise UserError(f"model.frozen_stages is {frozen_stages}; give 0 to {len(blocks)}")
    halved = 2 ** max(0, len(blocks) - 1)
    # Strides of two round up in the stem, and down between the blocks.
    check_image_size(image_size, halved if stem == "small" else 4 * (halved - 1) + 1)
    common: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
    features = 2 * growth
    layers: list[Callable] = [_STEMS[stem](channels, features, **common)]
    for index, count in enumerate(blocks):
        if index > 0:
            layers.append(_Transition(features, features // 2, **common))
            features //= 2
        layers.append(
            nnx.Sequential(
                *(_DenseLayer(features + k * growth, growth, **common) for k in range(count))
            )
        )
        features += count * growth
    return Classifier(
        nnx.Sequential(*layers, _batch_norm(features, dtype=dtype), nnx.relu, global_average_pool),
        features,
        num_classes=num_classes,
        channels=channels,
        image_size=image_size,
        normalization=normalization,
        # The stem is one layer; each block is two, itself and the layer after it.
        frozen=2 * frozen_stages + 1 if frozen_stages else 0,
        kernel_init=jax.nn.initializers.glorot_uniform(),
        **common,
    )


def keras_name(path: str) -> str:
    """Returns a variable's name in the weights files of keras.applications' DenseNets.

    Args:
      path: path of the variable in the network's state, such as
        "features.layers.1.layers.0.bottleneck.conv.kernel".
    """
    *parts, variable = path.removeprefix("features.layers.").split(".")
    match parts:
        case ["0", layer]:
            name = f"conv1_{_KERAS_LAYERS[layer]}"
        case [block, "layers", index, *layer]:
            name = (
                f"conv{int(block) // 2 + 2}_block{int(index) + 1}_{_KERAS_LAYERS['.'.join(layer)]}"
            )
        case [transition, layer]:
            name = f"pool{int(transition) // 2 + 1}_{_KERAS_LAYERS[layer]}"
        case _:
            name = "bn"
    return f"{name}/{_KERAS_VARIABLES[variable]}"


def timm_name(path: str) -> str:
    """Returns a variable's name in timm and torchvision; arguments as for `keras_name`."""
    *parts, variable = path.removeprefix("features.layers.").split(".")
    match parts:
        case ["0", layer]:
            name = f"{layer}0"
        case [block, "layers", index, *layer]:
            name = f"denseblock{int(block) // 2 + 1}.denselayer{int(index) + 1}"
            name += f".{layer[1]}{'12'[layer[0] == 'growth']}"
        case [transition, layer]:
            name = f"transition{int(transition) // 2}.{layer}"
        case _:
            name = "norm5"
    return f"features.{name}.{_TORCH_VARIABLES[variable]}"


class _ConvNorm(nnx.Module):
    """The stem: convolution without bias, batch normalisation, ReLU, then `pool`."""

    def __init__(
        self, inputs: int, features: int, kernel: int, stride: int, pool: Callable, *, dtype, rngs
    ):
        self.conv = _conv(inputs, features, kernel, stride, dtype=dtype, rngs=rngs)
        self.norm = _batch_norm(features, dtype=dtype)
        self.pool = pool

    def __call__(self, x):
        return self.pool(nnx.relu(self.norm(self.conv(x))))


class _NormConv(nnx.Module):
    """Batch normalisation, ReLU, then convolution without bias."""

    def __init__(self, inputs: int, features: int, kernel: int, *, dtype, rngs):
        self.norm = _batch_norm(inputs, dtype=dtype)
        self.conv = _conv(inputs, features, kernel, dtype=dtype, rngs=rngs)

    def __call__(self, x):
        return self.conv(nnx.relu(self.norm(x)))


class _DenseLayer(nnx.Module):
    """Bottleneck and 3x3 convolution; their `growth` features are appended to the input's."""

    def __init__(self, inputs: int, growth: int, **common):
        self.bottleneck = _NormConv(inputs, 4 * growth, 1, **common)
        self.growth = _NormConv(4 * growth, growth, 3, **common)

    def __call__(
        self, x: Float[Array, "batch height width inputs"]
    ) -> Float[Array, "batch height width inputs+growth"]:
        return jnp.concatenate([x, self.growth(self.bottleneck(x))], axis=-1)


class _Transition(_NormConv):
    """1x1 convolution to fewer features, then 2x2 average pooling; an odd row or column drops."""

    def __init__(self, inputs: int, features: int, **common):
        super().__init__(inputs, features, 1, **common)

    def __call__(self, x):
        return nnx.avg_pool(super().__call__(x), (2, 2), strides=(2, 2))


def _conv(inputs: int, features: int, kernel: int, stride: int = 1, **common) -> nnx.Conv:
    return Conv(
        inputs,
        features,
        (kernel, kernel),
        strides=stride,
        padding=kernel // 2,
        use_bias=False,
        kernel_init=_HE_NORMAL,
        **common,
    )


def _identity(x):
    return x


def _max_pool_3x3(x):
    return nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


_STEMS = {
    "small": functools.partial(_ConvNorm, kernel=3, stride=1, pool=_identity),
    "imagenet": functools.partial(_ConvNorm, kernel=7, stride=2, pool=_max_pool_3x3),
}

_KERAS_LAYERS = {
    "conv": "conv",
    "norm": "bn",
    "bottleneck.norm": "0_bn",
    "bottleneck.conv": "1_conv",
    "growth.norm": "1_bn",
    "growth.conv": "2_conv",
}
_KERAS_VARIABLES = {
    "kernel": "kernel",
    "scale": "gamma",
    "bias": "beta",
    "mean": "moving_mean",
    "var": "moving_variance",
}
_TORCH_VARIABLES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
