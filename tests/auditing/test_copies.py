"""The search for copies, against a search through every pair in every position."""

import itertools

import numpy as np
from scipy.ndimage import gaussian_filter

from fer_jax.auditing.copies import MOST_DIFFERENCE, Position, find_copies


def brute_force(images: np.ndarray, down: int, right: int) -> dict[tuple[int, int], float]:
    """Returns the least mean squared difference of every pair of copies, over all positions."""
    height, width = images.shape[1:]
    found: dict[tuple[int, int], float] = {}
    for (one, a), (other, b) in itertools.combinations(enumerate(images.astype(float)), 2):
        for mirrored in (b, b[:, ::-1]):
            for y, x in itertools.product(range(-down, down + 1), range(-right, right + 1)):
                above = a[max(y, 0) : height + min(y, 0), max(x, 0) : width + min(x, 0)]
                below = mirrored[max(-y, 0) : height - max(y, 0), max(-x, 0) : width - max(x, 0)]
                difference = float(((above - below) ** 2).mean())
                if difference < MOST_DIFFERENCE:
                    found[one, other] = min(difference, found.get((one, other), np.inf))
    return found


def smooth(random: np.random.Generator, n: int, shape: tuple[int, int]) -> np.ndarray:
    """Returns images of blurred noise, whose differences lie around the limit as often as not."""
    noise = gaussian_filter(random.standard_normal((n, *shape)), (0, 5, 5))
    return np.round(128 + 30 * noise / noise.std()).clip(0, 255).astype(np.uint8)


def test_every_copy_is_found_and_nothing_else():
    random = np.random.default_rng(0)
    whole = smooth(random, 12, (44, 56))
    images = [image[2:-2, 3:-3] for image in whole]  # 40x50: shifts of up to 3 and 4 pixels
    for image in whole[:9]:
        down, right = random.integers(-2, 3, 2)
        window = image[2 + down : 42 + down, 3 + right : 53 + right][:, :: random.choice([-1, 1])]
        noise = random.normal(0, random.uniform(0, 8), window.shape)
        images.append(np.round(window + noise).clip(0, 255).astype(np.uint8))
    images = np.stack(images)
    expected = brute_force(images, 3, 4)
    assert 4 <= len(expected) < 20
    found = find_copies(images)
    assert {(copy.first, copy.second) for copy in found} == expected.keys()
    for copy in found:
        # In place it is the difference there, which another position may beat.
        assert expected[copy.first, copy.second] <= copy.distance + 1e-3
        if copy.position.down or copy.position.right:
            assert np.isclose(copy.distance, expected[copy.first, copy.second], rtol=1e-5)


def test_the_position_is_that_of_the_second_image_on_the_first():
    (whole,) = smooth(np.random.default_rng(1), 1, (60, 60))
    first = whole[6:54, 6:54]
    for right, down in ((2, 1), (-3, 4), (0, -4), (4, 0)):
        # What is at (x, y) of the second image is at (x + right, y + down) of the first.
        second = whole[6 + down : 54 + down, 6 + right : 54 + right]
        (copy,) = find_copies(np.stack([first, second]))
        assert (copy.position, copy.distance) == (Position(False, down, right), 0)
        assert copy.position.inverse == Position(False, -down, -right)
        (copy,) = find_copies(np.stack([first, second[:, ::-1]]))
        assert (copy.position, copy.distance) == (Position(True, down, right), 0)
        assert copy.position.inverse == Position(True, -down, right)
        (copy,) = find_copies(np.stack([second[:, ::-1], first]))
        assert copy.position == Position(True, -down, right)
    assert str(Position(True, -4, 2)) == "mirrored shifted by +2 -4"
    assert not str(Position())


def test_one_image_or_none_has_no_copy():
    for n in (0, 1):
        assert find_copies(np.zeros((n, 48, 48), np.uint8)) == []
