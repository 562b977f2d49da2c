"""Random augmentation of whole batches of images, in numpy and in jax.numpy.

Shift, flip, rotation, shear, zoom and crop are one resampling; random erasing follows. Random
numbers are passed in as an array, so that Grain's generators and JAX's keys drive the same code.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxtyping import Bool, Float, Int, UInt8

FRACTION_BITS = 11
"""Fraction bits of `resample`'s fixed-point coordinates; all its sums fit into int32."""

CROP_RATIO = 4 / 3
"""Greatest ratio of a crop's width to its height, or of height to width, for a square image:
Szegedy et al., "Going Deeper with Convolutions" (2015)."""

ERASED_AREAS, ERASED_RATIO = (0.02, 0.33), 1 / 0.3
"""Least and greatest area of an erased rectangle, as fractions of the image's area, and greatest
ratio of its sides, as in Zhong et al., except for the greatest area: 0.4 in the paper, 0.33 in
torchvision and in recipes for FER-2013."""


class Kind(NamedTuple):
    """The operations of an augmentation, whatever its ranges.

    Attributes:
      resamples: whether pixels are interpolated, which shift and flip alone do not do.
      crops: whether less than the whole image may be taken.
      erases: whether rectangles may be erased.
    """

    resamples: bool
    crops: bool
    erases: bool

    @property
    def draws(self) -> int:
        """Number of uniform random numbers that `augment` takes for each image."""
        return (7 if self.resamples else 3) + (4 if self.crops else 0) + (6 if self.erases else 0)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """The ranges of the augmentation: numbers, or in a sweep's program arrays without dimensions.

    Shift, flip, rotation, shear and zoom mean the same as in Keras's `ImageDataGenerator`. With
    shift and flip alone, images move by whole pixels and keep their grey levels. With any of
    rotation, shear, zoom and crop, all of them form one resampling, and shifts are fractional.

    Attributes:
      shift: largest shift in each direction, as a fraction of height and of width.
      flip: whether half of the images are mirrored left to right.
      rotation: largest rotation in each direction, in degrees.
      shear: largest angle in each direction, in degrees, by which columns turn more than rows.
      zoom: half-width of the range of zoom factors: height and width are each divided by a factor
        from 1 - zoom to 1 + zoom.
      crop: smallest area of a random crop, as a fraction of the image's area; 1 takes the whole
        image. The crop lies inside the image and is resized to full size before the other changes.
        A recipe's "scales of 0.8 to 1.2" are 0.8 here, because torchvision's `RandomResizedCrop`
        also refuses a crop larger than the image. Only `zoom` shows pixels beyond the edge.
      erasing: probability that a rectangle of an image is erased.
    """

    shift: float = 0.0
    flip: bool = False
    rotation: float = 0.0
    shear: float = 0.0
    zoom: float = 0.0
    crop: float = 1.0
    erasing: float = 0.0

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Augmentation":
        """Reads the attributes from the config's keys of the same names."""
        return cls(**{field.name: config[field.name] for field in dataclasses.fields(cls)})

    @property
    def kind(self) -> "Kind":
        """What these ranges make `augment` do."""
        crops = self.crop < 1
        resamples = any((self.rotation, self.shear, self.zoom, crops))
        return Kind(resamples, crops, self.erasing > 0)

    @property
    def draws(self) -> int:
        """Number of uniform random numbers that `augment` takes for each image."""
        return self.kind.draws


class Shifts(NamedTuple):
    """A shift, in pixels down and right, and a flip for each image of a batch."""

    down: Int[Any, " batch"]
    right: Int[Any, " batch"]
    mirrored: Bool[Any, " batch"]


class Boxes(NamedTuple):
    """A rectangle in each image of a batch, in fractions of the image's height and width."""

    top: Float[Any, " batch"]
    left: Float[Any, " batch"]
    height: Float[Any, " batch"]
    width: Float[Any, " batch"]


def augment(
    images: UInt8[Any, "batch height width channels"],
    uniforms: Float[Any, "batch draws"],
    augmentation: Augmentation,
    kind: Kind | None = None,
) -> UInt8[Any, "batch height width channels"]:
    """Augments each image by its own random numbers; pixels beyond the edge repeat the edge.

    Args:
      images: numpy or JAX array; the result is of the same kind.
      uniforms: random numbers in [0, 1), as an array of the same kind; each image has
        `augmentation.draws` of them.
      augmentation: ranges of the augmentation.
      kind: its kind; default: that of its ranges, which then are numbers.
    """
    _, height, width, _ = images.shape
    kind = kind or augmentation.kind
    if kind.resamples:
        ranges = (uniforms, augmentation, kind)
        matrices = draw_matrices(*ranges, height=height, width=width)
        images = resample(images, matrices)
    else:
        shifts = draw_shifts(uniforms, augmentation, height=height, width=width)
        images = shift_and_flip(images, shifts)
    return erase(images, uniforms[:, -6:], augmentation.erasing) if kind.erases else images


