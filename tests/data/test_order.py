import numpy as np
import pytest
from grain.experimental import index_shuffle

from fer_jax.data.order import shuffled


@pytest.mark.parametrize("length", [1, 2, 3, 300, 65_536, 70_000, 2**18])
@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1, 2**32 - 1])
def test_it_is_grains_shuffle(length, seed):
    order = shuffled(length, seed)
    some = np.unique(np.linspace(0, length - 1, 1_000).astype(int))
    expected = [index_shuffle(k, max_index=length - 1, seed=seed, rounds=4) for k in some.tolist()]
    np.testing.assert_array_equal(order[some], expected)
    np.testing.assert_array_equal(np.sort(order), np.arange(length))


@pytest.mark.parametrize("length", [2**16 + 1, 2**18 + 1])
def test_lengths_that_grain_takes_a_number_of_twice(length):
    np.testing.assert_array_equal(np.sort(shuffled(length, 3)), np.arange(length))
