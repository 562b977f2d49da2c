"""The medium CNN of a published write-up: 4,496,903 parameters, a 5x5 convolution among them.

python -m fer_jax.main --config=configs/published/medium_cnn.py

Time: not measured.
Accuracy: not measured.
Published: 64 % test accuracy, macro F1 61 %, weighted F1 63 %, from Adam at 1e-4 over 65 epochs.
"""

from ml_collections import ConfigDict

from fer_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    end_of_block = ("batch_norm", "max_pool", ("dropout", 0.25))
    config.model.image_size, config.model.channels = 48, 1
    config.model.layers = (
        *(("conv", 32), ("conv", 64), *end_of_block),
        *(("conv", 128, 5), *end_of_block),
        *(("conv", 512), *end_of_block),
        *(("conv", 512), *end_of_block),
        *("flatten", ("dense", 256), "batch_norm", ("dropout", 0.25)),
        *(("dense", 512), "batch_norm", ("dropout", 0.25)),
    )
    config.epochs = 65
    config.learning_rate = 1e-4
    return config
