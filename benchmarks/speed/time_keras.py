"""Keras's side of `benchmarks.speed`, on TensorFlow; needs only these two.

It prints that it is ready, then one line of JSON for each line that it reads. It is written as a
good Keras programmer would: `model.fit` over `tf.data`, shift and flip of whole batches, and Adam.
Keras and TensorFlow choose the threads, and whether XLA compiles.
"""

import json
import os
import resource
import sys
import time

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import tensorflow as tf
from keras import layers

IMAGES = 20_000


def build_cnn(x, entries: list):
    """Adds the layers of fer_jax's layer list."""
    for entry in entries:
        name, *numbers = [entry] if isinstance(entry, str) else entry
        if name == "conv":
            features, kernel, padding = [*numbers, *(3, "SAME")[len(numbers) - 1 :]]
            x = layers.Conv2D(features, kernel, padding=padding.lower(), activation="relu")(x)
        elif name == "dense":
            x = layers.Dense(numbers[0], activation="relu")(x)
        elif name == "batch_norm":
            x = layers.BatchNormalization()(x)
        elif name == "max_pool":
            x = layers.MaxPooling2D(numbers[0] if numbers else 2)(x)
        elif name == "dropout":
            x = layers.Dropout(numbers[0])(x)
        elif name == "flatten":
            x = layers.Flatten()(x)
    return x


def conv_norm(x, features: int, kernel: int, stride: int = 1):
    """Adds a convolution without bias, and a batch normalisation."""
    x = layers.Conv2D(features, kernel, stride, padding="same", use_bias=False)(x)
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)


def build_resnet(x, width: int):
    """Adds ResNet-18 with a 3x3 stem."""
    x = layers.ReLU()(conv_norm(x, width, 3))
    for stage in range(4):
        for index in range(2):
            features, stride = width * 2**stage, 2 if stage and not index else 1
            branch = conv_norm(layers.ReLU()(conv_norm(x, features, 3, stride)), features, 3)
            shortcut = conv_norm(x, features, 1, stride) if stride == 2 else x
            x = layers.ReLU()(layers.Add()([branch, shortcut]))
    return layers.GlobalAveragePooling2D()(x)


class Clock(keras.callbacks.Callback):
    """Counts steps for `limit` seconds, after two to warm up, and then ends the fit."""

    def __init__(self, limit: float):
        super().__init__()
        self.limit = limit

    def on_train_batch_end(self, batch: int, logs=None) -> None:
        """Gets the number of the step from Keras."""
        if batch < 2:
            self.started = time.perf_counter()
        else:
            self.steps, self.seconds = batch - 1, time.perf_counter() - self.started
            self.model.stop_training = self.seconds > self.limit


def main(job: dict) -> None:
    """Times a job, see `benchmarks.speed.sides`."""
    keras.utils.set_random_seed(0)
    model = job["model"]
    inputs = keras.Input((48, 48, 1), dtype="uint8")
    x = layers.Rescaling(1 / 255)(inputs)
    if model["channels"] > 1:
        x = layers.Concatenate()([x] * model["channels"])
    x = build_cnn(x, model["layers"]) if model["name"] == "cnn" else build_resnet(x, model["width"])
    network = keras.Model(inputs, layers.Dense(7)(x))
    network.compile(
        keras.optimizers.Adam(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    images = tf.cast(tf.random.uniform((IMAGES, 48, 48, 1), 0, 256, tf.int32), tf.uint8)
    labels = tf.random.uniform((IMAGES,), 0, 7, tf.int32)
    size, reach = job["batch_size"], round(job["shift"] * 48)

    def shift_and_flip(rows):
        index = tf.range(48)
        down, right = tf.unstack(tf.random.uniform((2, size, 1), -reach, reach + 1, tf.int32))
        y, x = tf.clip_by_value(index - down, 0, 47), tf.clip_by_value(index - right, 0, 47)
        if job["flip"]:
            x = tf.where(tf.random.uniform((size, 1)) < 0.5, 47 - x, x)
        batch = tf.gather(tf.gather(images, rows), y, axis=1, batch_dims=1)
        return tf.gather(batch, x, axis=2, batch_dims=1), tf.gather(labels, rows)

    drawn = tf.data.Dataset.range(IMAGES).shuffle(IMAGES).repeat()
    drawn = drawn.batch(size, drop_remainder=True)
    drawn = drawn.map(shift_and_flip, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
    fixed = tf.data.Dataset.from_tensors(next(iter(drawn))).repeat()

    def rate(data) -> float:
        clock = Clock(job["seconds"])
        network.fit(data, steps_per_epoch=10**9, callbacks=[clock], verbose=0)
        return clock.steps * size / clock.seconds

    started = time.perf_counter()
    network.fit(fixed, steps_per_epoch=1, verbose=0)
    first_step = time.perf_counter() - started
    print("ready", flush=True)
    for _ in sys.stdin:
        result = {
            "first_step": first_step,
            "step": rate(fixed),
            "end_to_end": rate(drawn),
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        version = f"Keras {keras.version()} on TensorFlow {tf.__version__}"
        print(json.dumps({"rows": {"Keras, TensorFlow": result}, "version": version}), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
