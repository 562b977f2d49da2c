"""Pieces that the networks share."""

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
    """Maps grey levels 0 to 255 to [0, 1]: all networks' input."""
    return images.astype(jnp.float32) / 255


class Frozen(nnx.Variable):
    """A weight that training leaves as it is: no parameter, so without gradient and momentum.

    Zero until it is given, since a random one would be of no use and takes time to draw.
    """


NORMALIZATIONS: dict[str, Callable[[Array], Array]] = {
    "none": lambda x: x,
    # By mean and standard deviation of FER-2013's training pixels, for channels without a colour.
    "grey": lambda x: (x - 0.5077) / 0.2551,
    # Of the weights that Keras took over from Caffe: grey levels 0 to 255 in the order blue, green,
    # red, less the means of ImageNet. The order of a grey image's equal channels is none.
    "caffe": lambda x: x * 255 - jnp.array([103.939, 116.779, 123.68]),
    # Of torchvision and timm: the standardised red, green and blue of ImageNet.
    "imagenet": lambda x: (x - jnp.array([0.485, 0.456, 0.406])) / jnp.array([0.229, 0.224, 0.225]),
}
"""From channels in [0, 1] to what a network was trained on."""


class Classifier(nnx.Module):
    """Prepares grey images, and takes them by features and one dense layer to float32 logits.

    What every network here is.

    Args:
      features: layers from prepared images, Float[batch, image_size, image_size, channels], to rows
        of features.
      width: features in a row.
      num_classes: logits in a row.
      channels: the grey image is repeated to this many channels.
      image_size: height and width to which images are resized first.
      normalization: a key of `NORMALIZATIONS`; those of ImageNet's weights take three channels.
      frozen: how many of the first layers of `features` keep the weights that they are given: these
        are `Frozen`, and batch normalisation and dropout act there as in inference.
      dtype: of the computation; parameters and logits are float32.
      kernel_init: of the dense layer.
      rngs: for the initial parameters.

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
                f"model.normalization = {normalization!r} is of 3 channels; "
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
        self, images: Float[Array, "batch height width 1"]
    ) -> Float[Array, "batch image_size image_size channels"]:
        """Resizes grey images in [0, 1], repeats them to channels, and normalises these.

        Bilinear between the centres of pixels, not smoothed before: as resizing is in TensorFlow,
        and in PyTorch with `align_corners=False`.
        """
        shape = (images.shape[0], self.image_size, self.image_size, 1)
        if images.shape != shape:
            images = jax.image.resize(images, shape, "bilinear", antialias=False)
        x = jnp.repeat(images, self.channels, axis=-1)
        return NORMALIZATIONS[self.normalization](x).astype(self.dtype)

    def __call__(
        self, images: Float[Array, "batch height width 1"], rngs: nnx.Rngs | None = None
    ) -> Float[Array, "batch classes"]:
        """Returns logits of grey images in [0, 1]; `rngs` feeds dropout while training."""
        features = self.features(self.prepare(images), rngs=rngs)
        return self.head(features).astype(jnp.float32)

    def train(self, **attributes: Any) -> None:
        """Sets all layers but the frozen ones to training."""
        super().train(**attributes)
        for layer in self._frozen_layers():
            layer.eval()

    def layers(self) -> list[Callable]:
        """Returns the layers in order, from the prepared image to the logits."""
        return [*self.features.layers, self.head]

    def _frozen_layers(self) -> list[nnx.Module]:
        layers = self.features.layers[: self.frozen]
        return [layer for layer in layers if isinstance(layer, nnx.Module)]
