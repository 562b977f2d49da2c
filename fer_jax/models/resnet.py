"""Residual networks: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.

Depth 50 strides in the 3x3 convolution of a bottleneck ("v1.5"), as PyTorch's and most pretrained
weights do. Padding is PyTorch's too: the same on both sides, where XLA's `SAME` under a stride of
two would pad at the end only.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from data_prep.contract import UserError
from fer_jax.models.convolution import conv_general_dilated
from fer_jax.models.layers import Classifier, global_average_pool

_HE_NORMAL = jax.nn.initializers.variance_scaling(2.0, "fan_out", "truncated_normal")
_batch_norm = functools.partial(nnx.BatchNorm, momentum=0.9, epsilon=1e-5)


def resnet(
    *,
    depth: int,
    stem: str,
    width: int,
    channels: int = 1,
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
      channels: the grey image is repeated to this many channels.
      num_classes: logits in a row.
      dtype: of the computation; parameters and batch statistics are float32.
      rngs: for the initial parameters.

    Raises:
      UserError: there is no such depth or stem.
    """
    if depth not in _DEPTHS:
        raise UserError(f"model.depth is {depth}; choose one of {', '.join(map(str, _DEPTHS))}")
    if stem not in _STEMS:
        raise UserError(f"model.stem is {stem!r}; choose one of {', '.join(_STEMS)}")
    block, repeats = _DEPTHS[depth]
    common: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
    stages = _STEMS[stem](channels, width, **common)
    outputs = width
    for stage, count in enumerate(repeats):
        for index in range(count):
            stride = 2 if stage > 0 and index == 0 else 1
            module, outputs = block(outputs, width * 2**stage, stride, **common)
            stages.append(module)
    return Classifier(
        nnx.Sequential(*stages, global_average_pool),
        outputs,
        num_classes=num_classes,
        channels=channels,
        kernel_init=jax.nn.initializers.glorot_uniform(),
        **common,
    )


class _ConvNorm(nnx.Module):
    """Convolution without bias, then batch normalisation.

    The last scale of a branch starts at zero, so that a block starts as its shortcut: Goyal et al.,
    "Accurate, Large Minibatch SGD", 2017.
    """

    def __init__(
        self, inputs: int, features: int, kernel: int, stride: int = 1, *, scale=1.0, dtype, rngs
    ):
        self.conv = nnx.Conv(
            inputs,
            features,
            (kernel, kernel),
            strides=stride,
            padding=kernel // 2,
            use_bias=False,
            conv_general_dilated=conv_general_dilated,
            kernel_init=_HE_NORMAL,
            dtype=dtype,
            rngs=rngs,
        )
        self.norm = _batch_norm(
            features,
            scale_init=jax.nn.initializers.constant(scale),
            dtype=dtype,
            rngs=rngs,
        )

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
        _ConvNorm(features, features, 3, scale=0.0, **common),
    )
    return _Residual(branch, inputs, features, stride, **common), features


def _bottleneck(inputs: int, features: int, stride: int, **common) -> tuple[_Residual, int]:
    outputs = 4 * features
    branch = nnx.Sequential(
        _ConvNorm(inputs, features, 1, **common),
        nnx.relu,
        _ConvNorm(features, features, 3, stride, **common),
        nnx.relu,
        _ConvNorm(features, outputs, 1, scale=0.0, **common),
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