def draw_shifts(
    uniforms: Float[Any, "batch draws"], augmentation: Augmentation, *, height: int, width: int
) -> Shifts:
    """Converts uniform numbers in [0, 1) to a shift and a flip for each image."""
    xp = uniforms.__array_namespace__()
    offsets = (2 * uniforms - 1) * augmentation.shift
    return Shifts(
        down=xp.round(offsets[:, 0] * height).astype(xp.int32),
        right=xp.round(offsets[:, 1] * width).astype(xp.int32),
        mirrored=(uniforms[:, 2] < 0.5) & augmentation.flip,
    )


def shift_and_flip(
    images: UInt8[Any, "batch height width channels"], shifts: Shifts
) -> UInt8[Any, "batch height width channels"]:
    """Mirrors, then shifts each image; pixels beyond the edge repeat the edge."""
    xp = images.__array_namespace__()
    batch, height, width, channels = images.shape
    rows = xp.clip(xp.arange(height) - shifts.down[:, None], 0, height - 1)
    columns = xp.clip(xp.arange(width) - shifts.right[:, None], 0, width - 1)
    columns = xp.where(shifts.mirrored[:, None], width - 1 - columns, columns)
    # numpy gathers from one long row of pixels twice as fast as with three indices.
    starts = (height * xp.arange(batch)[:, None] + rows) * width
    at = starts[:, :, None] + columns[:, None, :]
    return xp.take(images.reshape(-1, channels), at, axis=0)


def draw_boxes(
    uniforms: Float[Any, "batch 4"], *, areas: tuple[float, float], ratio: float
) -> Boxes:
    """Converts uniform numbers in [0, 1) to a rectangle inside each image.

    Args:
      uniforms: random numbers, as a numpy or JAX array.
      areas: least and greatest area, as fractions of the image's; areas are uniform between them.
      ratio: greatest ratio of width to height, and of height to width. Ratios are log-uniform
        among those at which the rectangle fits into the image.
    """
    xp = uniforms.__array_namespace__()
    least, greatest = areas
    log_area = xp.log(least + (greatest - least) * uniforms[:, 0])
    log_ratio = (2 * uniforms[:, 1] - 1) * xp.minimum(math.log(ratio), -log_area)
    height, width = (xp.exp((log_area + sign * log_ratio) / 2) for sign in (-1, 1))
    return Boxes(uniforms[:, 2] * (1 - height), uniforms[:, 3] * (1 - width), height, width)


def erase(
    images: UInt8[Any, "batch height width channels"],
    uniforms: Float[Any, "batch 6"],
    probability: float,
) -> UInt8[Any, "batch height width channels"]:
    """Erases a random rectangle in some of the images.

    Zhong et al., "Random Erasing Data Augmentation", AAAI 2020. The rectangle is filled with one
    random grey level, not with noise, which would need a random number per pixel.

    Args:
      images: numpy or JAX array; the result is of the same kind.
      uniforms: random numbers in [0, 1), as an array of the same kind.
      probability: probability that an image is changed.
    """
    xp = images.__array_namespace__()
    _, height, width, _ = images.shape
    box = draw_boxes(uniforms[:, 2:], areas=ERASED_AREAS, ratio=ERASED_RATIO)

    def inside(size: int, start: Float[Any, " batch"], extent: Float[Any, " batch"]) -> Any:
        centres = (xp.arange(size, dtype=xp.float32) + 0.5) / size
        return (start[:, None] <= centres) & (centres < (start + extent)[:, None])

    rows, columns = inside(height, box.top, box.height), inside(width, box.left, box.width)
    chosen = uniforms[:, 0] < probability
    erased = chosen[:, None, None] & rows[:, :, None] & columns[:, None, :]
    grey = (256 * uniforms[:, 1]).astype(xp.uint8)
    return xp.where(erased[..., None], grey[:, None, None, None], images)


