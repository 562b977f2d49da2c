"""Random shift and flip of whole batches, for numpy and jax.numpy alike.

Random numbers come in as an array, so that Grain's generators and JAX's keys drive the same code.
"""

from typing import Any, NamedTuple

from jaxtyping import Bool, Float, Int, UInt8

DRAWS = 3
"""Uniform random numbers that `draw_parameters` takes for each image."""


class Parameters(NamedTuple):
    """What happens to each image of a batch; shifts in pixels, positive is down and right."""

    down: Int[Any, " batch"]
    right: Int[Any, " batch"]
    mirrored: Bool[Any, " batch"]


def draw_parameters(
    uniforms: Float[Any, "batch 3"], *, height: int, width: int, shift: float, flip: bool
) -> Parameters:
    """Turns uniform numbers in [0, 1) into one shift and flip for each image.

    Args:
      uniforms: a numpy or JAX array; the result is of the same kind.
      height: of the images, in pixels.
      width: of the images, in pixels.
      shift: largest shift each way, as a fraction of height and of width.
      flip: whether half of the images are mirrored left to right.
    """
    xp = uniforms.__array_namespace__()
    offsets = (2 * uniforms - 1) * shift
    return Parameters(
        down=xp.round(offsets[:, 0] * height).astype(xp.int32),
        right=xp.round(offsets[:, 1] * width).astype(xp.int32),
        mirrored=(uniforms[:, 2] < 0.5) & flip,
    )


def shift_and_flip(
    images: UInt8[Any, "batch height width channels"], parameters: Parameters
) -> UInt8[Any, "batch height width channels"]:
    """Mirrors, then shifts each image; what comes in from outside repeats the edge."""
    xp = images.__array_namespace__()
    batch, height, width, _ = images.shape
    rows = xp.clip(xp.arange(height) - parameters.down[:, None], 0, height - 1)
    columns = xp.clip(xp.arange(width) - parameters.right[:, None], 0, width - 1)
    columns = xp.where(parameters.mirrored[:, None], width - 1 - columns, columns)
    return images[xp.arange(batch)[:, None, None], rows[:, :, None], columns[:, None, :]]
