"""Times whole commands, from their start to the label of one picture of a face.

Example:
  python -m benchmarks.speed.cold_start --picture=face.png --fer_python=PYTHON

PYTHON is the interpreter of another environment, with the package `fer` and TensorFlow. The sides
take turns; each runs once before, so that files and compiled programs are in their caches. `fer`
gets the box of the whole picture, so no side searches for faces. ONNX Runtime runs our network,
exported by `fer_jax export`.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from absl import flags

from benchmarks import record, table
from fer_jax import cli
from fer_jax.errors import UserError

_FER = """
import sys
import cv2
from fer.fer import FER
picture = cv2.imread(sys.argv[1])
height, width = picture.shape[:2]
(face,) = FER().detect_emotions(picture, face_rectangles=[(0, 0, width, height)])
print(max(face["emotions"], key=face["emotions"].get))
"""

_ONNX = """
import sys
import numpy as np
import onnxruntime
from PIL import Image
session = onnxruntime.InferenceSession(sys.argv[2])
face = Image.open(sys.argv[1]).convert("L").resize((48, 48), Image.Resampling.LANCZOS)
batch = np.array(face)[None, :, :, None]
print(session.run(None, {session.get_inputs()[0].name: batch})[0].argmax())
"""


def define_flags() -> None:
    """Defines the flags."""
    cli.define_path("picture", "Picture of a face.", required=True)
    flags.DEFINE_string("fer_python", None, "Python with fer and TensorFlow; none: no such row.")
    flags.DEFINE_integer("n", 5, "Turns.", lower_bound=1)
    record.define_flags()


def main(arguments: Sequence[str]) -> None:
    """Times the sides in turn; prints and records the table."""
    cli.refuse_arguments(arguments)
    options = flags.FLAGS
    picture = str(options.picture)
    with tempfile.TemporaryDirectory() as folder:
        onnx = str(Path(folder) / "model.onnx")
        ours = [sys.executable, "-m", "fer_jax"]
        _run([*ours, "export", "--format=onnx", f"--output={onnx}"])
        sides = {
            f"fer_jax {version('fer_jax')}": [*ours, "predict", picture],
            f"ONNX Runtime {version('onnxruntime')}, our network": [
                *(sys.executable, "-c", _ONNX, picture, onnx)
            ],
        }
        if options.fer_python:
            ask = "from importlib.metadata import version; print(version('fer'))"
            theirs = _run([options.fer_python, "-c", ask]).strip()
            sides[f"fer {theirs}"] = [options.fer_python, "-c", _FER, picture]
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range(options.n + 1):
            for name, side in sides.items():
                started = time.perf_counter()
                _run(side)
                if turn:
                    seconds[name].append(time.perf_counter() - started)
    rows = [[name, table.spread(times)] for name, times in seconds.items()]
    cli.set_up_jax()
    about = (
        "Seconds from the command to the label of one picture, with warm caches, in turn: median "
        "(least to most)."
    )
    found = record.keep(
        "cold_start",
        table.figures("Cold start", about, table.make({"command": "", "seconds": ".2f"}, rows)),
        command=table.command("speed.cold_start"),
        n=options.n,
    )
    print(table.page(found))


def _run(arguments: Sequence[str]) -> str:
    # Python keeps its compiled modules, as it does for users.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    result = subprocess.run(
        arguments, capture_output=True, text=True, env=environment | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    )
    if result.returncode:
        raise UserError(
            f"{' '.join(arguments[:3])} ended with {result.returncode}: {result.stderr}"
        )
    return result.stdout


if __name__ == "__main__":
    cli.run(main, define_flags)
