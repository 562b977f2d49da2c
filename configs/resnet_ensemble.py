"""Eight of ResNet-18 of half the width, each of 2,796,263 trainable parameters, for a GPU or TPU.

python -m fer_jax.main --config=configs/resnet_ensemble.py

The recipe of `configs/resnet.py`, in 48 passes over the images. An epoch is 16 of them, for at its
end eight networks are evaluated, through ten crops, and saved, which takes as long as several.

The mean of the eight has 71.52 % of public_test, and each by itself 70.44 to 71.41 %, 70.93 on the
average with a standard deviation of 0.33: in 260 seconds of steps on an NVIDIA H100, for most of
them beside other runs (n = 1, jax 0.11.2). One of them alone takes a step in 2.20 ms there.
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
