"""The small CNN of a published write-up: 319,527 parameters, about 60 % validation accuracy."""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.model = ConfigDict(
        {
            "name": "cnn",
            "channels": 3,
            "layers": (
                *(("conv", 16), "max_pool", ("conv", 32), "max_pool"),
                *(("conv", 64), "max_pool", ("dropout", 0.25)),
                *("flatten", ("dense", 128)),
            ),
        }
    )
    config.schedule = "cosine"
    config.epochs = 25
    return config
