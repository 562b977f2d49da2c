"""Plain convolutional networks, built from a list of layers as a config writes it down."""

import functools
from collections.abc import Callable, Sequence

import jax.numpy as jnp
from flax import nnx

from fer_jax.data.contract import IMAGE_SIZE
from fer_jax.errors import UserError
from fer_jax.kernels.batch_norm import BatchNorm
from fer_jax.kernels.convolution import Conv
from fer_jax.kernels.initializers import glorot_uniform
from fer_jax.kernels.max_pool import max_pool
from fer_jax.models.layers import Classifier, flatten

# Keras's defaults, which the published systems were trained with.
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

    The entries, of which those without a number need no tuple:

    * `("conv", features, kernel=3, padding="SAME")`: convolution with bias, then ReLU
    * `("dense", features)`: dense layer with bias, then ReLU
    * `"batch_norm"`: batch normalisation, over all axes but the last
    * `("max_pool", size=2)`: maximum of blocks; what is left over at the edge is dropped
    * `("dropout", rate)`
    * `"flatten"`: needed once, before the first dense layer

    The layer of logits is added. Kernels start Glorot-uniform and biases at zero; batch
    normalisation has momentum 0.99 and epsilon 1e-3: Keras's defaults.

    Args:
      layers: as above.
      channels, image_size, normalization, frozen: see `Classifier`.
      num_classes: logits in a row.
      dtype: of the computation; parameters are float32.
      rngs: for the initial parameters.

    Raises:
      UserError: a layer is unknown, or its numbers do not fit; the message names it.
    """
    modules: list[Callable] = []
    shape: Shape = (image_size, image_size, channels)
    for position, entry in enumerate(layers, start=1):
        try:
            name, *numbers = (entry,) if isinstance(entry, str) else entry
            added, shape = _LAYERS[name](shape, *numbers, dtype=dtype, rngs=rngs)
        except KeyError:
            raise UserError(
                f"layer {position}, {name!r}, is none of {', '.join(_LAYERS)}"
            ) from None
        except (TypeError, ValueError) as error:
            raise UserError(
                f"layer {position}, {entry!r}, cannot follow an output of shape {shape}: {error}"
            ) from error
        modules += added
    if len(shape) != 1:
        raise UserError(f"layers end in shape {shape}; add 'flatten' before the first 'dense'")
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


def _conv(shape: Shape, features: int, kernel: int = 3, padding: str = "SAME", **common) -> Built:
    height, width, channels = shape
    _check_counts(features=features, kernel=kernel)
    if padding not in ("SAME", "VALID"):
        raise ValueError(f"padding is {padding!r}, not 'SAME' or 'VALID'")
    lost = kernel - 1 if padding == "VALID" else 0
    if min(height, width) <= lost:
        raise ValueError(f"a {kernel}x{kernel} kernel does not fit into {height}x{width}")
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
    (width,) = shape
    _check_counts(features=features)
    dense = nnx.Linear(width, features, kernel_init=_GLOROT_UNIFORM, **common)
    return [dense, nnx.relu], (features,)


def _batch_norm(shape: Shape, *, dtype: jnp.dtype, **_) -> Built:
    return [_keras_batch_norm(shape[-1], dtype=dtype)], shape


def _max_pool(shape: Shape, size: int = 2, **_) -> Built:
    height, width, channels = shape
    _check_counts(size=size)
    if min(height, width) < size:
        raise ValueError(f"{size}x{size} blocks do not fit into {height}x{width}")
    return [_MaxPool(size)], (height // size, width // size, channels)


def _dropout(shape: Shape, rate: float, **_) -> Built:
    if not 0 <= rate < 1:
        raise ValueError(f"the rate is {rate}, not in [0, 1)")
    return [nnx.Dropout(rate)], shape


def _flatten(shape: Shape, **_) -> Built:
    height, width, channels = shape
    return [flatten], (height * width * channels,)


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"{name} is {count!r}, not 1 or more")


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
