"""DenseNet-BC of 40 layers in three blocks, k = 24, with a stem for small images, for a GPU or TPU.

python -m fer_jax.main --config=configs/densenet.py

Accuracy: not measured.

From ImageNet weights of DenseNet-121 (Keras's `densenet121_*_notop.h5` or timm's), training only
the logits' layer (frozen_stages=3 also trains the last block):

python -m fer_jax.main --config=configs/densenet.py --config.pretrained.file=FILE
--config.model.frozen_stages=4 "--config.model.blocks=(6,12,24,16)" --config.model.growth=32
--config.model.stem=imagenet --config.model.channels=3 --config.model.image_size=224
--config.model.normalization=imagenet
"""

from ml_collections import ConfigDict

from fer_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.model = ConfigDict(
        {
            "name": "densenet",
            "blocks": (6, 6, 6),
            "growth": 24,
            "stem": "small",
            "frozen_stages": 0,
            "channels": 0,
            "image_size": 0,
            "normalization": "none",
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
