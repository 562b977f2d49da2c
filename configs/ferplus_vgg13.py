"""VGG13 as in FER+'s paper: convolutions with dropout on images of 64x64 pixels.

python -m fer_jax.main --config=configs/ferplus_vgg13.py

Barsoum et al., "Training Deep Networks for Facial Expression Recognition with Crowd-Sourced Label
Distribution", ICMI 2016. The paper lowers the rate in steps; this is a cosine. The records come
from `python -m data_prep --labels=ferplus` (docs/data.md).
Accuracy: not measured.
Published: 83.9 % of FER+'s test images by majority, 84.0 (multi), 84.7 (probability), 85.0 (drawn).
"""

from ml_collections import ConfigDict

from fer_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.data_dir = "data/ferplus"
    config.train_split = "train"
    config.validation_split = "public_test"
    config.targets = "drawn"
    end_of_block = ("max_pool", ("dropout", 0.25))
    config.model.image_size = 64
    config.model.layers = (
        *(("conv", 64), ("conv", 64), *end_of_block),
        *(("conv", 128), ("conv", 128), *end_of_block),
        *(("conv", 256), ("conv", 256), ("conv", 256), *end_of_block),
        *(("conv", 256), ("conv", 256), ("conv", 256), *end_of_block),
        *("flatten", ("dense", 1024), ("dropout", 0.5), ("dense", 1024), ("dropout", 0.5)),
    )
    config.shift = 0.08
    config.rotation = 20.0
    config.zoom = 0.05
    config.batch_size = 32
    config.optimizer = "sgd"
    config.learning_rate = 0.05
    config.schedule = "cosine"
    config.epochs = 100
    return config
