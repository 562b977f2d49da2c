"""ResNet-18 of half the width on FER+: eight classes, learnt from the shares of ten annotators.

python -m fer_jax.main --config=configs/ferplus.py

The records come from `python -m data_prep --labels=ferplus` (docs/data.md). It starts from the
model that comes with fer_jax, which was trained on the same images by FER-2013's labels.
Time: not measured.
Accuracy: not measured.
Published: 83.9 to 85.0 % of private_test.
"""

from ml_collections import ConfigDict

from fer_jax.config import load_config


def get_config() -> ConfigDict:
    config = load_config("ready")
    config.data_dir = "data/ferplus"
    config.targets = "probability"
    config.label_smoothing = 0.0
    config.pretrained.file = "shipped"
    config.learning_rate = 1e-3
    config.epochs = 12
    return config
