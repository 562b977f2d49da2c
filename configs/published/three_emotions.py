"""A published CNN with twelve dense layers, which tells angry, happy and neutral faces apart.

python -m fer_jax.main --config=configs/published/three_emotions.py

It has 2,434,435 parameters, 8,704 of them running statistics.

Time: not measured.
Accuracy: not measured.
Published: 57.5 to 60 % validation accuracy of these three classes, from RMSprop at 1e-4 in batches
of 50 over 200 epochs, without augmentation or dropout.
"""

from ml_collections import ConfigDict

from fer_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.classes = ("angry", "happy", "neutral")
    config.shift = 0.0
    config.flip = False
    config.model.image_size, config.model.channels = 48, 1
    config.model.layers = (
        *(("conv", 128, 3, "VALID"), "batch_norm", "max_pool"),
        *(("conv", 128, 3, "VALID"), "batch_norm", "max_pool"),
        *(("conv", 256, 3, "VALID"), "batch_norm", "max_pool"),
        "flatten",
        *(11 * (("dense", 256), "batch_norm")),
        *(("dense", 1024), "batch_norm"),
    )
    config.batch_size = 50
    config.epochs = 200
    config.optimizer = "rmsprop"
    config.learning_rate = 1e-4
    return config
