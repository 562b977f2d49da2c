"""ConvNeXt with timm's "atto" depths and widths and patches of 2x2 pixels, for a GPU or TPU.

python -m fer_jax.main --config=configs/convnext.py

Accuracy: not measured.

From ImageNet weights of timm's convnext_atto (.safetensors), training only the last normalisation
and the logits' layer (frozen_stages=3 also trains the last stage):

python -m fer_jax.main --config=configs/convnext.py --config.pretrained.file=FILE
--config.model.frozen_stages=4 --config.model.patch=4 --config.model.channels=3
--config.model.image_size=224 --config.model.normalization=imagenet

Keras's convnext_tiny_notop.h5 also needs "--config.model.depths=(3,3,9,3)" and
"--config.model.widths=(96,192,384,768)".
"""

from ml_collections import ConfigDict

from fer_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.model = ConfigDict(
        {
            "name": "convnext",
            "depths": (2, 2, 6, 2),
            "widths": (40, 80, 160, 320),
            "patch": 2,
            "stochastic_depth": 0.1,
            "frozen_stages": 0,
            "channels": 0,
            "image_size": 0,
            # The pixels of a patch are much alike. If grey levels were all positive, layer
            # normalisation after the first convolution would remove the brightness, and leave
            # nearly the same features for every patch.
            "normalization": "grey",
        }
    )
    config.dtype = "bfloat16"
    config.batch_size = 128
    config.epochs = 60
    config.optimizer = "adamw"
    config.learning_rate = 1e-3
    config.weight_decay = 0.05
    config.schedule = "cosine"
    config.warmup_epochs = 5.0
    config.label_smoothing = 0.1
    return config
