"""The large CNN of a published write-up, augmented by rotation, shift, shear, zoom and flip.

python -m fer_jax.main --config=configs/published/large_cnn_augmented.py

Time: not measured.
Accuracy: not measured.
Published: 57.08 % training and 59.14 % validation accuracy over 100 epochs, with faces rotated by
up to 40 degrees, shifted and zoomed by up to 20 %, sheared and mirrored.
"""

from ml_collections import ConfigDict

from fer_jax.config import load_config


def get_config() -> ConfigDict:
    config = load_config("published/large_cnn")
    config.shift = 0.2
    config.flip = True
    config.rotation = 40.0
    config.shear = 11.5
    config.zoom = 0.2
    config.epochs = 100
    return config
