"""The pixel conversion that the data and the predictor share."""

import numpy as np
from PIL import Image

from data_prep.images import decode
from fer_jax.data.contract import to_eight_bits
from fer_jax.inference.pictures import open_picture


def test_sixteen_bits_are_scaled_to_eight_alike_everywhere(tmp_path):
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = [[round(level / 257) for level in row] for row in levels.tolist()]
    np.testing.assert_array_equal(to_eight_bits(levels), expected)
    path = tmp_path / "all.png"
    Image.fromarray(levels).save(path)
    np.testing.assert_array_equal(decode(path.read_bytes()), expected)
    np.testing.assert_array_equal(open_picture(path), expected)
