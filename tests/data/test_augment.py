import dataclasses
import math
import zlib

import jax
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
from keras.src.legacy.preprocessing.image import ImageDataGenerator
from PIL import Image

from fer_jax.config import default_config
from fer_jax.data.augment import (
    CROP_RATIO,
    ERASED_AREAS,
    ERASED_RATIO,
    FRACTION_BITS,
    Augmentation,
    augment,
    draw_boxes,
    draw_matrices,
    draw_shifts,
    erase,
    resample,
    shift_and_flip,
)

SHIFT_AND_FLIP = Augmentation(shift=0.1, flip=True)
ALL = Augmentation(shift=0.2, flip=True, rotation=40.0, shear=20.0, zoom=0.2)
CROPPED = dataclasses.replace(ALL, crop=0.6)
ERASED = dataclasses.replace(CROPPED, erasing=0.5)
SIZE = {"height": 48, "width": 40}


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (32, 48, 40, 1), dtype=np.uint8)


@pytest.fixture
def uniforms() -> np.ndarray:
    return np.random.default_rng(1).random((32, ERASED.draws), np.float32)


@pytest.fixture
def smooth() -> np.ndarray:
    """UInt8[32, 48, 48, 1], so smooth that a shift by 0.02 pixels changes less than one level."""
    noise = np.random.default_rng(2).normal(size=(32, 48, 48, 1))
    images = scipy.ndimage.gaussian_filter(noise, (0, 4, 4, 0))
    return np.interp(images, (images.min(), images.max()), (0, 255)).astype(np.uint8)


@pytest.mark.parametrize("erasing", [0.0, 0.5])
def test_numpy_and_jax_shift_flip_and_erase_alike(erasing, images, uniforms):
    asked = dataclasses.replace(SHIFT_AND_FLIP, erasing=erasing)
    by_numpy = augment(images, uniforms, asked)
    by_jax = jax.jit(augment, static_argnums=2)(images, uniforms, asked)
    assert isinstance(by_numpy, np.ndarray)
    assert by_numpy.dtype == by_jax.dtype == np.uint8
    np.testing.assert_array_equal(by_numpy, by_jax)


def test_numpy_and_jax_resample_alike(images, uniforms):
    matrices = draw_matrices(uniforms, CROPPED, **SIZE)
    by_numpy, by_jax = resample(images, matrices), jax.jit(resample)(images, matrices)
    assert isinstance(by_numpy, np.ndarray)
    assert by_numpy.dtype == by_jax.dtype == np.uint8
    np.testing.assert_array_equal(by_numpy, by_jax)

    # Sine and cosine may differ in the last bit, so a rounded entry may differ by one unit.
    drawn = jax.jit(lambda uniforms: draw_matrices(uniforms, CROPPED, **SIZE))(uniforms)
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
        # The result is rounded, so it is at most half a level away.
        assert np.abs(ours[..., 0] - expected).max() <= 0.5 + 1e-9


@pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")
@pytest.mark.parametrize("name", ["shift", "rotation", "shear", "zoom", "all"])
def test_equals_keras_image_data_generator(name, smooth, uniforms):
    if name == "all":
        asked = ALL
    else:
        # Without a rotation, shifts are by whole pixels.
        asked = Augmentation(rotation=10.0)
        asked = dataclasses.replace(asked, **{name: getattr(ALL, name)})
    result = augment(smooth, uniforms, asked)
    generator = ImageDataGenerator(fill_mode="nearest", data_format="channels_last")
    for image, ours, numbers in zip(smooth, result, uniforms, strict=True):
        down, right, _, rotation, shear, zoom_down, zoom_right = 2.0 * numbers[:7] - 1
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


def test_crops_equal_pil(smooth, uniforms):
    result = augment(smooth, uniforms, Augmentation(crop=0.3))
    boxes = draw_boxes(uniforms[:, 7:], areas=(0.3, 1.0), ratio=CROP_RATIO)
    for image, ours, top, left, height, width in zip(smooth, result, *boxes, strict=True):
        box = 48 * np.array([left, top, left + width, top + height], np.float64)
        whole = Image.fromarray(image[..., 0].astype(np.float32))
        expected = whole.resize((48, 48), Image.Resampling.BILINEAR, box=box.clip(0, 48).tolist())
        assert np.abs(ours[..., 0] - np.asarray(expected)).max() < 1
    assert np.abs(result.astype(int) - smooth).max() > 50


def test_the_crop_comes_before_the_other_changes(uniforms):
    """The matrices multiply, within a tolerance, because rounding a scale changes offsets."""
    one = 2**FRACTION_BITS
    cropped, rest, both = (
        np.concatenate([draw_matrices(uniforms, asked, **SIZE), [[[0, 0, one]]] * 32], axis=1) / one
        for asked in (Augmentation(crop=0.6), ALL, CROPPED)
    )
    np.testing.assert_allclose(both, cropped @ rest, atol=30 / one)


