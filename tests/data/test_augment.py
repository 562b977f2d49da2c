import dataclasses

import jax
import numpy as np
import pytest
import scipy.ndimage
from keras.src.legacy.preprocessing.image import ImageDataGenerator

from configs import base
from fer_jax.data.augment import (
    FRACTION_BITS,
    Augmentation,
    augment,
    draw_matrices,
    draw_shifts,
    resample,
    shift_and_flip,
)

SHIFT_AND_FLIP = Augmentation(shift=0.1, flip=True)
ALL = Augmentation(shift=0.2, flip=True, rotation=40.0, shear=20.0, zoom=0.2)
SIZE = {"height": 48, "width": 40}


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (32, 48, 40, 1), dtype=np.uint8)


@pytest.fixture
def uniforms() -> np.ndarray:
    return np.random.default_rng(1).random((32, ALL.draws), np.float32)


def test_numpy_and_jax_shift_and_flip_alike(images, uniforms):
    by_numpy = augment(images, uniforms, SHIFT_AND_FLIP)
    by_jax = jax.jit(augment, static_argnums=2)(images, uniforms, SHIFT_AND_FLIP)
    assert isinstance(by_numpy, np.ndarray)
    assert by_numpy.dtype == by_jax.dtype == np.uint8
    np.testing.assert_array_equal(by_numpy, by_jax)


def test_numpy_and_jax_resample_alike(images, uniforms):
    matrices = draw_matrices(uniforms, ALL, **SIZE)
    by_numpy, by_jax = resample(images, matrices), jax.jit(resample)(images, matrices)
    assert isinstance(by_numpy, np.ndarray)
    assert by_numpy.dtype == by_jax.dtype == np.uint8
    np.testing.assert_array_equal(by_numpy, by_jax)

    # Sine and cosine may differ in their last bit, and with it a rounded entry by one unit.
    drawn = jax.jit(lambda uniforms: draw_matrices(uniforms, ALL, **SIZE))(uniforms)
    np.testing.assert_allclose(matrices, drawn, atol=1)


def test_equals_scipys_shift_with_nearest_fill(images, uniforms):
    shifts = draw_shifts(uniforms, SHIFT_AND_FLIP, **SIZE)
    assert len(set(shifts.down.tolist())) > 5
    result = shift_and_flip(images, shifts)
    np.testing.assert_array_equal(result, augment(images, uniforms, SHIFT_AND_FLIP))
    for k, image in enumerate(images):
        expected = image[:, ::-1] if shifts.mirrored[k] else image
        offset = (shifts.down[k], shifts.right[k], 0)
        expected = scipy.ndimage.shift(expected, offset, order=0, mode="nearest")
        np.testing.assert_array_equal(result[k], expected)


def test_equals_scipys_affine_map_with_nearest_fill(images, uniforms):
    matrices = draw_matrices(uniforms, ALL, **SIZE)
    result = augment(images, uniforms, ALL)
    for image, matrix, ours in zip(images, matrices / 2**FRACTION_BITS, result, strict=True):
        expected = scipy.ndimage.affine_transform(
            image[..., 0].astype(np.float64), matrix, order=1, mode="nearest"
        )
        # The nearest whole number, so half a level away at most.
        assert np.abs(ours[..., 0] - expected).max() <= 0.5 + 1e-9


@pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")
@pytest.mark.parametrize("name", ["shift", "rotation", "shear", "zoom", "all"])
def test_means_what_keras_means(name, uniforms):
    """Keras's own transformation, of smooth images: our places are rounded, by 0.02 pixels."""
    noise = np.random.default_rng(2).normal(size=(32, 48, 48, 1))
    smooth = scipy.ndimage.gaussian_filter(noise, (0, 4, 4, 0))
    images = np.interp(smooth, (smooth.min(), smooth.max()), (0, 255)).astype(np.uint8)
    if name == "all":
        asked = ALL
    else:
        # Some rotation, or shifts were whole pixels.
        asked = Augmentation(rotation=10.0)
        asked = dataclasses.replace(asked, **{name: getattr(ALL, name)})
    result = augment(images, uniforms, asked)
    generator = ImageDataGenerator(fill_mode="nearest", data_format="channels_last")
    for image, ours, numbers in zip(images, result, uniforms, strict=True):
        down, right, _, rotation, shear, zoom_down, zoom_right = 2.0 * numbers - 1
        expected = generator.apply_transform(
            image.astype(np.float64),
            {
                "ty": 48 * asked.shift * down,
                "tx": 48 * asked.shift * right,
                "theta": asked.rotation * rotation,
                "shear": asked.shear * shear,
                "zy": 1 + asked.zoom * zoom_down,
                "zx": 1 + asked.zoom * zoom_right,
                "flip_horizontal": asked.flip and numbers[2] < 0.5,
            },
        )
        assert np.abs(ours - expected).max() < 1


def test_shifts_cover_the_range_and_half_are_mirrored():
    uniforms = np.random.default_rng(2).random((20_000, SHIFT_AND_FLIP.draws), np.float32)
    shifts = draw_shifts(uniforms, SHIFT_AND_FLIP, **SIZE)
    assert (shifts.down.min(), shifts.down.max()) == (-5, 5)  # 0.1 * 48, rounded
    assert (shifts.right.min(), shifts.right.max()) == (-4, 4)
    assert abs(shifts.mirrored.mean() - 0.5) < 0.02
    assert abs(np.corrcoef(shifts.down, shifts.right)[0, 1]) < 0.03


def test_nothing_asked_for_changes_nothing(images, uniforms):
    np.testing.assert_array_equal(augment(images, uniforms, Augmentation()), images)
    middle = np.full_like(uniforms, 0.5)
    np.testing.assert_array_equal(augment(images, middle, ALL), images)


def test_is_read_from_a_config():
    assert Augmentation.from_config(base.get_config()) == Augmentation(shift=0.1, flip=True)
