"""EfficientNet-B0 with a stem for small images: 4,015,939 trainable parameters, for a GPU or TPU.

python -m fer_jax.main --config=configs/efficientnet.py

Accuracy: not measured.

From ImageNet weights (Keras's efficientnetb0_notop.h5), training only the logits' layer (fewer
frozen stages also train the last convolutions):

python -m fer_jax.main --config=configs/efficientnet.py --config.pretrained.file=FILE
--config.model.frozen_stages=9 --config.model.stem=imagenet --config.model.channels=3
--config.model.image_size=224 --config.model.normalization=imagenet
"""

from ml_collections import ConfigDict

from fer_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.model = ConfigDict(
        {
            "name": "efficientnet",
            "width": 1.0,
            "depth": 1.0,
            "stem": "small",
            "convention": "tensorflow",
            "frozen_stages": 0,
            "channels": 0,
            "image_size": 0,
            "normalization": "none",
        }
    )
    config.dtype = "bfloat16"
    config.batch_size = 128
    config.epochs = 60
    config.optimizer = "adamw"
    config.learning_rate = 1e-3
    config.weight_decay = 0.05
    config.schedule = "cosine"
    config.warmup_epochs = 5.0
    config.label_smoothing = 0.1
    return config
