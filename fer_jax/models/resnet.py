"""Residual networks: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.

`resnet` is PyTorch's form, which most pretrained weights have: at depth 50 a bottleneck has its
stride in the 3x3 convolution ("v1.5"). `resnet50_v1` is Keras's form: the stride is in the first
1x1 convolution, as in the paper. Both pad equally on both sides; XLA's `SAME` with a stride of two
would pad at the end only.
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
      depth: number of layers: 18, 34 or 50.
      stem: "small" (3x3 convolution at full resolution) for small images, or "imagenet" (7x7
        convolution and 3x3 max-pool, each with stride two).
      width: number of features of the first stage, 64 in the paper. Each later stage doubles it.
      frozen_stages: number of stages, from the first of four, that keep the weights they are
        given; the stem freezes with the first. 0 trains everything; 3 leaves the last stage and
        the logits to train; 4 leaves the logits.
      channels, image_size, normalization: see `Classifier`.
      num_classes: number of logits per image.
      dtype: type of the computation; parameters and batch statistics are float32.
      rngs: generators of the initial parameters.

    Raises:
      UserError: there is no such depth or stem, or `frozen_stages` is not from 0 to 4.
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
    """Builds Keras's ResNet50: version 1, with biases in its convolutions.

    Args:
      frozen_stages: see `resnet`.
      channels, image_size, normalization: see `Classifier`; the defaults fit Keras's weights.
      num_classes: number of logits per image.
      dtype: type of the computation; parameters and batch statistics are float32.
      rngs: generators of the initial parameters.

    Raises:
      UserError: `frozen_stages` is not from 0 to 4.
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
    """Builds stem, stages of `repeats` blocks, average and logits.

    `common` holds the arguments that every layer takes.
    """
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
    """Convolution, then batch normalisation, whose scales start at one.

    If the last scale of each branch starts at zero (Goyal et al., 2017), the network learns far
    more slowly on FER-2013. Training accuracy over steps 181 to 240 of Adam is 27.0 % with zero
    and 41.0 % with one (width 32, batches of 64, n = 1 each).
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
    """relu(branch(x) + shortcut(x)); the shortcut is a projection if shapes differ."""

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
    """Returns Keras's name of the variable at `path` in `resnet50_v1`."""
    stage, block, number, part, kind = _locate(path, 50)
    unit = f"conv{stage + 1}_block{block + 1}_{number}" if stage else "conv1"
    return f"{unit}_{part}/{_KERAS_KINDS[part][kind]}"


def timm_name(path: str, depth: int) -> str:
    """Returns timm's and torchvision's name of the variable at `path` in a `resnet` of this depth.

    The network must have the stem "imagenet".
    """
    stage, block, number, part, kind = _locate(path, depth)
    unit = f"layer{stage}.{block}." if stage else ""
    name = f"{part}{number}" if number else f"downsample.{('conv', 'bn').index(part)}"
    return f"{unit}{name}.{_TIMM_KINDS[part][kind]}"


def _locate(path: str, depth: int) -> tuple[int, int, int, str, str]:
    """Returns a variable's stage, block, convolution, part ("conv" or "bn") and kind.

    Stage 0 is the stem. Blocks count from 0 in their stage, convolutions from 1 in their block;
    convolution 0 is the shortcut's.
    """
    _, _, index, *inside, layer, kind = path.split(".")
    part = "bn" if layer == "norm" else "conv"
    if not inside:
        return 0, 0, 1, part, kind
    # The stem has three layers, and in a branch a ReLU stands between two convolutions.
    stages = [(s, b) for s, count in enumerate(_DEPTHS[depth][1], start=1) for b in range(count)]
    number = 0 if inside == ["shortcut"] else int(inside[-1]) // 2 + 1
    return *stages[int(index) - 3], number, part, kind
