"""Keras's side of `benchmarks.time_to_accuracy`, on TensorFlow; needs only these two.

It prints a line of JSON after each epoch. The networks are those of `benchmarks.speed`.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "speed"))

# It chooses Keras's backend, and comes first.
from time_keras import build_cnn, build_resnet  # isort: skip

import keras
import numpy as np
import tensorflow as tf
from keras import layers


class Told(keras.callbacks.Callback):
    """Prints the validation accuracy of each epoch, and keeps the best weights."""

    def __init__(self, weights: str):
        super().__init__()
        self.weights, self.best = weights, 0.0

    def on_epoch_end(self, epoch: int, logs=None) -> None:
        """Gets the figures of an epoch from Keras."""
        accuracy = float(logs["val_accuracy"])
        if accuracy > self.best:
            self.best = accuracy
            self.model.save_weights(f"{self.weights}.weights.h5")
        version = f"Keras {keras.version()} on TensorFlow {tf.__version__}"
        print(json.dumps({"val_accuracy": accuracy, "version": version}), flush=True)


def main(job: dict, weights: str) -> None:
    """Trains a job, see `_make_job` in `benchmarks.time_to_accuracy`."""
    keras.utils.set_random_seed(job["seed"])
    if job["dtype"] == "bfloat16" and tf.config.list_physical_devices("GPU"):
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    model = job["model"]
    inputs = keras.Input((48, 48, 1), dtype="uint8")
    x = layers.Rescaling(1 / 255)(inputs)
    if model["channels"] > 1:
        x = layers.Concatenate()([x] * model["channels"])
    x = build_cnn(x, model["layers"]) if model["name"] == "cnn" else build_resnet(x, model["width"])
    network = keras.Model(inputs, layers.Dense(7, dtype="float32")(x))
    epochs, steps, size = job["epochs"], job["steps_per_epoch"], job["batch_size"]
    rate = job["learning_rate"]
    if job["schedule"] == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, epochs * steps)
    network.compile(
        keras.optimizers.Adam(rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    arrays = np.load(job["images"])
    images, labels, seen, truth = (
        tf.constant(arrays[f"{split}_{what}"])
        for split in ("train", "validation")
        for what in ("images", "labels")
    )
    reach = round(job["shift"] * 48)

    def shift_and_flip(rows):
        index = tf.range(48)
        down, right = tf.unstack(tf.random.uniform((2, size, 1), -reach, reach + 1, tf.int32))
        y, x = tf.clip_by_value(index - down, 0, 47), tf.clip_by_value(index - right, 0, 47)
        if job["flip"]:
            x = tf.where(tf.random.uniform((size, 1)) < 0.5, 47 - x, x)
        batch = tf.gather(tf.gather(images, rows), y, axis=1, batch_dims=1)
        return tf.gather(batch, x, axis=2, batch_dims=1), tf.gather(labels, rows)

    drawn = tf.data.Dataset.range(len(images)).shuffle(len(images)).repeat()
    drawn = drawn.batch(size, drop_remainder=True)
    drawn = drawn.map(shift_and_flip, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
    validation = tf.data.Dataset.from_tensor_slices((seen, truth)).batch(job["eval_batch_size"])
    network.fit(
        drawn,
        epochs=epochs,
        steps_per_epoch=steps,
        validation_data=validation.cache().prefetch(tf.data.AUTOTUNE),
        callbacks=[Told(weights)],
        verbose=0,
    )


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2])
