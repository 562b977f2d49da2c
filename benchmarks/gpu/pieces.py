"""Weights of runs in float16, in pieces of at most 15 MB; and the pieces joined again.

Example:
  python -m benchmarks.gpu.pieces --split=runs/resnet --folder=weights/resnet
  python -m benchmarks.gpu.pieces --join=weights/resnet --folder=models/resnet
  python -m fer_jax.evaluate --workdir=models/resnet --split=public_test

A folder of pieces has config.json and model.safetensors.0, .1 and so on, which are the bytes of one
file; config.json has its digest.
"""

import hashlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from fer_jax import cli
from fer_jax.errors import UserError, write_atomically
from fer_jax.workdir import CONFIG, WEIGHTS, read_run

MOST_BYTES = 15_000_000


def split(workdir: Path, folder: Path, *, most: int = MOST_BYTES) -> list[Path]:
    """Writes the best weights of a run or ensemble in float16; returns the pieces.

    Raises:
      UserError: the run has no checkpoint, or its weights do not fit float16.
    """
    from fer_jax.inference.model_folder import write_model_folder
    from fer_jax.inference.trained import load_trained

    model, run = load_trained(workdir), read_run(workdir)
    with tempfile.TemporaryDirectory() as name:
        whole = Path(name)
        write_model_folder(
            whole,
            run,
            model.networks,
            steps=model.steps,
            temperature=model.temperature,
            dtype="float16",
        )
        content = (whole / WEIGHTS).read_bytes()
        config = (whole / CONFIG).read_bytes()
    paths = []
    for number, start in enumerate(range(0, len(content), most)):
        paths.append(folder / f"{WEIGHTS}.{number}")
        write_atomically(paths[-1], content[start : start + most])
    write_atomically(folder / CONFIG, config)  # Last: with it, the pieces are whole.
    return paths


def join(folder: Path, model: Path) -> None:
    """Writes the model folder of pieces.

    Raises:
      UserError: a piece is missing or damaged.
    """
    try:
        config = (folder / CONFIG).read_bytes()
        count = len(list(folder.glob(f"{WEIGHTS}.*")))
        pieces = [(folder / f"{WEIGHTS}.{number}").read_bytes() for number in range(count)]
        digest = json.loads(config)["sha256"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder} holds no weights in pieces: {error}") from error
    content = b"".join(pieces)
    if hashlib.sha256(content).hexdigest() != digest:
        raise UserError(f"a piece in {folder} is missing or damaged: the digest differs")
    write_atomically(model / CONFIG, config)
    write_atomically(model / WEIGHTS, content)


def define_flags() -> None:
    """Defines the flags."""
    cli.define_path("split", "Run whose weights are split.")
    cli.define_path("join", "Folder of pieces that are joined.")
    cli.define_path("folder", "Folder to write to.", required=True)


def main(arguments: Sequence[str]) -> None:
    """Splits or joins."""
    cli.refuse_arguments(arguments)
    options = flags.FLAGS
    if bool(options.split) == bool(options.join):
        raise UserError("give either --split or --join")
    if options.join:
        join(Path(options.join), Path(options.folder))
    else:
        for path in split(Path(options.split), Path(options.folder)):
            print(path)


if __name__ == "__main__":
    cli.run(main, define_flags)
