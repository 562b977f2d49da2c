"""EfficientNets: Tan and Le, "EfficientNet: Rethinking Model Scaling for CNNs", ICML 2019."""

import functools
import math
import string
from collections.abc import Callable
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
from fer_jax.models.layers import Classifier, global_average_pool

_HE_NORMAL = variance_scaling(2.0, "fan_out")
# In a depthwise kernel each input has k x k outputs, and JAX's fan_in is that number.
_HE_NORMAL_DEPTHWISE = variance_scaling(2.0, "fan_in")

_STEM, _TOP = 32, 1280
# Repeats, kernel, stride, expansion and features of each of B0's stages: table 1 of the paper.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def efficientnet(
    *,
    width: float,
    depth: float,
    stem: str,
    convention: str = "tensorflow",
    dropout: float = 0.2,
    stochastic_depth: float = 0.2,
    frozen_stages: int = 0,
    channels: int = 1,
    image_size: int = IMAGE_SIZE,
    normalization: str = "none",
    num_classes: int,
    dtype: jnp.dtype,
    rngs: nnx.Rngs,
) -> Classifier:
    """Builds an EfficientNet.

    Args:
      width: multiplier of B0's features, which are rounded to multiples of 8; B0 has 1.0.
      depth: multiplier of the blocks in each of B0's stages, rounded up; B0 has 1.0.
      stem: "small" (stride one) for small images, or "imagenet" (stride two).
      convention: "tensorflow" or "pytorch". "tensorflow" is that of the original and of Keras:
        strided convolutions pad at the end first, and epsilon is 1e-3. "pytorch" pads equally on
        both sides, and epsilon is 1e-5; timm's efficientnet_b0 was trained with it, timm's tf_
        networks were not.
      dropout: rate of the dropout before the logits.
      stochastic_depth: scale of the rates at which blocks are dropped for an image in training:
        block k of n, from 0, has stochastic_depth * k / n (Huang et al., 2016).
      frozen_stages: number of stages, from the first, that keep the weights they are given. There
        are nine: the first is the stem, the last is the final 1x1 convolution. 0 trains
        everything; 9 leaves the logits to train.
      channels, image_size, normalization: see `Classifier`; published weights need 3 channels and
        "imagenet".
      num_classes: number of logits per image.
      dtype: type of the computation; parameters and batch statistics are float32.
      rngs: generators of the initial parameters.

    Raises:
      UserError: there is no such stem or convention, or `frozen_stages` is not from 0 to 9.
    """
    if stem not in _STEM_STRIDES:
        raise UserError(f"model.stem is {stem!r}; choose one of {', '.join(_STEM_STRIDES)}")
    if convention not in _CONVENTIONS:
        raise UserError(
            f"model.convention is {convention!r}; choose one of {', '.join(_CONVENTIONS)}"
        )
    if not 0 <= frozen_stages <= len(_STAGES) + 2:
        raise UserError(f"model.frozen_stages is {frozen_stages}; give 0 to {len(_STAGES) + 2}")
    common: dict[str, Any] = {"convention": convention, "dtype": dtype, "rngs": rngs}
    stages = [(math.ceil(depth * repeats), *rest) for repeats, *rest in _STAGES]
    drop_rates = iter(
        stochastic_depth * block / sum(stage[0] for stage in stages)
        for block in range(sum(stage[0] for stage in stages))
    )
    inputs = _rounded(_STEM * width)
    layers: list[Callable] = [_ConvNorm(channels, inputs, 3, _STEM_STRIDES[stem], **common)]
    for repeats, kernel, stride, expansion, features in stages:
        blocks = []
        for index in range(repeats):
            outputs = _rounded(features * width)
            blocks.append(
                _MBConv(
                    inputs,
                    outputs,
                    expansion=expansion,
                    kernel=kernel,
                    stride=stride if index == 0 else 1,
                    drop_rate=next(drop_rates),
                    **common,
                )
            )
            inputs = outputs
        layers.append(nnx.Sequential(*blocks))
    top = _rounded(_TOP * width)
    layers.append(_ConvNorm(inputs, top, 1, **common))
    return Classifier(
        nnx.Sequential(*layers, global_average_pool, nnx.Dropout(dropout)),
        top,
        num_classes=num_classes,
        channels=channels,
        image_size=image_size,
        normalization=normalization,
        frozen=frozen_stages,
        kernel_init=jax.nn.initializers.glorot_uniform(),
        dtype=dtype,
        rngs=rngs,
    )


def keras_name(path: str) -> str:
    """Returns a variable's name in the weights files of keras.applications' EfficientNets.

    Args:
      path: path of the variable in the network's state, such as
        "features.layers.2.layers.0.expand.conv.kernel".
    """
    match path.removeprefix("features.layers.").split("."):
        case [index, "layers", block, *layer, variable]:
            name = f"block{index}{string.ascii_lowercase[int(block)]}_"
            name += _KERAS_LAYERS[".".join(layer)]
        case [index, layer, variable]:
            name = ("stem_" if index == "0" else "top_") + {"conv": "conv", "norm": "bn"}[layer]
    if name.endswith("dwconv"):
        variable = "depthwise_kernel"
    elif name.endswith("bn"):
        variable = _KERAS_BATCH_NORM[variable]
    return f"{name}/{variable}"


