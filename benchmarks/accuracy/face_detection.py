"""Counts the faces that are found in labelled pictures, as they are, darker and paler.

Example:
  python -m benchmarks.accuracy.face_detection --pictures=composed

The folder holds pictures and faces.json: [{"file": NAME, "faces": [{"box": [left, top, width,
height]}, ...]}, ...]. A face is found if a box overlaps its own by 40 % (intersection over union).
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image

from fer_jax import cli
from fer_jax.inference.faces import find_faces
from fer_jax.inference.pictures import open_picture

_LEVELS = ((1, 0), (0.2, 0), (0.1, 0), (0.05, 0), (0.2, 150))  # factor and offset
_OVERLAP = 0.4


def define_flags() -> None:
    """Defines --pictures."""
    flags.DEFINE_multi_string("pictures", None, "Folder with faces.json.", required=True)


def main(arguments: Sequence[str]) -> None:
    """Prints a table of Markdown."""
    cli.refuse_arguments(arguments)
    labels = [
        (Path(folder) / picture["file"], [face["box"] for face in picture["faces"]])
        for folder in flags.FLAGS.pictures
        for picture in json.loads((Path(folder) / "faces.json").read_text())
    ]
    print(f"{len(labels)} pictures, {sum(len(faces) for _, faces in labels)} faces\n")
    print("| levels | faces found | false |\n|---|---:|---:|")
    for factor, offset in _LEVELS:
        counts = [count(open_picture(path), faces, factor, offset) for path, faces in labels]
        found, false = np.sum(counts, axis=0)
        print(f"| {factor} · levels + {offset} | {found} | {false} |", flush=True)


def count(
    picture: Image.Image, faces: list[list[float]], factor: float, offset: int
) -> tuple[int, int]:
    """Returns how many faces are found in a picture with other levels, and how many boxes err."""
    levels = np.asarray(picture.convert("L")) * factor + offset
    boxes: list = list(find_faces(Image.fromarray(levels.astype(np.uint8))))
    found = 0
    for face in faces:
        best = max(boxes, key=lambda box: overlap(box, face), default=None)
        if best and overlap(best, face) > _OVERLAP:
            boxes.remove(best)
            found += 1
    return found, len(boxes)


def overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Returns intersection over union of two boxes: left, top, width, height."""
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    common = max(width, 0) * max(height, 0)
    return common / (one[2] * one[3] + other[2] * other[3] - common)


if __name__ == "__main__":
    cli.run(main, define_flags)
