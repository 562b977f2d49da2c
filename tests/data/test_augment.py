import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from fer_jax.data import augment


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (32, 48, 40, 1), dtype=np.uint8)


@pytest.fixture
def uniforms() -> np.ndarray:
    return np.random.default_rng(1).random((32, augment.DRAWS), np.float32)


def draw(uniforms, **changes):
    return augment.draw_parameters(
        uniforms, **{"height": 48, "width": 40, "shift": 0.1, "flip": True, **changes}
    )


def test_numpy_and_jax_give_the_same_pixels(images, uniforms):
    by_numpy = augment.shift_and_flip(images, draw(uniforms))

    @jax.jit
    def by_jax(images, uniforms):
        return augment.shift_and_flip(images, draw(uniforms))

    result = by_jax(images, uniforms)
    assert isinstance(result, jax.Array)
    assert isinstance(by_numpy, np.ndarray)
    assert by_numpy.dtype == result.dtype == np.uint8
    np.testing.assert_array_equal(by_numpy, result)


def test_equals_scipys_shift_with_nearest_fill(images, uniforms):
    parameters = draw(uniforms)
    assert len(set(parameters.down.tolist())) > 5
    for k, image in enumerate(images):
        expected = image[:, ::-1] if parameters.mirrored[k] else image
        offset = (parameters.down[k], parameters.right[k], 0)
        expected = scipy.ndimage.shift(expected, offset, order=0, mode="nearest")
        result = augment.shift_and_flip(images, parameters)[k]
        np.testing.assert_array_equal(result, expected)


def test_draws_cover_the_range_and_half_are_mirrored():
    uniforms = np.random.default_rng(2).random((20_000, augment.DRAWS), np.float32)
    parameters = draw(uniforms)
    assert (parameters.down.min(), parameters.down.max()) == (-5, 5)  # 0.1 * 48, rounded
    assert (parameters.right.min(), parameters.right.max()) == (-4, 4)
    assert abs(parameters.mirrored.mean() - 0.5) < 0.02
    assert abs(np.corrcoef(parameters.down, parameters.right)[0, 1]) < 0.03


def test_nothing_asked_for_changes_nothing(images, uniforms):
    parameters = draw(jnp.asarray(uniforms), shift=0.0, flip=False)
    np.testing.assert_array_equal(augment.shift_and_flip(jnp.asarray(images), parameters), images)
