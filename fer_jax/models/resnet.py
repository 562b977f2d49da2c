"""Residual networks: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.

`resnet` is PyTorch's, and that of most pretrained weights: depth 50 strides in the 3x3 convolution
of a bottleneck ("v1.5"). `resnet50_v1` is Keras's: as in the paper it strides in the first 1x1.
Both pad the same on both sides, where XLA's `SAME` under a stride of two would pad at the end only.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from fer_jax.data.contract import IMAGE_SIZE
from fer_jax.errors import UserError
from fer_jax.kernels.batch_norm import BatchNorm
from fer_jax.kernels.convolution import Conv
from fer_jax.kernels.initializers import glorot_uniform, variance_scaling
from fer_jax.models.layers import Classifier, global_average_pool

_HE_NORMAL = variance_scaling(2.0, "fan_out")
_batch_norm = functools.partial(BatchNorm, momentum=0.9, epsilon=1e-5)
_keras_batch_norm = functools.partial(BatchNorm, momentum=0.99, epsilon=1.001e-5)


def resnet(
    *,
    depth: int,
    stem: str,
    width: int,
    frozen_stages: int = 0,
    channels: int = 1,
    image_size: int = IMAGE_SIZE,
    normalization: str = "none",
    num_classes: int,
    dtype: jnp.dtype,
    rngs: nnx.Rngs,
) -> Classifier:
    """Builds a residual network.

    Args:
      depth: 18, 34 or 50.
      stem: "small" (3x3 convolution, nothing thrown away) for images such as these, or "imagenet"
        (7x7 convolution and 3x3 max-pool, each of stride two).
      width: features of the first stage; each further stage has twice as many. 64 in the paper.
      frozen_stages: how many of the four stages, and the stem with them, keep the weights they are
        given: 4 trains the logits' layer, 3 the last stage too, 0 everything.
      channels, image_size, normalization: see `Classifier`.
      num_classes: logits in a row.
      dtype: of the computation; parameters and batch statistics are float32.
      rngs: for the initial parameters.

    Raises:
      UserError: there is no such depth or stem, or there are not so many stages.
    """
    if depth not in _DEPTHS:
        raise UserError(f"model.depth is {depth}; choose one of {', '.join(map(str, _DEPTHS))}")
    if stem not in _STEMS:
        raise UserError(f"model.stem is {stem!r}; choose one of {', '.join(_STEMS)}")
    block, repeats = _DEPTHS[depth]
    return _build(
        _STEMS[stem],
        block,
        repeats,
        width,
        {"batch_norm": _batch_norm, "use_bias": False, "dtype": dtype, "rngs": rngs},
        frozen_stages=frozen_stages,
        channels=channels,
        image_size=image_size,
        normalization=normalization,
        num_classes=num_classes,
    )


def resnet50_v1(
    *,
    frozen_stages: int = 0,
    channels: int = 3,
    image_size: int = 224,
    normalization: str = "caffe",
    num_classes: int,
    dtype: jnp.dtype,
    rngs: nnx.Rngs,
) -> Classifier:
    """Builds ResNet50 as Keras has it: version 1, with biases in its convolutions.

    Args:
      frozen_stages: see `resnet`.
      channels, image_size, normalization: see `Classifier`; by default those of Keras's weights.
      num_classes: logits in a row.
      dtype: of the computation; parameters and batch statistics are float32.
      rngs: for the initial parameters.

    Raises:
      UserError: there are not so many stages.
    """
    return _build(
        _imagenet_stem,
        functools.partial(_bottleneck, stride_first=True),
        _DEPTHS[50][1],
        64,
        {"batch_norm": _keras_batch_norm, "use_bias": True, "dtype": dtype, "rngs": rngs},
        frozen_stages=frozen_stages,
        channels=channels,
        image_size=image_size,
        normalization=normalization,
        num_classes=num_classes,
    )


def _build(
    stem: Callable,
    block: Callable,
    repeats: Sequence[int],
    width: int,
    common: dict[str, Any],
    *,
    frozen_stages: int,
    channels: int,
    **classifier,
) -> Classifier:
    """Builds stem, stages of `repeats` blocks each, average and logits; `common` is for layers."""
    if not 0 <= frozen_stages <= len(repeats):
        raise UserError(f"model.frozen_stages is {frozen_stages}; give 0 to {len(repeats)}")
    layers = stem(channels, width, **common)
    frozen = len(layers) + sum(repeats[:frozen_stages]) if frozen_stages else 0
    outputs = width
    for stage, count in enumerate(repeats):
        for index in range(count):
            stride = 2 if stage > 0 and index == 0 else 1
            module, outputs = block(outputs, width * 2**stage, stride, **common)
            layers.append(module)
    return Classifier(
        nnx.Sequential(*layers, global_average_pool),
        outputs,
        channels=channels,
        frozen=frozen,
        kernel_init=glorot_uniform(),
        dtype=common["dtype"],
        rngs=common["rngs"],
        **classifier,
    )


class _ConvNorm(nnx.Module):
    """Convolution, then batch normalisation, whose scales all start at one.

    From zero in the last of a branch (Goyal et al., 2017) it learnt far slower on FER-2013: of the
    training images between steps 181 and 240 of Adam it had 27.0 % right, from one 41.0 %
    (width 32, batches of 64, n = 1 each).
    """

    def __init__(
        self,
        inputs: int,
        features: int,
        kernel: int,
        stride: int = 1,
        *,
        batch_norm,
        use_bias,
        dtype,
        rngs,
    ):
        self.conv = Conv(
            inputs,
            features,
            (kernel, kernel),
            strides=stride,
            padding=kernel // 2,
            use_bias=use_bias,
            kernel_init=_HE_NORMAL,
            dtype=dtype,
            rngs=rngs,
        )
        self.norm = batch_norm(features, dtype=dtype)

    def __call__(self, x):
        return self.norm(self.conv(x))


class _Residual(nnx.Module):
    """relu(branch(x) + shortcut(x)); the shortcut is a projection where shapes differ."""

    def __init__(self, branch: nnx.Module, inputs: int, outputs: int, stride: int, **common):
        self.branch = branch
        projected = stride != 1 or inputs != outputs
        self.shortcut = _ConvNorm(inputs, outputs, 1, stride, **common) if projected else _identity

    def __call__(
        self, x: Float[Array, "batch height width inputs"]
    ) -> Float[Array, "batch height/stride width/stride outputs"]:
        return nnx.relu(self.branch(x) + self.shortcut(x))


def _basic_block(inputs: int, features: int, stride: int, **common) -> tuple[_Residual, int]:
    branch = nnx.Sequential(
        _ConvNorm(inputs, features, 3, stride, **common),
        nnx.relu,
        _ConvNorm(features, features, 3, **common),
    )
    return _Residual(branch, inputs, features, stride, **common), features


def _bottleneck(
    inputs: int, features: int, stride: int, *, stride_first: bool = False, **common
) -> tuple[_Residual, int]:
    outputs = 4 * features
    first, second = (stride, 1) if stride_first else (1, stride)
    branch = nnx.Sequential(
        _ConvNorm(inputs, features, 1, first, **common),
        nnx.relu,
        _ConvNorm(features, features, 3, second, **common),
        nnx.relu,
        _ConvNorm(features, outputs, 1, **common),
    )
    return _Residual(branch, inputs, outputs, stride, **common), outputs


def _identity(x):
    return x


def _max_pool_3x3(x):
    return nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


def _small_stem(inputs: int, features: int, **common) -> list[Callable]:
    return [_ConvNorm(inputs, features, 3, **common), nnx.relu]


def _imagenet_stem(inputs: int, features: int, **common) -> list[Callable]:
    return [_ConvNorm(inputs, features, 7, 2, **common), nnx.relu, _max_pool_3x3]


_DEPTHS = {
    18: (_basic_block, (2, 2, 2, 2)),
    34: (_basic_block, (3, 4, 6, 3)),
    50: (_bottleneck, (3, 4, 6, 3)),
}
_STEMS = {"small": _small_stem, "imagenet": _imagenet_stem}

_KERAS_KINDS = {
    "conv": {"kernel": "kernel", "bias": "bias"},
    "bn": {"scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"},
}
_TIMM_KINDS = {
    "conv": {"kernel": "weight"},
    "bn": {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"},
}


def keras_name(path: str) -> str:
    """Returns what Keras calls the variable at `path` of `resnet50_v1`."""
    stage, block, number, part, kind = _locate(path, 50)
    unit = f"conv{stage + 1}_block{block + 1}_{number}" if stage else "conv1"
    return f"{unit}_{part}/{_KERAS_KINDS[part][kind]}"


def timm_name(path: str, depth: int) -> str:
    """Returns what timm and torchvision call the variable at `path` of a `resnet` of this depth.

    Its stem must be that for ImageNet.
    """
    stage, block, number, part, kind = _locate(path, depth)
    unit = f"layer{stage}.{block}." if stage else ""
    name = f"{part}{number}" if number else f"downsample.{('conv', 'bn').index(part)}"
    return f"{unit}{name}.{_TIMM_KINDS[part][kind]}"


def _locate(path: str, depth: int) -> tuple[int, int, int, str, str]:
    """Returns stage (0 is the stem), block in it, convolution in that, "conv" or "bn", and kind.

    Convolutions count from 1; 0 is the shortcut's.
    """
    _, _, index, *inside, layer, kind = path.split(".")
    part = "bn" if layer == "norm" else "conv"
    if not inside:
        return 0, 0, 1, part, kind
    # The stem is three layers; in a branch there is a ReLU between convolutions.
    stages = [(s, b) for s, count in enumerate(_DEPTHS[depth][1], start=1) for b in range(count)]
    number = 0 if inside == ["shortcut"] else int(inside[-1]) // 2 + 1
    return *stages[int(index) - 3], number, part, kind