def draw_matrices(
    uniforms: Float[Any, "batch draws"],
    augmentation: Augmentation,
    kind: Kind | None = None,
    *,
    height: int,
    width: int,
) -> Int[Any, "batch 2 3"]:
    """Converts uniform numbers in [0, 1) to a matrix for `resample` for each image.

    Rotation, shift, shear, zoom and flip are composed in Keras's order (`apply_affine_transform`
    of its `ImageDataGenerator`), about the centre of the image, or of the crop if there is one.
    """
    xp = uniforms.__array_namespace__()
    signed = 2 * uniforms - 1
    down, right = (
        signed[:, 0] * (augmentation.shift * height),
        signed[:, 1] * (augmentation.shift * width),
    )
    zoom_down, zoom_right = (1 + augmentation.zoom * signed[:, k] for k in (5, 6))
    zoom_right = xp.where((uniforms[:, 2] < 0.5) & augmentation.flip, -zoom_right, zoom_right)
    turn = xp.radians(augmentation.rotation * signed[:, 3])
    lean = turn + xp.radians(augmentation.shear * signed[:, 4])

    sine, cosine = xp.sin(turn), xp.cos(turn)
    y, x = (height - 1) / 2, (width - 1) / 2
    rows = [
        (zoom_down * xp.cos(lean), zoom_right * sine, y + cosine * down + sine * right),
        (-zoom_down * xp.sin(lean), zoom_right * cosine, x + cosine * right - sine * down),
    ]
    if (kind or augmentation.kind).crops:
        box = draw_boxes(uniforms[:, 7:11], areas=(augmentation.crop, 1.0), ratio=CROP_RATIO)
        # The centre of a crop's first pixel lies half a pixel of the crop inside the crop.
        starts = (
            height * box.top + (box.height - 1) / 2,
            width * box.left + (box.width - 1) / 2,
        )
        rows = [
            (scale * by_row, scale * by_column, scale * offset + start)
            for (by_row, by_column, offset), scale, start in zip(
                rows, (box.height, box.width), starts, strict=True
            )
        ]
    entries = []
    for by_row, by_column, offset in rows:
        entries += [by_row, by_column, offset - by_row * y - by_column * x]
    fixed_point = xp.round(2**FRACTION_BITS * xp.stack(entries, axis=1))
    return fixed_point.astype(xp.int32).reshape(-1, 2, 3)


def resample(
    images: UInt8[Any, "batch height width channels"], matrices: Int[Any, "batch 2 3"]
) -> UInt8[Any, "batch height width channels"]:
    """Resamples each image bilinearly; pixels beyond the edge repeat the edge.

    The arithmetic is integer, so that every backend gives the same pixels.

    Args:
      images: numpy or JAX array; the result is of the same kind.
      matrices: int32 array of the same kind. Each matrix maps (row, column, 1) of the result to a
        row and column of the image, in units of 1 / 2**FRACTION_BITS pixel.
    """
    xp = images.__array_namespace__()
    batch, height, width, channels = images.shape
    one, entries = 2**FRACTION_BITS, matrices[..., None, None]
    rows, columns = xp.arange(height, dtype=xp.int32)[:, None], xp.arange(width, dtype=xp.int32)
    row, column = (
        xp.clip(by_row * rows + by_column * columns + offset, 0, (size - 1) * one)
        for (by_row, by_column, offset), size in zip(
            xp.moveaxis(entries, 0, 2), (height, width), strict=True
        )
    )
    down, right = (row & (one - 1))[..., None], (column & (one - 1))[..., None]
    # One more row and column give every pixel a neighbour below and to the right.
    padded = xp.pad(images, ((0, 0), (0, 1), (0, 1), (0, 0)), mode="edge")
    pixels = padded.reshape(-1, channels)
    stride = width + 1
    image = xp.arange(batch, dtype=xp.int32)[:, None, None] * (height + 1)
    at = (image + (row >> FRACTION_BITS)) * stride + (column >> FRACTION_BITS)

    def mix_columns(
        at: Int[Any, "batch height width"],
    ) -> Int[Any, "batch height width channels"]:
        pixel = xp.take(pixels, at, axis=0).astype(xp.int32)
        return one * pixel + right * (xp.take(pixels, at + 1, axis=0) - pixel)

    upper, lower = mix_columns(at), mix_columns(at + stride)
    mixed = one * upper + down * (lower - upper)
    return ((mixed + one**2 // 2) >> 2 * FRACTION_BITS).astype(xp.uint8)
