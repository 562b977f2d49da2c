"""Copies among images: exact and near ones, mirrored and shifted ones.

Two images are copies if, in one of these positions, the mean squared difference where they overlap
is below `MOST_DIFFERENCE`. A perceptual hash finds the candidates: the low frequencies of the
discrete cosine transform (as in pHash: Zauner, "Implementation and Benchmarking of Perceptual Image
Hash Functions", 2010). They are kept as numbers instead of bits. The transform is orthonormal, so
the squared difference of two hashes is at most that of the pixels, and no copy is missed.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8
from scipy.fft import dct
from threadpoolctl import threadpool_limits

MOST_DIFFERENCE = 40.0
"""Mean squared difference in grey levels² below which two images are copies."""

_FREQUENCIES = 8  # in each direction
_LARGEST_SHIFT = 1 / 12  # of height and width: 4 of 48 pixels
_QUERIES, _CHECKED = 512, 2048  # images compared at a time; they bound the memory
_ROUNDING = 1.01  # Squared differences of float32 hashes are exact to far less than 1 %.

Images = UInt8[np.ndarray, "n h w"]


class Position(NamedTuple):
    """Where the second of two copies lies on the first, in pixels; it is mirrored before."""

    mirrored: bool = False
    down: int = 0
    right: int = 0

    @property
    def inverse(self) -> "Position":
        """Where the first image lies on the second; mirroring turns the way to the right round."""
        return Position(self.mirrored, -self.down, self.right if self.mirrored else -self.right)

    def __str__(self) -> str:
        words = ["mirrored"] if self.mirrored else []
        if self.down or self.right:
            words.append(f"shifted by {self.right:+d} {self.down:+d}")
        return " ".join(words)


class Copy(NamedTuple):
    """Two images that are copies of each other."""

    first: int
    second: int
    distance: float  # grey levels²
    position: Position


def find_copies(
    images: Images, progress: Callable[[list[Position]], Iterator[Position]] = iter
) -> list[Copy]:
    """Returns every pair of copies among different images, each once.

    A pair that are copies in several positions has the plainest of them: in place, else mirrored,
    else the shift with the least difference.

    Args:
      images: grey images without two that are the same. Uniform images are copies of every other
        image of about their level, so leave them out.
      progress: wraps the list of positions, such as a progress bar.
    """
    if len(images) < 2:
        return []
    down, right = (round(_LARGEST_SHIFT * side) for side in images.shape[1:])
    best: dict[tuple[int, int], tuple[int, Copy]] = {}
    # Several products at a time are faster than several threads for each.
    with threadpool_limits(1), ThreadPoolExecutor(os.cpu_count()) as pool:
        hashes = _Hashes(images, down, right, pool)
        for position in progress(_positions(down, right)):
            rank = position.mirrored + 2 * bool(position.down or position.right)
            for copy in _copies(images, hashes, position):
                known = best.get(copy[:2])
                if known is None or (rank, copy.distance) < (known[0], known[1].distance):
                    best[copy[:2]] = rank, copy
    return [copy for _, copy in best.values()]


def _copies(images: Images, hashes: "_Hashes", position: Position) -> Iterator[Copy]:
    """Yields the copies in a position."""
    most = MOST_DIFFERENCE * _overlap(images.shape[1:], position)
    for one, other in hashes.near(position, most * _ROUNDING):
        differences = _differences(images, one, other, position)
        found = differences < MOST_DIFFERENCE
        columns = one[found].tolist(), other[found].tolist(), differences[found].tolist()
        for first, second, distance in zip(*columns, strict=True):
            if first < second:
                yield Copy(first, second, distance, position)
            else:
                yield Copy(second, first, distance, position.inverse)


def _positions(down: int, right: int) -> list[Position]:
    """Returns half of all positions; the others swap the two images.

    Those that move an image equally far to the right follow each other, for `_Hashes`.
    """
    shifts = [(y, x) for x in range(-right, right + 1) for y in range(down + 1)]
    plain = [Position(False, y, x) for y, x in shifts if y or x >= 0]
    return [*plain, *(Position(True, y, x) for y, x in shifts)]


def _overlap(shape: tuple[int, ...], position: Position) -> int:
    height, width = shape
    return (height - abs(position.down)) * (width - abs(position.right))


class _Hashes:
    """The hashes of the images' centres, and of windows of that size at other places.

    The window of an image at a shift is compared with the centre of another. Mirroring an image
    changes the sign of every second frequency.
    """

    def __init__(self, images: Images, down: int, right: int, pool: ThreadPoolExecutor):
        height, width = images.shape[1:]
        self._rows, self._columns = (_basis(height, down), _basis(width, right))
        self._margin = down, right
        self._images = images
        self._pool = pool
        self._stripes: tuple[int, np.ndarray] | None = None
        centres = self._at(0, 0)
        self._order = np.argsort(centres[:, 0])
        self._centres = centres[self._order]
        signs = np.where(np.arange(_FREQUENCIES) % 2, -1, 1).astype(np.float32)
        self._signs = np.tile(signs[: len(self._columns[0])], len(self._rows[0]))

    def near(
        self, position: Position, most: float
    ) -> Iterator[tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"]]]:
        """Yields images whose centres have a hash near that of other images' windows.

        Args:
          position: where the other image lies; the window moves the other way.
          most: largest squared difference of the hashes.
        """
        mirrored, down, right = position
        windows = self._at(-down, right if mirrored else -right)
        windows = windows * self._signs if mirrored else windows
        order = np.argsort(windows[:, 0])
        windows, level, reach = windows[order], self._centres[:, 0], np.sqrt(most)

        def search(start: int) -> tuple[np.ndarray, np.ndarray]:
            asked = windows[start : start + _QUERIES]
            low = np.searchsorted(level, asked[0, 0] - reach)
            high = np.searchsorted(level, asked[-1, 0] + reach)
            squared = _squared_distances(asked, self._centres[low:high])
            k, centre = np.divmod(np.flatnonzero(squared < most), high - low)
            return self._order[low + centre], order[start + k]

        for one, other in self._pool.map(search, range(0, len(windows), _QUERIES)):
            # In place, each pair is found twice; no image is a copy of itself.
            wanted = one < other if position == Position() else one != other
            one, other = one[wanted], other[wanted]
            for begin in range(0, len(one), _CHECKED):
                part = slice(begin, begin + _CHECKED)
                yield one[part], other[part]

    def _at(self, down: int, right: int) -> Float[np.ndarray, "n hash"]:
        """Returns the hash of each image's window at a shift from its centre."""
        if self._stripes is None or self._stripes[0] != right:
            columns = self._columns[self._margin[1] + right].T
            chunks = np.array_split(self._images, max(1, len(self._images) // 4096))
            self._stripes = (
                right,
                np.concatenate([chunk.astype("f4") @ columns for chunk in chunks]),
            )
        rows = self._rows[self._margin[0] + down]
        return (rows @ self._stripes[1]).reshape(len(self._images), -1)


def _squared_distances(
    ones: Float[np.ndarray, "k hash"], others: Float[np.ndarray, "l hash"]
) -> Float[np.ndarray, "k l"]:
    """Returns |a|² - 2ab + |b|² as one product of matrices."""
    norms = [np.square(part).sum(axis=1, keepdims=True) for part in (ones, others)]
    left = np.hstack([-2 * ones, norms[0], np.ones_like(norms[0])])
    right = np.hstack([others, np.ones_like(norms[1]), norms[1]])
    return left @ right.T


def _basis(side: int, margin: int) -> list[Float[np.ndarray, "frequencies side"]]:
    """Returns the cosines of a window, for each of its places from -margin to margin."""
    window = side - 2 * margin
    cosines = dct(np.eye(window), axis=0, norm="ortho")[:_FREQUENCIES]
    pads = [(start, side - window - start) for start in range(2 * margin + 1)]
    return [np.pad(cosines, ((0, 0), pad)).astype(np.float32) for pad in pads]


def _differences(
    images: Images,
    one: Int[np.ndarray, " k"],
    other: Int[np.ndarray, " k"],
    position: Position,
) -> Float[np.ndarray, " k"]:
    """Returns the mean squared difference of each pair where the two overlap, in grey levels²."""
    mirrored, down, right = position
    below = images[other][:, :, ::-1] if mirrored else images[other]
    y, x = _slices(down), _slices(right)
    above = images[one][:, y[0], x[0]]
    return np.square(np.subtract(above, below[:, y[1], x[1]], dtype=np.float32)).mean(axis=(1, 2))


def _slices(shift: int) -> tuple[slice, slice]:
    """Returns where an image, and a second one shifted on it, overlap: in the first, the second."""
    front, back = slice(max(shift, 0), min(shift, 0) or None), max(-shift, 0)
    return front, slice(back, -max(shift, 0) or None)
