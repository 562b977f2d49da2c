"""ResNet-18 with a stem for small images: 11,171,271 trainable parameters, for a GPU or TPU.

python -m fer_jax.main --config=configs/resnet.py

The recipe is what the good ones for FER-2013 share; `python -m benchmarks.ablation` leaves out each
part of it. As in the data set's own protocol, it learns from all 28,709 training images and chooses
by public_test; private_test is left for the report.

On public_test 68.79 and 68.85 %, and 70.19 and 69.91 % through `--views=ten_crop`: two runs of seed
0, on an NVIDIA H100 beside others and, in 31 seconds of steps, on an H200 (jax 0.11.2).
`configs/resnet_ensemble.py` trains eight of half the width, `configs/resnet_cpu.py` is what two
cores train.
"""

from ml_collections import ConfigDict

from fer_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.train_split = "train"
    config.validation_split = "public_test"
    config.model = ConfigDict(
        {"name": "resnet", "depth": 18, "stem": "small", "width": 64, "channels": 1}
    )
    config.dtype = "bfloat16"
    config.batch_size = 128
    config.rotation = 10.0
    config.crop = 0.8
    config.erasing = 0.5
    config.epochs = 36
    config.optimizer = "sgd"
    config.learning_rate = 0.1
    config.weight_decay = 5e-4
    config.schedule = "cosine"
    config.warmup_epochs = 2.0
    config.label_smoothing = 0.1
    config.ema_decay = 0.999
    config.views = "flip"
    return config
