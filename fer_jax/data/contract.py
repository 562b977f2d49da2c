"""The contract between `data_prep`, which writes the records, and their readers.

Records lie in `DATA_DIR/<name>/1.0.0`. The name is "fer2013", or that of somebody's own data set.
"""

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import UInt8, UInt16

from fer_jax.errors import UserError

CLASS_NAMES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""FER-2013's class names by label, in the order of `fer2013.csv`; sorted folders have another
order. Other data sets have their own."""

IMAGE_SIZE = 48
"""Height and width of FER-2013's images, in pixels. They are uint8 with one grey channel."""

FITS = ("stretch", "crop", "pad")
"""What happens to an image that is not square: it is stretched to a square; the largest square in
its centre is kept; or it gets black borders."""

DATASET_NAME = "fer2013"
DATASET_VERSION = "1.0.0"

INFO_FILES = ("dataset_info.json", "features.json", "label.labels.txt", "metadata.json")
"""Files of the records that describe them. The others, the shards, hold the images."""

FILENAME, IMAGE, LABEL = "filename", "image", "label"
"""Keys of a record: its name in the source (text), uint8[size, size, channels] image and int64
label."""

VOTES, GROUP, ORIGINAL = "votes", "group", "original"
"""Keys that some data sets have: float32[classes], the share of annotators that chose each class
(the rest chose none of them); the person or video (text); and where a face was cut from (text)."""

DIGESTS = "digests.json"
"""The SHA-256 of every other file of the records, by name. Older records lack it."""

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


@dataclasses.dataclass(frozen=True)
class ImageFormat:
    """The images of a data set, and how a picture becomes one.

    Attributes:
      size: height and width, in pixels.
      channels: 1 (grey) or 3 (red, green, blue).
      fit: one of `FITS`.
    """

    size: int = IMAGE_SIZE
    channels: int = 1
    fit: str = "stretch"

    @classmethod
    def from_facts(cls, facts: Mapping) -> "ImageFormat":
        """Reads `facts`."""
        return cls(facts["image_size"], facts["channels"], facts["fit"])

    @property
    def facts(self) -> dict[str, int | str]:
        """The attributes, as config.json has them."""
        return {"image_size": self.size, "channels": self.channels, "fit": self.fit}

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return self.size, self.size, self.channels

    def __str__(self) -> str:
        return f"{self.size}x{self.size} {'grey' if self.channels == 1 else 'RGB'}"


def title_of(name: str) -> str:
    """Returns the name of a data set as people write it."""
    return {DATASET_NAME: "FER-2013", "ferplus": "FER+"}.get(name, name)


def is_name(name: str) -> bool:
    """Whether a data set can have this name; TFDS takes no others."""
    return bool(re.fullmatch("[a-z][a-z0-9_]{0,63}", name))


def record_dir(data_dir: str | os.PathLike) -> Path:
    """Returns the folder under `data_dir` that holds the array records and their metadata.

    If `data_dir` holds records of several names or of none, the folder that FER-2013 would have.
    """
    default = Path(data_dir) / DATASET_NAME / DATASET_VERSION
    if default.exists():
        return default
    found = [
        path for path in Path(data_dir).glob(f"*/{DATASET_VERSION}") if is_name(path.parent.name)
    ]
    return found[0] if len(found) == 1 else default


def digest_files(folder: str | os.PathLike) -> dict[str, str]:
    """Returns the content of `DIGESTS` for a folder of records."""
    files = sorted(path for path in Path(folder).iterdir() if path.name != DIGESTS)
    return {path.name: _digest(path) for path in files}


def check_files(data_dir: str | os.PathLike, names: Iterable[str] | None = None) -> bool:
    """Compares files of the records with their digests, if the records have digests.

    Args:
      data_dir: folder of the records, see `record_dir`.
      names: names of the files; default: all.

    Returns:
      Whether there are digests; older records have none.

    Raises:
      UserError: a file is missing or damaged.
    """
    folder = record_dir(data_dir)
    try:
        digests = json.loads((folder / DIGESTS).read_bytes())
        expected = {name: digests[name] for name in names or [*INFO_FILES, *digests]}
    except FileNotFoundError:
        return False
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise damaged(data_dir, DIGESTS, error) from error
    for name, digest in expected.items():
        try:
            actual = _digest(folder / name)
        except OSError as error:
            raise damaged(data_dir, name, error) from error
        if actual != digest:
            raise damaged(data_dir, name, f"it differs from its digest in {DIGESTS}")
    return True


def damaged(data_dir: str | os.PathLike, name: str, reason: object) -> UserError:
    """Returns the error about a damaged file of the records."""
    folder = record_dir(data_dir)
    own = "" if folder.parent.name == DATASET_NAME else " --labels=folders"
    reason = " ".join(str(getattr(reason, "strerror", None) or reason).split())
    return UserError(
        f"{folder / name} is damaged: {reason}; delete {folder}, then prepare the data again with "
        f"`python -m data_prep --source PATH --data_dir {data_dir}{own}`"
    )


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
