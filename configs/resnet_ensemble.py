"""Eight ResNet-18 of half the width, each of 2,796,263 trainable parameters, for a GPU or TPU.

python -m fer_jax.main --config=configs/resnet_ensemble.py

Time: not measured.
Accuracy: not measured.
"""

from ml_collections import ConfigDict

from fer_jax.config import load_config


def get_config() -> ConfigDict:
    config = load_config("resnet")
    config.ensemble = 8
    config.model.width = 32
    config.views = "ten_crop"
    config.steps_per_epoch = 16 * 224
    config.epochs = 3
    config.warmup_epochs = 2 / 16
    return config
