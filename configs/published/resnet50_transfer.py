"""ResNet50 of a published write-up: 23,602,055 parameters, from ImageNet except the last layer's.

python -m fer_jax.main --config=configs/published/resnet50_transfer.py --config.pretrained.file=FILE

FILE is Keras's resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5; docs/transfer.md has its
address and digest. --config.model.frozen_stages=3 also trains the last stage.

Accuracy: not measured.
Published: 62.61 % training and 60.80 % validation accuracy, with classes weighted by rarity.
"""

from ml_collections import ConfigDict

from fer_jax.config import load_config


def get_config() -> ConfigDict:
    config = load_config("published/vgg16_transfer")
    config.model = ConfigDict({"name": "resnet50_v1", "image_size": 224, "frozen_stages": 4})
    config.balance_classes = True
    return config
