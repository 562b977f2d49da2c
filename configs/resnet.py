"""ResNet-18 with a stem for small images."""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.model = ConfigDict(
        {"name": "resnet", "depth": 18, "stem": "small", "width": 64, "channels": 1}
    )
    config.dtype = "bfloat16"
    config.batch_size = 128
    config.epochs = 60
    config.optimizer = "sgd"
    config.learning_rate = 0.1
    config.weight_decay = 5e-4
    config.schedule = "cosine"
    config.warmup_epochs = 2.0
    config.label_smoothing = 0.1
    return config
