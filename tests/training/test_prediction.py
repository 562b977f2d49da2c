"""Any number of images goes through a compiled function in batches of few sizes."""

import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.data.records import Records
from fer_jax.training.prediction import predict_records


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
