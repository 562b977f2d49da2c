"""Trains the two transfer systems from random backbones, where ImageNet's weights are missing.

Example:
  python -m benchmarks.accuracy.random_backbones --workdir=runs/random --data_dir=data/fer2013

The backbones are Keras's own, of seed 0, in files of the format of its ImageNet weights. ResNet50's
batch normalisation has the statistics of 32 training images, as that of a trained network has its
own images'. It shows that the configs train, how fast and in how much memory; not how well.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from benchmarks import children, record, table
from fer_jax import cli
from fer_jax.workdir import METRICS, median_speed, read_history, read_resources, read_run

# Few images a step, with a rate for so few, because a step of VGG16 is 31 GFLOP an image.
RUNS = {
    "resnet50_transfer": {"batch_size": 4, "learning_rate": 1e-4},
    "vgg16_transfer": {"batch_size": 2, "learning_rate": 1e-4},
}
"""Changed knobs of each config, besides the number of steps."""


def define_flags() -> None:
    """Defines --workdir, --data_dir and the other flags."""
    flags.DEFINE_string("workdir", None, "Folder with one run for each system.", required=True)
    cli.define_path("data_dir", "Folder of the records.", required=True)
    flags.DEFINE_integer("epochs", 4, "Epochs of 50 steps.", lower_bound=1)
    flags.DEFINE_multi_enum("only", list(RUNS), list(RUNS), "Systems to train.")
    record.define_flags()


def main(arguments: Sequence[str]) -> None:
    """Trains the missing runs; prints and records the table."""
    cli.refuse_arguments(arguments)
    options = flags.FLAGS
    workdir = Path(options.workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    files = {name: workdir / f"{name}.h5" for name in RUNS}
    if not all(file.exists() for file in files.values()):
        write_backbones(files, options.data_dir)
    for name in options.only:
        knobs = {
            "pretrained.file": files[name],
            "data_dir": options.data_dir,
            "epochs": options.epochs,
            "steps_per_epoch": 50,
            "eval_batch_size": 14,
        }
        overrides = [f"--config.{knob}={value}" for knob, value in (knobs | RUNS[name]).items()]
        config = f"--config=published/{name}"
        children.run("fer_jax.main", f"--workdir={workdir / name}", config, *overrides)
    command = table.command("accuracy.random_backbones")
    figures = make_figures(workdir, options.only)
    print(table.page(record.keep("transfer", figures, command=command, name="random_backbones")))


def write_backbones(files: dict[str, Path], data_dir: str) -> None:
    """Writes Keras's networks with random weights."""
    os.environ["KERAS_BACKEND"] = "jax"
    import h5py
    import keras
    from keras.src.legacy.saving import legacy_h5_format

    from fer_jax.data.records import open_data_set

    images = open_data_set(data_dir).load("train").take(np.arange(32)).images()
    colours = np.broadcast_to(images, (*images.shape[:3], 3)).astype(np.float32)
    prepared = keras.applications.vgg16.preprocess_input(
        keras.ops.image.resize(colours, (224, 224))
    )
    makers = {
        "resnet50_transfer": keras.applications.ResNet50,
        "vgg16_transfer": keras.applications.VGG16,
    }
    for name, file in files.items():
        keras.utils.set_random_seed(0)
        network = makers[name](weights=None, include_top=False, input_shape=(224, 224, 3))
        norms = [layer for layer in network.layers if hasattr(layer, "moving_variance")]
        for layer in norms:
            layer.momentum = 0.0
        if norms:
            network(prepared, training=True)
        with h5py.File(file, "w") as weights:
            legacy_h5_format.save_weights_to_hdf5_group(weights, network)


def make_figures(workdir: Path, names: Sequence[str]) -> dict[str, Any]:
    """Returns the figures of finished runs of these systems."""
    rows = []
    for name in names:
        history, run = read_history(workdir / name / METRICS), read_run(workdir / name)
        resources = read_resources(workdir / name)
        rows.append(
            [
                f"`{name}`",
                run["config"]["batch_size"],
                history[-1]["step"],
                history[0]["train_loss"],
                history[-1]["train_loss"],
                median_speed(history),
                resources and resources["peak_memory_mib"]["host"],
            ]
        )
    about = (
        "The transfer systems from random backbones, at 224 pixels in bfloat16: the mean training "
        "loss of the first and of the last 50 steps. MiB is the process's peak of memory."
    )
    columns = {"config": "", "batch": ",", "steps": ",", "first loss": ".3f", "last loss": ".3f"}
    columns |= {"images/s": ".1f", "MiB": ",.0f"}
    return table.figures("From random backbones", about, table.make(columns, rows))


if __name__ == "__main__":
    cli.run(main, define_flags)
