"""Compares the face detectors on labelled pictures: what each finds, invents, and costs.

Example:
  python -m benchmarks.accuracy.face_detection --pictures=composed --workdir=runs/resnet

The folder holds pictures and faces.json: [{"file": NAME, "faces": [{"box": [left, top, width,
height], "angle": DEGREES, "class": NAME}, ...]}, ...]. A face is found if a box overlaps its own by
50 % (intersection over union). A box that does not is "loose" on a face that nothing else finds,
and false elsewhere. With --workdir the faces that the default detector finds are classified, too,
each as it is and turned upright.
"""

import collections
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image

from fer_jax import cli
from fer_jax.inference.detectors import DEFAULT, DETECTORS
from fer_jax.inference.faces import Box, locate
from fer_jax.inference.pictures import open_picture

_LEVELS = ((1, 0), (0.2, 0), (0.1, 0), (0.05, 0), (0.2, 150))  # factor and offset
_FOUND, _LOOSE = 0.5, 0.1


def define_flags() -> None:
    """Defines --pictures, --levels and --workdir."""
    flags.DEFINE_multi_string("pictures", None, "Folder with faces.json.", required=True)
    flags.DEFINE_bool("levels", False, "Search darker and paler copies, too.")
    cli.define_path("workdir", "Run that classifies the found faces.")


def main(arguments: Sequence[str]) -> None:
    """Prints tables of Markdown."""
    cli.refuse_arguments(arguments)
    labels = [
        (Path(folder) / picture["file"], picture["faces"])
        for folder in flags.FLAGS.pictures
        for picture in json.loads((Path(folder) / "faces.json").read_text())
    ]
    angles = sorted({face["angle"] for _, faces in labels for face in faces})
    print(f"{len(labels)} pictures, {sum(len(faces) for _, faces in labels)} faces\n")
    columns = ["detector", "levels", *(f"found at {angle}°" for angle in angles)]
    print(f"| {' | '.join([*columns, 'loose', 'false', 'CPU ms per picture'])} |")
    print(f"|---|---{'|---:' * (len(angles) + 3)}|")
    for factor, offset in _LEVELS if flags.FLAGS.levels else _LEVELS[:1]:
        for detector in DETECTORS:
            total: collections.Counter = collections.Counter()
            for path, faces in labels:
                picture = open_picture(path)
                if (factor, offset) != (1, 0):
                    table = [int(factor * level + offset) for level in range(256)]
                    picture = picture.point(table * len(picture.getbands()))
                start = time.process_time()
                boxes = [place.box for place in locate(picture, detector)]
                total["seconds"] += time.process_time() - start  # type: ignore[assignment]
                total += count(boxes, faces)
            found = [
                f"{100 * total['found', angle] / total['faces', angle]:.0f} %" for angle in angles
            ]
            row = [detector, f"{factor} · levels + {offset}", *found]
            cost = 1000 * total["seconds"] / len(labels)
            row += [f"{total['loose']}", f"{total['false']}", f"{cost:.0f}"]
            print(f"| {' | '.join(row)} |", flush=True)
    if flags.FLAGS.workdir:
        classify(labels, angles)


def count(boxes: Sequence[Box], faces: Sequence[dict]) -> collections.Counter:
    """Returns how many faces there are and are found, by angle; and loose and false boxes."""
    left, counts, missed = list(boxes), collections.Counter[object](), []
    for face in faces:
        counts["faces", face["angle"]] += 1
        best = max(left, key=lambda box: overlap(box, face["box"]), default=None)
        if best and overlap(best, face["box"]) >= _FOUND:
            left.remove(best)
            counts["found", face["angle"]] += 1
        else:
            missed.append(face["box"])
    for box in left:
        loose = any(overlap(box, face) >= _LOOSE for face in missed)
        counts["loose" if loose else "false"] += 1
    return counts


def classify(labels: Sequence[tuple[Path, Sequence[dict]]], angles: Sequence[int]) -> None:
    """Prints the accuracy on the found faces, as they are and turned upright."""
    from fer_jax import Predictor

    cli.set_up_jax()
    predictor = Predictor.from_workdir(flags.FLAGS.workdir)
    crops: list[tuple[Image.Image, Image.Image]] = []
    truths: list[tuple[int, str]] = []
    for path, faces in labels:
        picture = open_picture(path)
        for place in locate(picture, DEFAULT):
            face = max(faces, key=lambda face: overlap(place.box, face["box"]))
            if overlap(place.box, face["box"]) >= _FOUND:
                crops.append((place.box.crop(picture), place.crop(picture)))
                truths.append((face["angle"], face["class"]))
    plain, upright = (predictor(list(each)).labels for each in zip(*crops, strict=True))
    print("\n| faces at | n | accuracy as they are | turned upright |\n|---|---:|---:|---:|")
    for angle in angles:
        chosen = [k for k, (turn, _) in enumerate(truths) if turn == angle]
        shares = [
            100 * np.mean([each[k] == truths[k][1] for k in chosen]) for each in (plain, upright)
        ]
        print(f"| {angle}° | {len(chosen)} | {shares[0]:.1f} % | {shares[1]:.1f} % |")


def overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Returns intersection over union of two boxes: left, top, width, height."""
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    common = max(width, 0) * max(height, 0)
    return common / (one[2] * one[3] + other[2] * other[3] - common)


if __name__ == "__main__":
    cli.run(main, define_flags)