def timm_name(path: str) -> str:
    """Returns a variable's name in timm's EfficientNets; arguments as for `keras_name`."""
    match path.removeprefix("features.layers.").split("."):
        case [index, "layers", block, *layer, variable]:
            names = _TIMM_FIRST_STAGE if index == "1" else _TIMM_LAYERS
            name = f"blocks.{int(index) - 1}.{block}.{names['.'.join(layer)]}"
        case ["0", layer, variable]:
            name = {"conv": "conv_stem", "norm": "bn1"}[layer]
        case [_, layer, variable]:
            name = {"conv": "conv_head", "norm": "bn2"}[layer]
    return f"{name}.{_TORCH_VARIABLES[variable]}"


class _ConvNorm(nnx.Module):
    """Convolution without bias, batch normalisation, then the activation, by default SiLU."""

    def __init__(
        self,
        inputs: int,
        features: int,
        kernel: int,
        stride: int = 1,
        *,
        depthwise: bool = False,
        activation: Callable = nnx.silu,
        convention: str,
        dtype,
        rngs,
    ):
        same, epsilon = _CONVENTIONS[convention]
        self.conv = Conv(
            inputs,
            features,
            (kernel, kernel),
            strides=stride,
            padding="SAME" if same else kernel // 2,
            feature_group_count=features if depthwise else 1,
            use_bias=False,
            kernel_init=_HE_NORMAL_DEPTHWISE if depthwise else _HE_NORMAL,
            dtype=dtype,
            rngs=rngs,
        )
        self.norm = BatchNorm(features, momentum=0.99, epsilon=epsilon, dtype=dtype)
        self.activation = activation

    def __call__(self, x):
        return self.activation(self.norm(self.conv(x)))


class _SqueezeExcite(nnx.Module):
    """Scales each channel by a function of all channels' means: Hu et al., CVPR 2018."""

    def __init__(self, features: int, squeezed: int, *, dtype, rngs):
        conv = functools.partial(Conv, kernel_size=(1, 1), kernel_init=_HE_NORMAL)
        self.reduce = conv(features, squeezed, dtype=dtype, rngs=rngs)
        self.expand = conv(squeezed, features, dtype=dtype, rngs=rngs)

    def __call__(self, x):
        means = x.mean(axis=(1, 2), keepdims=True)
        return x * nnx.sigmoid(self.expand(nnx.silu(self.reduce(means))))


class _MBConv(nnx.Module):
    """Mobile inverted bottleneck with squeeze-and-excitation.

    Training drops a residual branch for whole images at `drop_rate`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        expansion: int,
        kernel: int,
        stride: int,
        drop_rate: float,
        convention: str,
        dtype,
        rngs,
    ):
        features = expansion * inputs
        conv_norm = functools.partial(_ConvNorm, convention=convention, dtype=dtype, rngs=rngs)
        self.expand = conv_norm(inputs, features, 1) if expansion > 1 else _identity
        self.depthwise = conv_norm(features, features, kernel, stride, depthwise=True)
        self.excite = _SqueezeExcite(features, max(1, inputs // 4), dtype=dtype, rngs=rngs)
        self.project = conv_norm(features, outputs, 1, activation=_identity)
        self.drop = nnx.Dropout(drop_rate, broadcast_dims=(1, 2, 3))
        self.residual = stride == 1 and inputs == outputs

    def __call__(
        self, x: Float[Array, "batch height width inputs"], rngs: nnx.Rngs | None = None
    ) -> Float[Array, "batch height/stride width/stride outputs"]:
        y = self.project(self.excite(self.depthwise(self.expand(x))))
        return x + self.drop(y, rngs=rngs) if self.residual else y


def _identity(x):
    return x


def _rounded(features: float) -> int:
    """Returns the nearest multiple of 8 that is at least nine tenths of `features`."""
    nearest = max(8, int(features + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * features else nearest + 8


_STEM_STRIDES = {"small": 1, "imagenet": 2}
# Each convention: whether padding is SAME, and the epsilon of batch normalisation.
_CONVENTIONS = {"tensorflow": (True, 1e-3), "pytorch": (False, 1e-5)}

_KERAS_LAYERS = {
    "expand.conv": "expand_conv",
    "expand.norm": "expand_bn",
    "depthwise.conv": "dwconv",
    "depthwise.norm": "bn",
    "excite.reduce": "se_reduce",
    "excite.expand": "se_expand",
    "project.conv": "project_conv",
    "project.norm": "project_bn",
}
_KERAS_BATCH_NORM = {
    "scale": "gamma",
    "bias": "beta",
    "mean": "moving_mean",
    "var": "moving_variance",
}
_TIMM_LAYERS = {
    "expand.conv": "conv_pw",
    "expand.norm": "bn1",
    "depthwise.conv": "conv_dw",
    "depthwise.norm": "bn2",
    "excite.reduce": "se.conv_reduce",
    "excite.expand": "se.conv_expand",
    "project.conv": "conv_pwl",
    "project.norm": "bn3",
}
# The first stage's blocks have no expansion, so timm numbers their layers differently.
_TIMM_FIRST_STAGE = _TIMM_LAYERS | {
    "depthwise.norm": "bn1",
    "project.conv": "conv_pw",
    "project.norm": "bn2",
}
_TORCH_VARIABLES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
