"""The large CNN of a published write-up, augmented by shift and flip.

python -m fer_jax.main --config=configs/published/large_cnn_shift_flip.py

Time: not measured.
Accuracy: not measured.
Published: 66.79 % training and 61.59 % validation accuracy over 40 epochs, with faces shifted by up
to 10 % both ways and mirrored.
"""

from ml_collections import ConfigDict

from fer_jax.config import load_config


def get_config() -> ConfigDict:
    config = load_config("published/large_cnn")
    config.shift = 0.1
    config.flip = True
    config.epochs = 40
    return config
