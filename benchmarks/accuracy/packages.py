"""Accuracy of another package's own network on public_test: of `fer`, run by its own Python.

Example:
  python -m benchmarks.accuracy.packages --images=SOURCE --fer_python=PYTHON

SOURCE is the folder of FER-2013's images that `data_prep` takes. `fer` gets the box of the whole
image, so it searches for no face; it enlarges and normalises the image itself.
"""

import json
import subprocess
from collections.abc import Sequence

from absl import flags

from benchmarks.table import accuracy
from fer_jax import cli
from fer_jax.errors import UserError

_FER = """
import json, sys
from importlib.metadata import version
from pathlib import Path
import cv2
from fer.fer import FER
reader, right = FER(), []
for path in sorted(Path(sys.argv[1]).glob("test/*/PublicTest_*")):
    picture = cv2.imread(str(path))
    height, width = picture.shape[:2]
    (face,) = reader.detect_emotions(picture, face_rectangles=[(0, 0, width, height)])
    emotions = face["emotions"]
    right.append(max(emotions, key=emotions.get) == path.parent.name)
print(json.dumps({"version": version("fer"), "n": len(right), "right": sum(right)}))
"""


def define_flags() -> None:
    """Defines the flags."""
    cli.define_path("images", "Folder of FER-2013's images.", required=True)
    flags.DEFINE_string("fer_python", None, "Python with fer and TensorFlow.", required=True)


def main(arguments: Sequence[str]) -> None:
    """Prints one line."""
    cli.refuse_arguments(arguments)
    options = flags.FLAGS
    result = subprocess.run(
        [options.fer_python, "-c", _FER, str(options.images)], stdout=subprocess.PIPE, text=True
    )
    if result.returncode:
        raise UserError(f"fer ended with status {result.returncode}; see its message above")
    found = json.loads(result.stdout.splitlines()[-1])
    n = found["n"]
    print(f"fer {found['version']}: {accuracy(found['right'] / n, n)} % of {n:,} images")


if __name__ == "__main__":
    cli.run(main, define_flags)
