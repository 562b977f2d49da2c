"""Convolutions of several ensemble members at once, each with its own images and kernel.

`jax.vmap` turns a convolution into a grouped one, and its weight gradient into a grouped one with
kernels as large as the images. cuDNN autotunes the latter slowly, and its choice is slow.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Float

FULL, MOST = 64, 128
"""Input channels that fill a GPU's matrix units, and the largest number in a merged kernel."""

Images = Float[Array, "members batch height width channels"]
Kernels = Float[Array, "members rows columns channels features"]


def conv_general_dilated(
    lhs: Float[Array, "batch height width channels"],
    rhs: Float[Array, "rows columns channels/groups features"],
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **how: Any,
) -> Float[Array, "batch height/stride width/stride features"]:
    """Computes `lax.conv_general_dilated`, with a fast form and gradient under `jax.vmap`.

    Members whose kernels have few channels are merged into one convolution. Their channels lie side
    by side, and their kernels form the diagonal of a kernel that is zero elsewhere. Multiplying by
    these zeros costs less than one call per member. Other members are convolved one by one.
    """

    def convolve(images: Array, kernel: Array) -> list[Array]:
        return [lax.conv_general_dilated(images, kernel, window_strides, padding, **how)]

    def pull_back(images: Array, kernel: Array, gradient: Array) -> list[Array]:
        return list(jax.vjp(convolve, images, kernel)[1]([gradient]))

    mergeable = rhs.ndim == 4 and lhs.shape[-1] == rhs.shape[-2] < FULL
    most = MOST // lhs.shape[-1] if mergeable else 1
    forward = _of_members(convolve, (_IMAGES, _KERNELS), (_IMAGES,), most)
    backward = _of_members(pull_back, (_IMAGES, _KERNELS, _IMAGES), (_IMAGES, _KERNELS), most)
    apply = jax.custom_vjp(lambda *args: forward(*args)[0])
    apply.defvjp(
        lambda *args: (forward(*args)[0], args),
        lambda args, gradient: tuple(backward(*args, gradient)),
    )
    return apply(lhs, rhs)


def _of_members(
    function: Callable[..., list[Array]],
    inputs: Sequence["_Kind"],
    outputs: Sequence["_Kind"],
    most: int,
) -> Callable[..., list[Array]]:
    """Makes a function of one member's arrays take up to `most` members at once under `jax.vmap`.

    Args:
      function: function of images and kernels that does not mix the channels of merged members.
      inputs: kind of each argument.
      outputs: kind of each result.
      most: largest number of members to merge.
    """
    of_members = custom_vmap(function)

    @of_members.def_vmap
    def rule(
        members: int, batched: Sequence[bool], *arrays: Array
    ) -> tuple[list[Array], list[bool]]:
        arrays = tuple(
            array if its_own else jnp.broadcast_to(array, (members, *array.shape))
            for array, its_own in zip(arrays, batched, strict=True)
        )
        size = max(n for n in range(1, most + 1) if members % n == 0)
        merged = [kind.merge(array, size) for kind, array in zip(inputs, arrays, strict=True)]
        of_groups = [function(*group) for group in zip(*merged, strict=True)]
        stacked = [jnp.stack(results) for results in zip(*of_groups, strict=True)]
        split = [kind.split(array, size) for kind, array in zip(outputs, stacked, strict=True)]
        return split, [True] * len(split)

    return of_members


class _Kind(NamedTuple):
    """Functions that merge the arrays of every `size` members into one, and split them again."""

    merge: Callable[[Array, int], Array]
    split: Callable[[Array, int], Array]


def _merge_images(images: Images, size: int) -> Images:
    members, batch, height, width, channels = images.shape
    groups = images.reshape(members // size, size, batch, height, width, channels)
    return jnp.moveaxis(groups, 1, 4).reshape(-1, batch, height, width, size * channels)


def _split_images(merged: Images, size: int) -> Images:
    *shape, channels = merged.shape
    groups = jnp.moveaxis(merged.reshape(*shape, size, channels // size), 4, 1)
    return groups.reshape(-1, *groups.shape[2:])


def _merge_kernels(kernels: Kernels, size: int) -> Kernels:
    members, rows, columns, channels, features = kernels.shape
    groups = kernels.reshape(members // size, size, rows, columns, channels, features)
    diagonal = jnp.eye(size, dtype=kernels.dtype)
    merged = jnp.einsum("gmrcif,mn->grcminf", groups, diagonal)
    return merged.reshape(-1, rows, columns, size * channels, size * features)


def _split_kernels(merged: Kernels, size: int) -> Kernels:
    *shape, channels, features = merged.shape
    blocks = merged.reshape(*shape, size, channels // size, size, features // size)
    groups = jnp.stack([blocks[:, :, :, m, :, m] for m in range(size)], axis=1)
    return groups.reshape(-1, *groups.shape[2:])


_IMAGES = _Kind(_merge_images, _split_images)
_KERNELS = _Kind(_merge_kernels, _split_kernels)
