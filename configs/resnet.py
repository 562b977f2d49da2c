"""ResNet-18 with a stem for small images: 11,171,271 trainable parameters, for a GPU or TPU.

python -m fer_jax.main --config=configs/resnet.py

Time: not measured.
Accuracy: not measured.
It trains on all 28,709 training images, and the last epoch counts; none is selected.
"""

from ml_collections import ConfigDict

from fer_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.train_split = "train"
    config.validation_split = "public_test"
    config.model = ConfigDict(
        {
            **{"name": "resnet", "depth": 18, "stem": "small", "width": 64},
            **{"image_size": 0, "channels": 0},
        }
    )
    config.dtype = "bfloat16"
    config.batch_size = 256
    config.rotation = 10.0
    config.crop = 0.8
    config.erasing = 0.5
    config.epochs = 70
    config.optimizer = "sgd"
    config.learning_rate = 0.2
    config.weight_decay = 5e-4
    config.schedule = "cosine"
    config.warmup_epochs = 2.0
    config.label_smoothing = 0.1
    config.ema_decay = 0.998
    config.best_by = "last"
    config.views = "ten_crop"
    config.epoch_views = "one"
    return config
