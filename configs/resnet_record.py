"""ResNet-18 that learns from five others: 11,171,271 trainable parameters, for a GPU or TPU.

python -m fer_jax.main --config=configs/resnet_record.py

Its teachers are a run of `configs/resnet_ensemble.py` in runs/resnet_ensemble. They see the same
augmented and mixed images. Students teach in turn: --config.teachers=runs/resnet_record. Several
students at once: --config.ensemble=5.
Time: not measured.
Accuracy: not measured.
"""

from ml_collections import ConfigDict

from fer_jax.config import load_config


def get_config() -> ConfigDict:
    config = load_config("resnet")
    config.teachers = ("runs/resnet_ensemble",)
    config.label_smoothing = 0.0  # The teachers' predictions are soft already.
    config.mixup = 0.2
    config.cutmix = 0.3
    config.epochs = 100
    return config
