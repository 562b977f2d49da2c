"""ResNet-18 with a stem for small images: 11,171,271 trainable parameters, for a GPU or TPU.

python -m fer_jax.main --config=configs/resnet.py

Not run in full yet. Two CPU cores made 4 to 10 images/s, as other work left them; 50 steps in
batches of 32 at a rate of 0.01 brought the training loss from 1.886 (mean of the first 25) to 1.834
(of the last 25).
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.model = ConfigDict(
        {"name": "resnet", "depth": 18, "stem": "small", "width": 64, "channels": 1}
    )
    config.dtype = "bfloat16"
    config.batch_size = 128
    config.epochs = 60
    config.optimizer = "sgd"
    config.learning_rate = 0.1
    config.weight_decay = 5e-4
    config.schedule = "cosine"
    config.warmup_epochs = 2.0
    config.label_smoothing = 0.1
    return config
