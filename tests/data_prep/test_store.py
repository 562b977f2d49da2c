import io

import numpy as np
import pytest
from PIL import Image

from data_prep.store import to_png


@pytest.mark.parametrize("shape", [(48, 48), (48, 48, 3), (5, 7), (1, 1, 3), (224, 224)], ids=str)
def test_images_are_kept_without_loss(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    image = Image.open(io.BytesIO(to_png(Image.fromarray(pixels))))
    assert image.format == "PNG"
    np.testing.assert_array_equal(np.asarray(image), pixels)
