"""ResNet-18 of half the width on images of 40x40 pixels: the model that comes with fer_jax.

python -m fer_jax.main --config=configs/ready.py --config.pretrained.file=runs/ready_32

It goes on from a run on images of 32x32 pixels at a constant rate. The card of the model,
fer_jax/weights/README.md, has the commands of both.
Accuracy: 68.21 % of public_test (1 seed).
"""

from ml_collections import ConfigDict

from fer_jax.config import load_config


def get_config() -> ConfigDict:
    config = load_config("resnet_cpu")
    with config.unlocked():
        config.model.image_size = 40
    config.batch_size = 128
    config.learning_rate = 2.5e-3
    config.warmup_epochs = 0.25
    config.erasing = 0.25
    config.epochs = 17
    return config
