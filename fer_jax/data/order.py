"""The order in which a pass over the data takes its records: Grain's shuffle, a pass at a time.

Grain shuffles each number by itself, which takes as long as all else that an image in memory needs.
Here NumPy shuffles all numbers of a pass at once, in a small part of that time.
"""

import numpy as np
from jaxtyping import Int

_ROUNDS = 4


def shuffled(length: int, seed: int) -> Int[np.ndarray, " length"]:
    """Returns `grain.experimental.index_shuffle(k, length - 1, seed, rounds=4)` for every k.

    It enciphers the numbers with the block cipher Simon (Beaulieu et al., "The SIMON and SPECK
    Families of Lightweight Block Ciphers", 2013). Numbers that come out too large are enciphered
    again, until they are not (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002).

    Of 65,537 or 262,145 numbers Grain has one twice; here each comes once.

    Args:
      length: how many numbers there are.
      seed: any number below 2**32; each gives another order.
    """
    width = max(8, ((length - 1).bit_length() + 1) // 2)  # Bits of half a number.
    mask = np.uint64(2**width - 1)

    def mixed(half: np.ndarray) -> np.ndarray:
        by_1, by_8, by_2 = (half << np.uint64(k) | half >> np.uint64(width - k) for k in (1, 8, 2))
        return by_1 & by_8 ^ by_2

    numbers = np.arange(length, dtype=np.uint64)
    keys = [np.uint64(key) for key in _round_keys(seed, _ROUNDS)]
    places = np.arange(length if length > 1 else 0)
    while len(places):
        left, right = numbers[places] >> np.uint64(width), numbers[places] & mask
        for first, second in zip(keys[::2], keys[1::2], strict=True):
            left = (left ^ mixed(right) ^ first) & mask
            right = (right ^ mixed(left) ^ second) & mask
        numbers[places] = left << np.uint64(width) | right
        places = np.flatnonzero(numbers >= length)
    return numbers.astype(np.int64)


def _round_keys(seed: int, count: int) -> list[int]:
    """Returns the numbers that C++'s `std::seed_seq` makes of one seed, at most six of them."""
    state = [0x8B8B8B8B] * count
    gap = (count - 1) // 2
    near = (count - gap) // 2

    def stirred(number: int, factor: int) -> int:
        number %= 2**32
        return factor * (number ^ number >> 27) % 2**32

    for k in range(count):
        beside, beyond = (k + near) % count, (k + near + gap) % count
        first = stirred(state[k] ^ state[beside] ^ state[k - 1], 1664525)
        second = first + [1, 1 + seed, k][min(k, 2)]
        state[beside] = (state[beside] + first) % 2**32
        state[beyond] = (state[beyond] + second) % 2**32
        state[k] = second % 2**32
    for k in range(count):
        beside, beyond = (k + near) % count, (k + near + gap) % count
        first = stirred(state[k] + state[beside] + state[k - 1], 1566083941)
        second = (first - k) % 2**32
        state[beside] ^= first
        state[beyond] ^= second
        state[k] = second
    return state
