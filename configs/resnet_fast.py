"""ResNet-18 of half the width: 2,796,263 trainable parameters, for seconds on a GPU or TPU.

python -m fer_jax.main --config=configs/resnet_fast.py

An epoch here is four passes over the images, so that little time goes into evaluating and saving.
Time: not measured.
Accuracy: not measured.
"""

from ml_collections import ConfigDict

from fer_jax.config import load_config


def get_config() -> ConfigDict:
    config = load_config("resnet")
    config.model.width = 32
    config.batch_size = 128
    config.learning_rate = 0.1
    config.steps_per_epoch = 4 * 224
    config.epochs = 12
    config.warmup_epochs = 0.5
    config.ema_decay = 0.999
    return config
