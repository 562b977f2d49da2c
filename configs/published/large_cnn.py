"""The large CNN of a published write-up: 17,046,535 parameters, no augmentation.

python -m fer_jax.main --config=configs/published/large_cnn.py

It is for 48x48 grey images; others are resized.
Time: not measured.
Accuracy: not measured.
Published: 65.58 % training and 56.71 % validation accuracy, from Adam over 10 epochs.
"""

from ml_collections import ConfigDict

from fer_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.shift = 0.0
    config.flip = False
    end_of_block = ("batch_norm", "max_pool", ("dropout", 0.25))
    config.model.image_size, config.model.channels = 48, 1
    config.model.layers = (
        *(("conv", 32), ("conv", 64), *end_of_block),
        *(("conv", 128), ("conv", 256, 3, "VALID"), *end_of_block),
        *(("conv", 512), ("conv", 512), *end_of_block),
        *("flatten", ("dense", 1024), ("dropout", 0.5)),
    )
    config.epochs = 10
    config.schedule = "plateau"
    config.early_stopping_patience = 12
    config.best_by = "val_loss"
    return config
