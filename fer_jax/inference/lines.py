"""Prints predictions, one line for each face, as a table, JSON lines or csv."""

import csv
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from fer_jax.inference.stream import FramePrediction
from fer_jax.paths import printable

Line = Mapping[str, Any]
"""The output for one face, or for one picture without faces.

  image: name of the file or camera.
  frame: frame number in a video, from 0; None for a picture.
  status: "ok", "no face", or "error: " and the reason why the picture cannot be read.
  box: left, top, width and height in pixels; None for the whole picture, or without a face.
  label: the most probable class; None without a face.
  probabilities: probability of each class by name; None without a face.
"""


def to_lines(prediction: FramePrediction, classes: Sequence[str]) -> Iterator[Line]:
    """Yields a line for each face of a picture, or one line that says why there is none."""
    line = {"image": prediction.frame.name, "frame": prediction.frame.number}
    if not prediction.faces:
        status = f"error: {prediction.error}" if prediction.error else "no face"
        yield {**line, "status": status, "box": None, "label": None, "probabilities": None}
    for face in prediction.faces:
        values = (round(float(value), 6) for value in face.probabilities)
        yield {
            **line,
            "status": "ok",
            "box": face.box,
            "label": face.label,
            "probabilities": dict(zip(classes, values, strict=True)),
        }


def _print_table(classes: Sequence[str]) -> Callable[[Line], None]:
    widths = [max(5, len(name)) for name in classes]
    label_width = max(map(len, [*classes, "no face"]))

    def row(cells: Sequence[str], label: str, place: str) -> None:
        columns = "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        print(f"{columns}   {label:<{label_width}}   {place}")

    def print_line(line: Line) -> None:
        place = printable(line["image"])
        if line["frame"] is not None:
            place += f" frame {line['frame']}"
        if line["status"] == "ok":
            cells = [f"{100 * value:.1f}" for value in line["probabilities"].values()]
            if line["box"]:
                place += " at {},{} {}x{}".format(*line["box"])
            row(cells, line["label"], place)
        else:
            status, _, reason = line["status"].partition(": ")
            row(["-"] * len(classes), status, f"{place}: {printable(reason)}" if reason else place)

    row(classes, "label", "image (probabilities in percent)")
    return print_line


def _print_json(classes: Sequence[str]) -> Callable[[Line], None]:
    return lambda line: print(json.dumps(line))


def _print_csv(classes: Sequence[str]) -> Callable[[Line], None]:
    rows = csv.writer(sys.stdout, lineterminator="\n")
    box = ("left", "top", "width", "height")
    rows.writerow(["image", "frame", "status", *box, "label", *classes])

    def print_line(line: Line) -> None:
        rows.writerow(
            [
                *(line["image"], line["frame"], line["status"]),
                *(line["box"] or [None] * len(box)),
                line["label"],
                *(line["probabilities"] or dict.fromkeys(classes)).values(),
            ]
        )

    return print_line


FORMATS = {"table": _print_table, "jsonl": _print_json, "csv": _print_csv}
"""Functions by format name. Each prints the header and returns a function that prints a line."""
