"""EfficientNets: Tan and Le, "EfficientNet: Rethinking Model Scaling for CNNs", ICML 2019.

EfficientNet-Lite is a variant for phones (Liu, TensorFlow's blog, 2020): ReLU6 instead of SiLU, no
squeeze-and-excitation, and no scaling of the stem, the final convolution, and the number of blocks
in the first and the last stage.
"""

import functools
import math
import string
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
    variant: str = "original",
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
      variant: "original" or "lite"; Lite0 has the width and the depth of B0.
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
      UserError: there is no such stem, variant or convention, or `frozen_stages` is not from 0 to
        9.
    """
    for key, value, known in (
        ("stem", stem, _STEM_STRIDES),
        ("variant", variant, _VARIANTS),
        ("convention", convention, _CONVENTIONS),
    ):
        if value not in known:
            raise UserError(f"model.{key} is {value!r}; choose one of {', '.join(known)}")
    if not 0 <= frozen_stages <= len(_STAGES) + 2:
        raise UserError(f"model.frozen_stages is {frozen_stages}; give 0 to {len(_STAGES) + 2}")
    lite = variant == "lite"
    common: dict[str, Any] = {"convention": convention, "dtype": dtype, "rngs": rngs}
    common["activation"] = jax.nn.relu6 if lite else nnx.silu
    repeats = stage_repeats(depth, variant)
    drop_rates = iter(stochastic_depth * block / sum(repeats) for block in range(sum(repeats)))
    inputs, top = (features if lite else _rounded(features * width) for features in (_STEM, _TOP))
    layers: list[Callable] = [_ConvNorm(channels, inputs, 3, _STEM_STRIDES[stem], **common)]
    for count, (_, kernel, stride, expansion, features) in zip(repeats, _STAGES, strict=True):
        blocks = []
        for index in range(count):
            outputs = _rounded(features * width)
            blocks.append(
                _MBConv(
                    inputs,
                    outputs,
                    expansion=expansion,
                    kernel=kernel,
                    stride=stride if index == 0 else 1,
                    excited=not lite,
                    drop_rate=next(drop_rates),
                    **common,
                )
            )
            inputs = outputs
        layers.append(nnx.Sequential(*blocks))
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


def stage_repeats(depth: float, variant: str = "original") -> list[int]:
    """Returns the number of blocks in each stage; arguments as for `efficientnet`."""
    repeats = [math.ceil(depth * stage[0]) for stage in _STAGES]
    if variant == "lite":
        repeats[0], repeats[-1] = _STAGES[0][0], _STAGES[-1][0]
    return repeats


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


def timm_layers(repeats: Sequence[int]) -> dict[str, str]:
    """Returns timm's name of each layer, by its name in the package efficientnet_pytorch.

    That package numbers the blocks through all stages.

    Args:
      repeats: number of blocks in each stage.
    """
    layers = dict(_TIMM_OUTER_LAYERS)
    blocks = [(stage, block) for stage, count in enumerate(repeats) for block in range(count)]
    for index, (stage, block) in enumerate(blocks):
        names = _TIMM_LAYERS if stage else _TIMM_FIRST_STAGE
        for layer, name in _PYTORCH_LAYERS.items():
            layers[f"_blocks.{index}.{name}"] = f"blocks.{stage}.{block}.{names[layer]}"
    return layers


class _ConvNorm(nnx.Module):
    """Convolution without bias, batch normalisation, then the activation."""

    def __init__(
        self,
        inputs: int,
        features: int,
        kernel: int,
        stride: int = 1,
        *,
        depthwise: bool = False,
        activation: Callable,
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
    """Mobile inverted bottleneck, `excited` or not by squeeze-and-excitation.

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
        excited: bool,
        drop_rate: float,
        activation: Callable,
        convention: str,
        dtype,
        rngs,
    ):
        features = expansion * inputs
        conv_norm = functools.partial(_ConvNorm, convention=convention, dtype=dtype, rngs=rngs)
        active = functools.partial(conv_norm, activation=activation)
        self.expand = active(inputs, features, 1) if expansion > 1 else _identity
        self.depthwise = active(features, features, kernel, stride, depthwise=True)
        squeezed = max(1, inputs // 4)
        self.excite = (
            _SqueezeExcite(features, squeezed, dtype=dtype, rngs=rngs) if excited else _identity
        )
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
_VARIANTS = ("original", "lite")
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
_TIMM_OUTER_LAYERS = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_PYTORCH_LAYERS = {
    "expand.conv": "_expand_conv",
    "expand.norm": "_bn0",
    "depthwise.conv": "_depthwise_conv",
    "depthwise.norm": "_bn1",
    "excite.reduce": "_se_reduce",
    "excite.expand": "_se_expand",
    "project.conv": "_project_conv",
    "project.norm": "_bn2",
}
_TORCH_VARIABLES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
