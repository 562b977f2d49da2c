"""Pictures that show no face by their grey levels alone: blank ones, and signs and texts."""

import numpy as np
from jaxtyping import Bool, Float, UInt8

Images = UInt8[np.ndarray, "n h w"]

BLANK_VARIANCE = 40.0
"""Variance in grey levels² below which an image is blank: it is nearer to a uniform image than
copies are to each other."""

TEXT_SCORE = 1.25
"""Score of `text_scores` from which an image is a text or a sign. It is set by FER-2013: above it
are its notices and warning signs, and no photograph."""

_NEAR = 4  # Grey levels that still count as the same: noise of JPEG.
_CHUNK = 2048


def variances(images: Images) -> Float[np.ndarray, " n"]:
    """Returns the variance of each image, in grey levels²."""
    chunks = np.array_split(images, max(1, len(images) // _CHUNK))
    return np.concatenate([chunk.var(axis=(1, 2)) for chunk in chunks])


def text_scores(images: Images) -> Float[np.ndarray, " n"]:
    """Returns how much each image looks printed, from 0 to 2.

    It is the sum of two shares of the pixels: those of the two most frequent tones, and those that
    equal their eight neighbours. Both allow for a few levels of noise. Print has two tones and flat
    areas. Photographs on a plain background have one or the other, and drawings few flat areas.
    """
    chunks = np.array_split(images, max(1, len(images) // _CHUNK))
    return np.concatenate([_two_tones(chunk) + _flat(chunk).mean(axis=(1, 2)) for chunk in chunks])


def _two_tones(images: Images) -> Float[np.ndarray, " n"]:
    """Returns the share of the pixels near one of the two most frequent grey levels."""
    n, pixels = len(images), images[0].size
    levels = images.reshape(n, -1) + 256 * np.arange(n)[:, None]
    counts = np.bincount(levels.ravel(), minlength=256 * n).reshape(n, 256)
    first = _near(counts)
    tone = first.argmax(axis=1)
    far = np.abs(np.arange(256) - tone[:, None]) > _NEAR
    return (first.max(axis=1) + _near(counts * far).max(axis=1)) / pixels


def _near(counts: np.ndarray) -> np.ndarray:
    """Returns the number of pixels near each level."""
    sums = np.pad(counts, ((0, 0), (_NEAR + 1, _NEAR))).cumsum(axis=1)
    width = 2 * _NEAR + 1
    return sums[:, width:] - sums[:, :-width]


def _flat(images: Images) -> Bool[np.ndarray, "n h w"]:
    """Returns which pixels lie in a square of 3x3 whose levels are near each other."""
    height, width = images.shape[1:]
    framed = np.pad(images, ((0, 0), (1, 1), (1, 1)), mode="edge")
    around = [framed[:, y : y + height, x : x + width] for y in range(3) for x in range(3)]
    return np.maximum.reduce(around) - np.minimum.reduce(around) <= _NEAR
