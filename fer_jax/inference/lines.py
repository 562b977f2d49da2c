"""Prints what was predicted, a line for each face: a table, JSON lines or csv."""

import csv
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from fer_jax.inference.stream import Result

Line = Mapping[str, Any]
"""Everything to be known of one face, or of one picture without any.

  image: name.
  frame: its number in a video, from 0; or None.
  status: "ok", "no face", or "error: " and why the picture cannot be read.
  box: left, top, width and height in pixels; None where the picture is the face, or there is none.
  label: the most probable class, or None.
  probabilities: of each class by name, or None.
"""


def to_lines(result: Result, classes: Sequence[str]) -> Iterator[Line]:
    """Returns one line for each face of a picture, or one that says why there is none."""
    line = {"image": result.frame.name, "frame": result.frame.number}
    if not result.faces:
        status = f"error: {result.error}" if result.error else "no face"
        yield {**line, "status": status, "box": None, "label": None, "probabilities": None}
    for face in result.faces:
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
        place = line["image"]
        if line["frame"] is not None:
            place += f" frame {line['frame']}"
        if line["status"] == "ok":
            cells = [f"{100 * value:.1f}" for value in line["probabilities"].values()]
            if line["box"]:
                place += " at {},{} {}x{}".format(*line["box"])
            row(cells, line["label"], place)
        else:
            status, _, reason = line["status"].partition(": ")
            row(["-"] * len(classes), status, f"{place}: {reason}" if reason else place)

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
"""From names to what prints the head, if any, for these classes, and returns what prints a line."""
