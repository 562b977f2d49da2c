"""Test-time views of each image; evaluation averages their probabilities."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fer_jax.errors import UserError

_MARGIN = 4
"""Pixels that a crop removes from height and width: 48x48 becomes 44x44."""


def one(images: Float[Array, "batch 48 48 1"]) -> Float[Array, "1 batch 48 48 1"]:
    """The images themselves."""
    return images[None]


def flip(images: Float[Array, "batch 48 48 1"]) -> Float[Array, "2 batch 48 48 1"]:
    """The images and their mirror images."""
    return jnp.stack([images, jnp.flip(images, axis=2)])


def ten_crop(images: Float[Array, "batch 48 48 1"]) -> Float[Array, "10 batch 48 48 1"]:
    """Crops at the four corners and the centre, and their mirror images.

    Krizhevsky et al., "ImageNet Classification with Deep Convolutional Neural Networks", NIPS 2012,
    section 4.1. Each crop is resized bilinearly to the image's size, which some networks need.
    """
    batch, height, width, _ = images.shape
    corners = [(top, left) for top in (0, _MARGIN) for left in (0, _MARGIN)]

    def crop(top: int, left: int) -> Float[Array, "batch 44 44 1"]:
        # Indexing would become a gather if the batch size is symbolic, as in an export.
        ends = (batch, top + height - _MARGIN, left + width - _MARGIN, 1)
        return jax.lax.slice(images, (0, top, left, 0), ends)

    crops = [crop(top, left) for top, left in (*corners, (_MARGIN // 2, _MARGIN // 2))]
    whole = [jax.image.resize(part, images.shape, "bilinear") for part in crops]
    return jnp.concatenate([flip(part) for part in whole])


Views = Callable[[Float[Array, "batch 48 48 1"]], Float[Array, "views batch 48 48 1"]]
"""A function from images to several views of each image."""

VIEWS: dict[str, Views] = {"one": one, "flip": flip, "ten_crop": ten_crop}


def choose_views(name: str) -> Views:
    """Returns the views with this name, the value of `config.views`.

    Raises:
      UserError: no views have this name.
    """
    if name not in VIEWS:
        raise UserError(f"views is {name!r}; choose one of {', '.join(VIEWS)}")
    return VIEWS[name]
