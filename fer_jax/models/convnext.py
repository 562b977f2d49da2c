"""ConvNeXts: Liu et al., "A ConvNet for the 2020s", CVPR 2022."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from fer_jax.data.contract import IMAGE_SIZE
from fer_jax.errors import UserError
from fer_jax.kernels.convolution import Conv
from fer_jax.kernels.initializers import truncated_normal
from fer_jax.models.layers import Classifier, check_image_size, global_average_pool

_INITIAL: dict[str, Any] = {"kernel_init": truncated_normal(0.02)}
_layer_norm = functools.partial(nnx.LayerNorm, epsilon=1e-6)


def convnext(
    *,
    depths: Sequence[int],
    widths: Sequence[int],
    patch: int,
    stochastic_depth: float = 0.1,
    frozen_stages: int = 0,
    channels: int = 1,
    image_size: int = IMAGE_SIZE,
    normalization: str = "none",
    num_classes: int,
    dtype: jnp.dtype,
    rngs: nnx.Rngs,
) -> Classifier:
    """Builds a ConvNeXt.

    Args:
      depths: number of blocks of each stage; ConvNeXt-T has (3, 3, 9, 3).
      widths: number of features of each stage; ConvNeXt-T has (96, 192, 384, 768). Every stage
        after the first halves height and width.
      patch: size and stride of the first convolution; the paper has 4, small images need 1 or 2.
      stochastic_depth: rate at which the last block is dropped for an image in training. The rate
        falls linearly to zero at the first block (Huang et al., 2016).
      frozen_stages: number of stages, from the first, that keep the weights they are given; the
        stem belongs to the first. 0 trains everything; all stages frozen leave the last
        normalisation and the logits to train.
      channels, image_size, normalization: see `Classifier`; published weights need 3 channels and
        "imagenet".
      num_classes: number of logits per image.
      dtype: type of the computation; parameters are float32.
      rngs: generators of the initial parameters.

    Raises:
      UserError: `depths` and `widths` differ in length, `frozen_stages` is not from 0 to that, or
        the images are too small.
    """
    if len(depths) != len(widths):
        raise UserError(
            f"model.depths {tuple(depths)} and model.widths {tuple(widths)} differ in length; "
            "give one of each for every stage"
        )
    if not 0 <= frozen_stages <= len(depths):
        raise UserError(f"model.frozen_stages is {frozen_stages}; give 0 to {len(depths)}")
    check_image_size(image_size, patch * 2 ** max(0, len(depths) - 1))
    common: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
    total = sum(depths)
    stages, done, inputs = [], 0, channels
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        size = patch if stage == 0 else 2
        blocks: list[Callable] = [_Downsample(inputs, width, size, first=stage == 0, **common)]
        for block in range(done, done + depth):
            rate = stochastic_depth * block / max(1, total - 1)
            blocks.append(_Block(width, drop_rate=rate, **common))
        stages.append(nnx.Sequential(*blocks))
        done, inputs = done + depth, width
    return Classifier(
        nnx.Sequential(*stages, global_average_pool, _layer_norm(inputs, **common)),
        inputs,
        num_classes=num_classes,
        channels=channels,
        image_size=image_size,
        normalization=normalization,
        frozen=frozen_stages,
        **_INITIAL,
        **common,
    )


def keras_name(path: str) -> str:
    """Returns a variable's name in the weights files of keras.applications' ConvNeXts.

    The name lacks the prefix for the size, such as "convnext_tiny_".

    Args:
      path: path of the variable in the network's state, such as
        "features.layers.0.layers.1.depthwise.kernel".
    """
    match path.removeprefix("features.layers.").split("."):
        case [stage, "layers", "0", layer, variable]:
            if stage == "0":
                name = "stem_" + {"conv": "conv", "norm": "layernorm"}[layer]
            else:
                name = "downsampling_" + {"conv": "conv", "norm": "layernorm"}[layer]
                name += f"_{int(stage) - 1}"
        case [stage, "layers", index, layer, *variables]:
            name = f"stage_{stage}_block_{int(index) - 1}_{_KERAS_LAYERS[layer]}"
            (variable,) = variables or ["scale"]
        case [_, variable]:
            name = "head_layernorm"
    if name.rstrip("_0123456789").endswith(("layernorm", "layer_scale")):
        variable = {"scale": "gamma", "bias": "beta"}[variable]
    return f"{name}/{variable}"


def timm_name(path: str) -> str:
    """Returns a variable's name in timm's ConvNeXts; arguments as for `keras_name`."""
    match path.removeprefix("features.layers.").split("."):
        case [stage, "layers", "0", layer, variable]:
            first = "conv" if stage == "0" else "norm"
            name = "stem" if stage == "0" else f"stages.{stage}.downsample"
            name += ".0" if layer == first else ".1"
        case [stage, "layers", index, "layer_scale"]:
            return f"stages.{stage}.blocks.{int(index) - 1}.gamma"
        case [stage, "layers", index, layer, variable]:
            name = f"stages.{stage}.blocks.{int(index) - 1}.{_TIMM_LAYERS[layer]}"
        case [_, variable]:
            name = "head.norm"
    return f"{name}.{'bias' if variable == 'bias' else 'weight'}"


class _Downsample(nnx.Module):
    """Convolution of disjoint patches, with normalisation after it if `first`, else before it."""

    def __init__(self, inputs: int, width: int, size: int, *, first: bool, dtype, rngs):
        self.conv = Conv(
            inputs,
            width,
            (size, size),
            strides=size,
            padding="VALID",
            **_INITIAL,
            dtype=dtype,
            rngs=rngs,
        )
        self.norm = _layer_norm(width if first else inputs, dtype=dtype, rngs=rngs)
        self.first = first

    def __call__(
        self, x: Float[Array, "batch height width inputs"]
    ) -> Float[Array, "batch height/size width/size features"]:
        return self.norm(self.conv(x)) if self.first else self.conv(self.norm(x))


class _Block(nnx.Module):
    """7x7 depthwise convolution and perceptron, scaled per channel, added to the input.

    Training drops the branch for whole images at `drop_rate`. The scales start at 1e-6, as in the
    paper: Touvron et al., "Going Deeper with Image Transformers", ICCV 2021.
    """

    def __init__(self, width: int, *, drop_rate: float, dtype, rngs):
        common: dict[str, Any] = {**_INITIAL, "dtype": dtype, "rngs": rngs}
        self.depthwise = Conv(width, width, (7, 7), padding=3, feature_group_count=width, **common)
        self.norm = _layer_norm(width, dtype=dtype, rngs=rngs)
        self.expand = nnx.Linear(width, 4 * width, **common)
        self.project = nnx.Linear(4 * width, width, **common)
        self.layer_scale = nnx.Param(jnp.full(width, 1e-6, jnp.float32))
        self.drop = nnx.Dropout(drop_rate, broadcast_dims=(1, 2, 3))

    def __call__(
        self, x: Float[Array, "batch height width features"], rngs: nnx.Rngs | None = None
    ) -> Float[Array, "batch height width features"]:
        y = nnx.gelu(self.expand(self.norm(self.depthwise(x))), approximate=False)
        return x + self.drop(self.project(y) * self.layer_scale[...].astype(x.dtype), rngs=rngs)


_KERAS_LAYERS = {
    "depthwise": "depthwise_conv",
    "norm": "layernorm",
    "expand": "pointwise_conv_1",
    "project": "pointwise_conv_2",
    "layer_scale": "layer_scale",
}
_TIMM_LAYERS = {
    "depthwise": "conv_dw",
    "norm": "norm",
    "expand": "mlp.fc1",
    "project": "mlp.fc2",
}
