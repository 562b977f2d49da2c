"""Layers and preprocessing shared by all networks."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, UInt8

from fer_jax.data.contract import IMAGE_SIZE
from fer_jax.errors import UserError


def flatten(x: Float[Array, "batch height width channels"]) -> Float[Array, "batch features"]:
    """Lays out each image's features in one row."""
    return x.reshape(x.shape[0], -1)


def global_average_pool(
    x: Float[Array, "batch height width channels"],
) -> Float[Array, "batch channels"]:
    """Averages each channel over its pixels."""
    return x.mean(axis=(1, 2))


def to_unit_range(images: UInt8[Array, "..."]) -> Float[Array, "..."]:
    """Maps grey levels 0 to 255 to [0, 1], the input range of every network."""
    return images.astype(jnp.float32) / 255


class Frozen(nnx.Variable):
    """A weight that training does not change: not a parameter, so without gradient and momentum.

    It is zero until loaded, because drawing random numbers for it would waste time.
    """


NORMALIZATIONS: dict[str, Callable[[Array], Array]] = {
    "none": lambda x: x,
    # Mean and standard deviation of FER-2013's training pixels, the same for every channel.
    "grey": lambda x: (x - 0.5077) / 0.2551,
    # For weights that Keras took from Caffe: levels 0 to 255 minus ImageNet's means, in the order
    # blue, green, red. The channels of a grey image are equal, so they need no reordering.
    "caffe": lambda x: x * 255 - jnp.array([103.939, 116.779, 123.68]),
    # For weights of torchvision and timm: ImageNet's mean and deviation of red, green and blue.
    "imagenet": lambda x: (x - jnp.array([0.485, 0.456, 0.406])) / jnp.array([0.229, 0.224, 0.225]),
}
"""Functions from channels in [0, 1] to the input that a network was trained on, by name."""


_LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a grey level: ITU-R 601, as in Pillow."""


class Classifier(nnx.Module):
    """A network: prepares images, computes features, and maps these to logits.

    All networks here have this form.

    Args:
      features: layers from prepared images, Float[batch, image_size, image_size, channels], to
        Float[batch, width].
      width: number of features per image.
      num_classes: number of logits per image.
      channels: number of channels: a grey image is repeated, and of an RGB image a single channel
        is the luma.
      image_size: height and width, in pixels, that images are resized to first.
      normalization: key of `NORMALIZATIONS`; "caffe" and "imagenet" take three channels.
      frozen: number of layers, from the first of `features` on, that keep their weights.
        Their parameters become `Frozen`, and their batch normalisation and dropout always act as
        in inference.
      dtype: type of the computation; parameters and logits are float32.
      kernel_init: initialiser of the dense layer.
      rngs: generators of the initial parameters.

    Raises:
      UserError: there is no such normalisation, or it does not fit the channels.
    """

    def __init__(
        self,
        features: nnx.Sequential,
        width: int,
        *,
        num_classes: int,
        channels: int,
        image_size: int = IMAGE_SIZE,
        normalization: str = "none",
        frozen: int = 0,
        dtype: jnp.dtype,
        kernel_init: jax.nn.initializers.Initializer,
        rngs: nnx.Rngs,
    ):
        if normalization not in NORMALIZATIONS:
            raise UserError(
                f"model.normalization is {normalization!r}; "
                f"choose one of {', '.join(NORMALIZATIONS)}"
            )
        if normalization in ("caffe", "imagenet") and channels != 3:
            raise UserError(
                f"model.normalization = {normalization!r} needs 3 channels; "
                f"set model.channels = 3, not {channels}"
            )
        self.features = features
        self.head = nnx.Linear(width, num_classes, kernel_init=kernel_init, dtype=dtype, rngs=rngs)
        self.channels = channels
        self.image_size = image_size
        self.normalization = normalization
        self.frozen = frozen
        self.dtype = dtype
        for layer in self._frozen_layers():
            for _, module in nnx.iter_modules(layer):
                for name, value in vars(module).items():
                    if isinstance(value, nnx.Param):
                        setattr(module, name, Frozen(jnp.zeros_like(value[...])))

    def prepare(
        self, images: Float[Array, "batch height width depth"]
    ) -> Float[Array, "batch image_size image_size channels"]:
        """Resizes images in [0, 1], converts them to `channels`, and normalises the channels.

        Resizing is bilinear between pixel centres, without antialiasing, as in TensorFlow and in
        PyTorch with `align_corners=False`.
        """
        if images.shape[-1] == 3 and self.channels == 1:
            images = (images * jnp.array(_LUMA)).sum(axis=-1, keepdims=True)
        shape = (images.shape[0], self.image_size, self.image_size, images.shape[-1])
        if images.shape != shape:
            images = jax.image.resize(images, shape, "bilinear", antialias=False)
        x = jnp.broadcast_to(images, (*images.shape[:-1], self.channels))
        return NORMALIZATIONS[self.normalization](x).astype(self.dtype)

    def __call__(
        self, images: Float[Array, "batch height width depth"], rngs: nnx.Rngs | None = None
    ) -> Float[Array, "batch classes"]:
        """Returns the logits of images in [0, 1]; dropout draws from `rngs` in training."""
        features = self.features(self.prepare(images), rngs=rngs)
        return self.head(features).astype(jnp.float32)

    def train(self, **attributes: Any) -> None:
        """Sets all layers except the frozen ones to training mode."""
        super().train(**attributes)
        for layer in self._frozen_layers():
            layer.eval()

    def layers(self) -> list[Callable]:
        """Returns the layers in order, from the prepared images to the logits."""
        return [*self.features.layers, self.head]

    def _frozen_layers(self) -> list[nnx.Module]:
        layers = self.features.layers[: self.frozen]
        return [layer for layer in layers if isinstance(layer, nnx.Module)]


def is_whole(value: Any) -> bool:
    """Returns whether a config's value is a whole number; Python counts True as 1."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_image_size(image_size: int, least: int) -> None:
    """Raises `UserError` if images are smaller than one pixel of a network's last layer."""
    if image_size < least:
        raise UserError(
            f"model.image_size is {image_size}; this network needs {least} or more, so give larger "
            "images or a shallower network"
        )
