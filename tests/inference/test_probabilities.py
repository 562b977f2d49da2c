"""Probabilities of several views; any number of images, in batches of few sizes."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from fer_jax.data.records import Records
from fer_jax.errors import UserError
from fer_jax.inference.probabilities import make_predict, predict_records
from fer_jax.models.functional import split


def mirror(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def crop(left: int, top: int, image: Image.Image) -> Image.Image:
    box = (left, top, left + 44, top + 44)
    return image.crop(box).resize((48, 48), Image.Resampling.BILINEAR)


@pytest.mark.parametrize("name", ["one", "flip", "ten_crop"])
def test_averages_the_probabilities_of_views_made_by_pil(name, build, batch, make_mesh):
    pictures = [Image.fromarray(image[..., 0].astype(np.float32)) for image in batch["image"]]
    corners = [(0, 0), (4, 0), (0, 4), (4, 4), (2, 2)]
    views = {
        "one": [pictures],
        "flip": [pictures, [mirror(picture) for picture in pictures]],
        "ten_crop": [
            [change(crop(*corner, picture)) for picture in pictures]
            for corner in corners
            for change in (Image.Image.copy, mirror)
        ],
    }[name]
    graph, params, statistics = split(build(rngs=nnx.Rngs(0)))
    # Larger than initial weights, which would give all views about the same probabilities.
    params["head"]["kernel"][...] *= 2
    model = nnx.merge(graph, params, statistics)
    model.eval()
    probabilities = [
        nnx.softmax(model(np.stack([np.asarray(picture) for picture in view])[..., None] / 255))
        for view in views
    ]
    result = make_predict(graph, make_mesh(2), name)(params, statistics, batch["image"])
    np.testing.assert_allclose(result, np.mean(probabilities, axis=0), atol=1e-5)
    assert all(np.abs(result - each).max() > 0.01 for each in probabilities[1:])


def test_no_such_views(build, make_mesh):
    graph, _, _ = split(build(rngs=nnx.Rngs(0)))
    with pytest.raises(UserError, match="'five_crop'; choose one of one, flip, ten_crop"):
        make_predict(graph, make_mesh(1), "five_crop")


@pytest.mark.parametrize(
    ("count", "batches"),
    [
        (1, [2]),
        (2, [2]),
        (3, [4]),
        (9, [16]),
        (17, [24]),
        (24, [24]),
        (25, [24, 24]),
        (50, [24] * 3),
    ],
)
def test_few_images_take_a_small_batch_and_many_full_ones(count, batches, make_mesh):
    images = np.arange(count * 4, dtype=np.uint8).reshape(count, 2, 2, 1)
    records = Records(np.zeros(count, np.int32), [""] * count, images.__getitem__)
    sizes = []

    def double(params, statistics, images):
        sizes.append(len(images))
        return jnp.int32(images) * 2, images[:, 0, 0, 0]

    doubled, corners = predict_records(
        double, None, None, records, batch_size=24, mesh=make_mesh(2)
    )
    assert sizes == batches
    np.testing.assert_array_equal(doubled, images.astype(int) * 2)
    np.testing.assert_array_equal(corners, images[:, 0, 0, 0])
