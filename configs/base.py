"""Every knob, with its default; each other config states only what differs from this one."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0  # Of parameters, order, augmentation and dropout.

    # Data. An empty data_dir means $FER2013_DIR, then data/fer2013 under the current folder. If it
    # holds nothing, `python -m data_prep --source <data_source>` fills it, given a data_source.
    config.data_dir = ""
    config.data_source = ""
    # train, public_test, private_test, test (both); or train's stratified train_80, validation_20.
    config.train_split = "train_80"
    config.validation_split = "validation_20"
    config.classes = ()  # Names of those to tell apart, ("angry", "happy") say; empty: all.
    # Decode a split's images at the start if they take no more GiB; otherwise each at its use.
    config.memory_gib = 4.0
    # host: Grain reads and augments batches. device: all images are kept on the devices and
    # augmented there, many steps at a time; needs room for them, and few CPU cores. auto: device on
    # a GPU or TPU, host on a CPU.
    config.input = "auto"
    config.batch_size = 64  # Of all devices and processes together.
    config.eval_batch_size = 512
    # Of an image in evaluation, whose probabilities are averaged: one (itself), flip (and its
    # mirror image), ten_crop (corners and centre, 44x44, and their mirror images).
    config.views = "one"

    # Augmentation of training images: by whole pixels unless rotation, shear, zoom or crop is on.
    config.shift = 0.1  # Largest shift each way, as a fraction of height and width.
    config.flip = True  # Mirror every second image.
    config.rotation = 0.0  # Largest rotation each way, in degrees.
    config.shear = 0.0  # Largest angle each way by which columns lean, in degrees.
    config.zoom = 0.0  # Divide height and width by factors from 1 - zoom to 1 + zoom each.
    config.crop = 1.0  # Smallest area of a random crop, as a fraction of the image's; 1: no crop.
    config.erasing = 0.0  # Probability that a random rectangle is erased.

    # Model: a name of fer_jax.models.MODELS, and the arguments of what it names.
    config.model = ConfigDict(
        {
            "name": "cnn",
            "channels": 1,  # The grey image is repeated to this many.
            "layers": (
                *(("conv", 32), ("conv", 32), "batch_norm", "max_pool", ("dropout", 0.25)),
                *(("conv", 64), ("conv", 64), "batch_norm", "max_pool", ("dropout", 0.25)),
                *(("conv", 128), ("conv", 128), "batch_norm", "max_pool", ("dropout", 0.25)),
                *("flatten", ("dense", 256), "batch_norm", ("dropout", 0.5)),
            ),
        }
    )
    # Weights to start from, .h5 (Keras) or .safetensors (timm, torchvision): a path, or a URL with
    # its digest.
    config.pretrained = ConfigDict({"file": "", "sha256": ""})
    config.dtype = "float32"  # Of the computation; or bfloat16, which most CPUs lack.

    # Optimisation.
    config.epochs = 25
    config.steps_per_epoch = 0  # 0: as many as pass once over the training images.
    config.optimizer = "adam"  # adam, adamw, rmsprop, sgd (Nesterov momentum 0.9).
    config.learning_rate = 1e-3
    config.weight_decay = 0.0
    config.clip_norm = 0.0  # Largest global norm of the gradient; 0: any.
    config.schedule = "constant"  # constant, cosine (to zero), plateau.
    config.warmup_epochs = 0.0
    # Of schedule = "plateau": multiply the learning rate by `factor` after `patience` epochs in
    # which the validation loss has not fallen by `min_delta`.
    config.plateau = ConfigDict({"factor": 0.2, "patience": 6, "min_delta": 1e-4})
    # Stop after so many epochs without such a fall; 0: never.
    config.early_stopping_patience = 0
    config.label_smoothing = 0.0
    config.mixup = 0.0  # Alpha of the beta distribution of weights of mixed images; 0: none.
    # Evaluate moving averages of the weights, exponential, of this decay a step; 0: the weights.
    config.ema_decay = 0.0
    config.balance_classes = False  # Weigh each class c by n / (classes * n_c) in the loss.

    # Checkpoints: the latest, and the best by val_accuracy or val_loss, are kept.
    config.best_by = "val_accuracy"
    config.checkpoint_every_steps = 0  # Within an epoch too; 0: after each epoch only.

    # Train so many networks at once, from seeds `seed`, `seed` + 1, ..., each in a workdir of its
    # own, `member_<k>`; evaluation takes the mean of their predictions.
    config.ensemble = 1
    config.learning_rates = ()  # Of each of them; empty: all have `learning_rate`.

    config.profile = 0  # Steps to record after the first ones, into the workdir's profile/.
    return config.lock()
