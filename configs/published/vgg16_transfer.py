"""VGG16 of a published write-up: 134,289,223 parameters, with convolutions from ImageNet.

python -m fer_jax.main --config=configs/published/vgg16_transfer.py --config.pretrained.file=FILE

FILE is Keras's vgg16_weights_tf_dim_ordering_tf_kernels.h5; docs/transfer.md has its address and
digest. It holds the first two dense layers; with the file that ends in _notop.h5 they start from
random values. A .safetensors file of torchvision's or timm's VGG16 needs
--config.model.normalization=imagenet.

Accuracy: not measured.
Published: 55.93 % training and 55.00 % validation accuracy over 100 epochs.
"""

from ml_collections import ConfigDict

from fer_jax.config import load_config


def get_config() -> ConfigDict:
    config = load_config("published/large_cnn")
    config.train_split = "train"
    config.validation_split = "public_test"
    config.shift = 0.1
    config.flip = True
    config.rotation = 10.0
    config.zoom = 0.2
    config.model = ConfigDict(
        {"name": "vgg16", "image_size": 224, "frozen_stages": 5, "dropout": 0.0}
    )
    config.dtype = "bfloat16"
    config.epochs = 100
    return config
