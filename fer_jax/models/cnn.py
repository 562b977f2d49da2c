"""Plain convolutional networks, built from a config's list of layers."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx

from fer_jax.data.contract import IMAGE_SIZE
from fer_jax.errors import UserError
from fer_jax.kernels.batch_norm import BatchNorm
from fer_jax.kernels.convolution import Conv
from fer_jax.kernels.initializers import glorot_uniform
from fer_jax.kernels.max_pool import max_pool
from fer_jax.models.layers import Classifier, flatten, is_whole

# Keras's defaults, with which the published systems were trained.
_GLOROT_UNIFORM = glorot_uniform()
_keras_batch_norm = functools.partial(BatchNorm, momentum=0.99, epsilon=1e-3)

Shape = tuple[int, ...]
Built = tuple[list[Callable], Shape]


def cnn(
    *,
    layers: Sequence[str | tuple],
    channels: int = 1,
    image_size: int = IMAGE_SIZE,
    normalization: str = "none",
    frozen: int = 0,
    num_classes: int,
    dtype: jnp.dtype,
    rngs: nnx.Rngs,
) -> Classifier:
    """Builds a network from a list such as `[("conv", 32), "batch_norm", "max_pool", "flatten"]`.

    An entry without numbers needs no tuple. The entries are:

    * `("conv", features, kernel=3, padding="SAME")`: convolution with bias, then ReLU
    * `("dense", features)`: dense layer with bias, then ReLU
    * `"batch_norm"`: batch normalisation over all axes but the last
    * `("max_pool", size=2)`: maximum of each block; rows and columns left over are dropped
    * `("dropout", rate)`
    * `"flatten"`: needed once, before the first dense layer

    A dense layer for the logits is added at the end. Initialisation and batch normalisation have
    Keras's defaults: Glorot-uniform kernels, zero biases, momentum 0.99 and epsilon 1e-3.

    Args:
      layers: entries as above, in order.
      channels, image_size, normalization, frozen: see `Classifier`.
      num_classes: number of logits per image.
      dtype: type of the computation; parameters are float32.
      rngs: generators of the initial parameters.

    Raises:
      UserError: a layer is unknown, its numbers do not fit (the message names the layer), or more
        layers are frozen than there are.
    """
    modules: list[Callable] = []
    shape: Shape = (image_size, image_size, channels)
    for position, entry in enumerate(layers, start=1):
        try:
            build, numbers = _read(entry)
            added, shape = build(shape, *numbers, dtype=dtype, rngs=rngs)
        except UserError as error:
            raise UserError(
                f"layer {position}, {entry!r}, with input of shape {shape}: {error}"
            ) from None
        modules += added
    if len(shape) != 1:
        raise UserError(f"layers end in shape {shape}; add 'flatten' before the first 'dense'")
    if not 0 <= frozen <= len(modules):
        raise UserError(f"model.frozen is {frozen}; give 0 to {len(modules)}")
    return Classifier(
        nnx.Sequential(*modules),
        shape[0],
        num_classes=num_classes,
        channels=channels,
        image_size=image_size,
        normalization=normalization,
        frozen=frozen,
        dtype=dtype,
        kernel_init=_GLOROT_UNIFORM,
        rngs=rngs,
    )


def _read(entry: str | tuple) -> tuple[Callable[..., Built], Sequence[Any]]:
    """Returns the function that builds an entry's layers, and the entry's numbers."""
    name, *numbers = entry if isinstance(entry, list | tuple) and entry else (entry,)
    if not isinstance(name, str) or name not in _LAYERS:
        raise UserError(f"{name!r} is no layer; choose one of {', '.join(_LAYERS)}")
    try:
        inspect.signature(_LAYERS[name]).bind((), *numbers, dtype=None)
    except TypeError as error:
        raise UserError(str(error)) from None
    return _LAYERS[name], numbers


def _conv(shape: Shape, features: int, kernel: int = 3, padding: str = "SAME", **common) -> Built:
    height, width, channels = _image(shape)
    _check_counts(features=features, kernel=kernel)
    if padding not in ("SAME", "VALID"):
        raise UserError(f"padding is {padding!r}; give 'SAME' or 'VALID'")
    lost = kernel - 1 if padding == "VALID" else 0
    if min(height, width) <= lost:
        raise UserError(f"a {kernel}x{kernel} kernel does not fit into {height}x{width}")
    convolution = Conv(
        channels,
        features,
        (kernel, kernel),
        padding=padding,
        kernel_init=_GLOROT_UNIFORM,
        **common,
    )
    return [convolution, nnx.relu], (height - lost, width - lost, features)


def _dense(shape: Shape, features: int, **common) -> Built:
    if len(shape) != 1:
        raise UserError("it takes rows of features; add 'flatten' before it")
    _check_counts(features=features)
    dense = nnx.Linear(*shape, features, kernel_init=_GLOROT_UNIFORM, **common)
    return [dense, nnx.relu], (features,)


def _batch_norm(shape: Shape, *, dtype: jnp.dtype, **_) -> Built:
    return [_keras_batch_norm(shape[-1], dtype=dtype)], shape


def _max_pool(shape: Shape, size: int = 2, **_) -> Built:
    height, width, channels = _image(shape)
    _check_counts(size=size)
    if min(height, width) < size:
        raise UserError(f"{size}x{size} blocks do not fit into {height}x{width}")
    return [_MaxPool(size)], (height // size, width // size, channels)


def _dropout(shape: Shape, rate: float, **_) -> Built:
    if not (is_whole(rate) or isinstance(rate, float)) or not 0 <= rate < 1:
        raise UserError(f"rate is {rate!r}; give 0 or more, and less than 1")
    return [nnx.Dropout(rate)], shape


def _flatten(shape: Shape, **_) -> Built:
    height, width, channels = _image(shape)
    return [flatten], (height * width * channels,)


def _image(shape: Shape) -> Shape:
    if len(shape) != 3:
        raise UserError("it takes images; put it before 'flatten'")
    return shape


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if not is_whole(count) or not 0 < count <= 2**20:
            raise UserError(f"{name} is {count!r}; give a whole number, 1 or more, up to 1,048,576")


class _MaxPool(nnx.Module):
    def __init__(self, size: int):
        self.size = size

    def __call__(self, x):
        return max_pool(x, self.size)


_LAYERS: dict[str, Callable[..., Built]] = {
    "conv": _conv,
    "dense": _dense,
    "batch_norm": _batch_norm,
    "max_pool": _max_pool,
    "dropout": _dropout,
    "flatten": _flatten,
}
