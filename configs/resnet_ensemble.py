"""Eight ResNet-18 of half the width, each of 2,796,263 trainable parameters, for a GPU or TPU.

python -m fer_jax.main --config=configs/resnet_ensemble.py

Time: 260 seconds of steps on an NVIDIA H100, for most of them beside other runs (jax 0.11.2).
Accuracy: 71.52 % of public_test for the mean prediction of the eight. A single member has 70.93 %
on average, standard deviation 0.33, from 70.44 to 71.41 % (n = 1).
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
