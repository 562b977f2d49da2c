"""EfficientNet-Lite0 from ImageNet: 3,379,975 trainable parameters, for a CPU.

python -m fer_jax.main --config=configs/efficientnet_lite.py --config.pretrained.file=FILE

docs/transfer.md says where FILE comes from. Without it the network starts from random weights.
With --config.model.frozen_stages=9 only the logits' layer learns. --config.model.image_size=48 is
faster.
"""

from ml_collections import ConfigDict

from fer_jax.config import load_config


def get_config() -> ConfigDict:
    config = load_config("efficientnet")
    with config.model.unlocked():
        config.model.variant = "lite"
    config.model.stem = "imagenet"
    config.model.channels = 3
    config.model.image_size = 112
    config.model.normalization = "imagenet"
    config.batch_size = 64
    config.epochs = 4
    config.warmup_epochs = 0.5
    return config
