"""Test-time views of each image; evaluation averages their probabilities."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fer_jax.errors import UserError

_MARGIN = 1 / 12
"""Share of height and width that a crop removes: 48x48 becomes 44x44."""


def one(
    images: Float[Array, "batch size size channels"],
) -> Float[Array, "1 batch size size channels"]:
    """The images themselves."""
    return images[None]


def flip(
    images: Float[Array, "batch size size channels"],
) -> Float[Array, "2 batch size size channels"]:
    """The images and their mirror images."""
    return jnp.stack([images, jnp.flip(images, axis=2)])


def ten_crop(
    images: Float[Array, "batch size size channels"],
) -> Float[Array, "10 batch size size channels"]:
    """Crops at the four corners and the centre, and their mirror images.

    Krizhevsky et al., "ImageNet Classification with Deep Convolutional Neural Networks", NIPS 2012,
    section 4.1. Each crop is resized bilinearly to the image's size, which some networks need.
    """
    batch, height, width, channels = images.shape
    margin = max(1, round(_MARGIN * height))
    corners = [(top, left) for top in (0, margin) for left in (0, margin)]

    def crop(top: int, left: int) -> Float[Array, "batch smaller smaller channels"]:
        # Indexing would become a gather if the batch size is symbolic, as in an export.
        ends = (batch, top + height - margin, left + width - margin, channels)
        return jax.lax.slice(images, (0, top, left, 0), ends)

    crops = [crop(top, left) for top, left in (*corners, (margin // 2, margin // 2))]
    whole = [jax.image.resize(part, images.shape, "bilinear") for part in crops]
    return jnp.concatenate([flip(part) for part in whole])


Views = Callable[
    [Float[Array, "batch size size channels"]], Float[Array, "views batch size size channels"]
]
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
