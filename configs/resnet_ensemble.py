"""Five ResNet-18 of `configs/resnet.py` from different seeds, for a GPU or TPU.

python -m fer_jax.main --config=configs/resnet_ensemble.py

Each has 11,171,271 trainable parameters and equals the single run of its seed.
Time: not measured.
Accuracy: not measured.
"""

from ml_collections import ConfigDict

from fer_jax.config import load_config


def get_config() -> ConfigDict:
    config = load_config("resnet")
    config.ensemble = 5
    return config