@pytest.mark.parametrize(
    ("areas", "ratio"), [((0.6, 1.0), CROP_RATIO), (ERASED_AREAS, ERASED_RATIO)]
)
def test_boxes_lie_inside_and_are_spread_evenly(areas, ratio):
    uniforms = np.random.default_rng(3).random((20_000, 4), np.float32)
    box = draw_boxes(uniforms, areas=areas, ratio=ratio)
    for start, extent in ((box.top, box.height), (box.left, box.width)):
        assert start.min() >= 0
        assert (start + extent).max() <= 1 + 1e-6
        assert scipy.stats.kstest(start / (1 - extent), "uniform").pvalue > 0.01
    area, log_ratio = box.height * box.width, np.log(box.width / box.height)
    share = (area - areas[0]) / (areas[1] - areas[0])
    assert scipy.stats.kstest(share, "uniform").pvalue > 0.01
    # The largest ratio at which a rectangle of this area fits is 1 / area.
    most = np.minimum(math.log(ratio), -np.log(area))
    assert (most < math.log(ratio)).any()
    assert scipy.stats.kstest((log_ratio / most + 1) / 2, "uniform").pvalue > 0.01


def test_erases_one_rectangle_in_some_images_and_nothing_else():
    rng = np.random.default_rng(4)
    images = rng.integers(0, 256, (4_000, 48, 40, 1), dtype=np.uint8)
    uniforms = rng.random((4_000, 6), np.float32)
    result = erase(images, uniforms, 0.3)
    # Erased pixels are those that do not depend on the input.
    erased = (erase(255 - images, uniforms, 0.3) == result)[..., 0]
    np.testing.assert_array_equal(result[~erased], images[~erased])
    rows, columns = erased.any(axis=2), erased.any(axis=1)
    np.testing.assert_array_equal(erased, rows[:, :, None] & columns[:, None, :])
    for lines in (rows, columns):
        ends = np.diff(np.pad(lines, ((0, 0), (1, 1))), axis=1)
        assert ends.sum(axis=1).max() == 2

    chosen = erased.any(axis=(1, 2))
    assert abs(chosen.mean() - 0.3) < 0.02
    box = draw_boxes(uniforms[chosen, 2:], areas=ERASED_AREAS, ratio=ERASED_RATIO)
    assert np.abs(rows[chosen].sum(axis=1) - 48 * box.height).max() < 1
    assert np.abs(columns[chosen].sum(axis=1) - 40 * box.width).max() < 1
    assert np.abs(rows[chosen].argmax(axis=1) - 48 * box.top).max() < 1
    assert abs(erased[chosen].mean() - np.mean(ERASED_AREAS)) < 0.01

    levels = [result[k][erased[k]] for k in np.flatnonzero(chosen)]
    assert all((level == level[0]).all() for level in levels)
    assert scipy.stats.kstest([level[0, 0] / 256 for level in levels], "uniform").pvalue > 0.01


@pytest.mark.parametrize("asked", [SHIFT_AND_FLIP, ALL, CROPPED], ids=str)
def test_erasing_comes_last_with_random_numbers_of_its_own(asked, images, uniforms):
    erasing = dataclasses.replace(asked, erasing=0.5)
    assert erasing.draws == asked.draws + 6
    expected = erase(augment(images, uniforms, asked), uniforms[:, asked.draws :][:, :6], 0.5)
    result = augment(images, uniforms[:, : erasing.draws], erasing)
    np.testing.assert_array_equal(result, expected)


def test_runs_without_crop_and_erasing_get_the_same_batches_as_ever(images, uniforms):
    """The expected values are from before crop and erasing existed."""
    assert (SHIFT_AND_FLIP.draws, ALL.draws) == (3, 7)
    assert zlib.crc32(augment(images, uniforms[:, :3], SHIFT_AND_FLIP)) == 1766413936
    matrices = draw_matrices(uniforms[:2, :7], ALL, **SIZE)
    expected = [
        [[1676, 1360, -18408], [-526, 1870, 16769]],
        [[1797, -1016, 20783], [-1475, -1814, 97184]],
    ]
    np.testing.assert_allclose(matrices, expected, atol=1)


def test_shifts_cover_the_range_and_half_are_mirrored():
    uniforms = np.random.default_rng(2).random((20_000, SHIFT_AND_FLIP.draws), np.float32)
    shifts = draw_shifts(uniforms, SHIFT_AND_FLIP, **SIZE)
    assert (shifts.down.min(), shifts.down.max()) == (-5, 5)  # 0.1 * 48, rounded
    assert (shifts.right.min(), shifts.right.max()) == (-4, 4)
    assert abs(shifts.mirrored.mean() - 0.5) < 0.02
    assert abs(np.corrcoef(shifts.down, shifts.right)[0, 1]) < 0.03


def test_no_augmentation_changes_nothing(images, uniforms):
    np.testing.assert_array_equal(augment(images, uniforms, Augmentation()), images)
    middle = np.full_like(uniforms[:, : ALL.draws], 0.5)
    np.testing.assert_array_equal(augment(images, middle, ALL), images)


def test_is_read_from_a_config():
    assert Augmentation.from_config(default_config()) == Augmentation(shift=0.1, flip=True)
