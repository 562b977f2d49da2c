"""Makes small releases of FER-2013, and reads the results of converting them."""

import csv
import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from data_prep.builder import read_metadata
from fer_jax.data.contract import (
    CLASS_NAMES,
    FILENAME,
    GROUP,
    IMAGE,
    LABEL,
    ORIGINAL,
    record_dir,
)

_TEXTS = (FILENAME, GROUP, ORIGINAL)


def noise(seed: int, size: tuple[int, ...] = (48, 48), dtype: type = np.uint8) -> np.ndarray:
    """Returns an array over the whole range of `dtype`, different for every seed."""
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, size, dtype, endpoint=True)


def encode(image: Image.Image | np.ndarray, kind: str = "png", **options: object) -> bytes:
    """Returns the bytes of an image file."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def raw_png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """Returns a PNG that Pillow cannot write; each of `rows` starts with a filter byte."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def write_folders(root: Path, per_class: int = 2, prefixed: bool = True) -> dict[str, tuple]:
    """Writes the folder release as PNG; returns the `Run.records` to expect from it."""
    expected = {}
    seed = 0
    usages = {"train": ("Training",), "test": ("PublicTest", "PrivateTest")}
    splits = {"Training": "train", "PublicTest": "public_test", "PrivateTest": "private_test"}
    for folder, prefixes in usages.items():
        for label, name in enumerate(CLASS_NAMES):
            (root / folder / name).mkdir(parents=True, exist_ok=True)
            for prefix in prefixes:
                for number in range(per_class):
                    seed += 1
                    file = f"{prefix}_{number}.png" if prefixed else f"{seed}.png"
                    split = splits[prefix] if prefixed else folder
                    (root / folder / name / file).write_bytes(encode(noise(seed)))
                    expected[f"{folder}/{name}/{file}"] = (split, label, noise(seed).tobytes())
    return expected


def csv_row(label: object, pixels: np.ndarray, usage: str = "Training") -> str:
    return f"{label},{' '.join(map(str, pixels.ravel()))},{usage}"


class Run(SimpleNamespace):
    """The result of a command: `status`, `out`, `err` and `data_dir`."""

    @property
    def records(self) -> dict[str, tuple]:
        """The split, label and pixel bytes of each record, by file name."""
        builder = tfds.builder_from_directory(record_dir(self.data_dir))
        records = {}
        for split in builder.info.splits:
            for record in builder.as_data_source(split):
                image = record[IMAGE]
                assert image.shape == (48, 48, 1)
                assert image.dtype == np.uint8
                name = record[FILENAME].decode()
                records[name] = (split, int(record[LABEL]), image.tobytes())
        return records

    @property
    def examples(self) -> dict[str, dict]:
        """All features of each record and its `split`, by file name; the label is a name."""
        builder = tfds.builder_from_directory(record_dir(self.data_dir))
        names = builder.info.features[LABEL].names
        found = {}
        for split in builder.info.splits:
            for record in builder.as_data_source(split):
                texts = {key: value.decode() for key, value in record.items() if key in _TEXTS}
                label = names[record[LABEL]]
                found[texts[FILENAME]] = {**record, **texts, "split": split, LABEL: label}
        return found

    @property
    def metadata(self) -> dict:
        return read_metadata(self.data_dir)

    @property
    def quarantine(self) -> dict[str, str]:
        """The split and reason of each quarantined name, as in "train: empty file"."""
        with open(self.data_dir / "quarantine.csv", newline="") as lines:
            rows = list(csv.DictReader(lines))
        assert len({row["name"] for row in rows}) == len(rows)
        return {row["name"]: f"{row['split']}: {row['reason']}" for row in rows}

    @property
    def wrote_records(self) -> bool:
        return record_dir(self.data_dir).exists()


def start(*arguments: object) -> subprocess.Popen:
    """Starts the command in a new process."""
    return subprocess.Popen(
        [sys.executable, "-m", "data_prep", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def assert_one_line_error(run: Run, *words: str) -> None:
    """Asserts status 2, no output, and a message of one line that contains `words`."""
    assert run.status == 2, run.err
    assert run.err.count("\n") == 1, run.err
    for word in words:
        assert word in run.err
    assert not run.out
