"""The small CNN of a published write-up: 319,527 parameters.

python -m fer_jax.main --config=configs/published/small_cnn.py

Time: 22 min 21 s for all seeds on 2 x AMD EPYC with AVX-512.
Accuracy: 58.24 ± 0.44 % of public_test (5 seeds).
Published: about 60 % validation accuracy, from Adam over 25 epochs.
"""

from ml_collections import ConfigDict

from fer_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.model = ConfigDict(
        {
            "name": "cnn",
            "image_size": 48,
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
