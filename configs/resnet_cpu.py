"""ResNet-18 of half the width: 2,796,263 trainable parameters, for two hours of a CPU.

python -m fer_jax.main --config=configs/resnet_cpu.py

A quarter of the arithmetic of `configs/resnet.py`, with half the batch.
AdamW because Adam was ahead of momentum in starts of 240 steps.

68.60 % of public_test, and 70.05 % through `--views=ten_crop`, in 2 h 20 min of training steps on
two AMD EPYC cores with AVX512-BF16, beside other work (n = 1, jax 0.12.0.1). With mixup = 0.2 it
had 68.04 and 69.52 %; with neither erasing nor mixup, 80 % of the images and 25 epochs, 67.57 and
68.26 %.
"""

from ml_collections import ConfigDict

from fer_jax.config import load_config


def get_config() -> ConfigDict:
    config = load_config("resnet")
    config.model.width = 32
    config.batch_size = 64
    config.optimizer = "adamw"
    config.learning_rate = 2e-3
    config.weight_decay = 0.05
    config.ema_decay = 0.995  # About an epoch's steps.
    return config
