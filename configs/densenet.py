"""DenseNet-BC of three blocks, 12 features a layer and a stem for small images, for a GPU or TPU.

python -m fer_jax.main --config=configs/densenet.py

As deep and as wide as the paper's for CIFAR, 100 layers and k = 12. Not run in full yet.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.model = ConfigDict(
        {
            "name": "densenet",
            "blocks": (16, 16, 16),
            "growth": 12,
            "stem": "small",
            "channels": 1,
        }
    )
    config.dtype = "bfloat16"
    config.batch_size = 128
    config.epochs = 60
    config.optimizer = "sgd"
    config.learning_rate = 0.1
    config.weight_decay = 1e-4
    config.schedule = "cosine"
    config.warmup_epochs = 2.0
    config.label_smoothing = 0.1
    return config
