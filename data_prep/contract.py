"""What the writer of the records and their reader must agree on, and nothing else.

`fer_jax` imports this file from `data_prep` and no other.
"""

import os
from pathlib import Path

CLASS_NAMES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""Label k is `CLASS_NAMES[k]`: the order of `fer2013.csv`, never that of sorted folders."""

IMAGE_SIZE = 48
"""Height and width of every stored image, in pixels; one grey channel, uint8."""

DATASET_NAME = "fer2013"
DATASET_VERSION = "1.0.0"

FILENAME, IMAGE, LABEL = "filename", "image", "label"
"""The features of one record: its source's name (text), uint8[48, 48, 1], and int64 label."""

PUBLISHED_COUNTS = {
    "train": (3995, 436, 4097, 7215, 4830, 3171, 4965),
    "public_test": (467, 56, 496, 895, 653, 415, 607),
    "private_test": (491, 55, 528, 879, 594, 416, 626),
    "test": (958, 111, 1024, 1774, 1247, 831, 1233),
}
"""Images per split and class as published, in the order of `CLASS_NAMES`."""


class UserError(Exception):
    """Something the user can mend. Its message is one line: what is wrong, and what to do.

    Commands print it without a traceback and end with exit status 2.
    """


def record_dir(data_dir: str | os.PathLike) -> Path:
    """Returns the folder under `data_dir` that holds the array records and their metadata."""
    return Path(data_dir) / DATASET_NAME / DATASET_VERSION


def write_atomically(path: str | os.PathLike, content: str | bytes) -> None:
    """Writes `content` so that readers see the old file or the whole new one, even after kills."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    if isinstance(content, str):
        content = content.encode()
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
