"""ResNet-18 of half the width: 2,796,263 trainable parameters, for two hours on a CPU.

python -m fer_jax.main --config=configs/resnet_cpu.py

Time: not measured.
Accuracy: not measured.
"""

from ml_collections import ConfigDict

from fer_jax.config import load_config


def get_config() -> ConfigDict:
    config = load_config("resnet")
    config.model.width = 32
    config.batch_size = 64
    config.epochs = 36
    config.optimizer = "adamw"
    config.learning_rate = 2e-3
    config.weight_decay = 0.05
    config.ema_decay = 0.995  # About an epoch's steps.
    config.views = "flip"
    config.epoch_views = ""
    return config
