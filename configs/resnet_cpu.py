"""ResNet-18 of half the width: 2,796,263 trainable parameters, for an hour or two on a CPU.

python -m fer_jax.main --config=configs/resnet_cpu.py

A quarter of the arithmetic of `configs/resnet.py`, in a quarter of its epochs, with half the batch.
AdamW because Adam was ahead of momentum in starts of 240 steps. Without mixup and erasing,
which were not tried; from epoch 19 on only the training images were still learnt.

68.12 % of validation_20 and 67.57 % of public_test, in 61 minutes of training steps on two AMD EPYC
cores with AVX512-BF16 (n = 1, jax 0.12.0.1).
"""

from ml_collections import ConfigDict

from configs import resnet


def get_config() -> ConfigDict:
    config = resnet.get_config().unlock()
    config.model.width = 32
    config.input = "host"
    config.batch_size = 64
    config.optimizer = "adamw"
    config.learning_rate = 2e-3
    config.weight_decay = 0.05
    config.epochs = 36
    config.ema_decay = 0.995  # About an epoch's steps.
    return config.lock()
