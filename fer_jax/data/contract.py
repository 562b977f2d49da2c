"""The contract between `data_prep`, which writes the records, and their readers."""

import os
from pathlib import Path

import numpy as np
from jaxtyping import UInt8, UInt16

CLASS_NAMES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""Class names by label, in the order of `fer2013.csv`; sorted folders have another order."""

IMAGE_SIZE = 48
"""Height and width of every stored image, in pixels. Images are uint8 with one grey channel."""

DATASET_NAME = "fer2013"
DATASET_VERSION = "1.0.0"

FILENAME, IMAGE, LABEL = "filename", "image", "label"
"""Keys of a record: its name in the source (text), uint8[48, 48, 1] image and int64 label."""

PUBLISHED_COUNTS = {
    "train": (3995, 436, 4097, 7215, 4830, 3171, 4965),
    "public_test": (467, 56, 496, 895, 653, 415, 607),
    "private_test": (491, 55, 528, 879, 594, 416, 626),
    "test": (958, 111, 1024, 1774, 1247, 831, 1233),
}
"""Published number of images per split and class, in the order of `CLASS_NAMES`."""


def to_eight_bits(levels: UInt16[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """Scales 16-bit levels to 8 bits: `round(level / 257)`."""
    return ((levels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def record_dir(data_dir: str | os.PathLike) -> Path:
    """Returns the folder under `data_dir` that holds the array records and their metadata."""
    return Path(data_dir) / DATASET_NAME / DATASET_VERSION
