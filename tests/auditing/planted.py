"""Drawn faces with every fault that an audit looks for, each planted at a known place."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

from data_prep.builder import write_records
from data_prep.checking import Record, fingerprints
from data_prep.description import Description
from data_prep.sample import render
from fer_jax.data.contract import CLASS_NAMES, ImageFormat

TRAIN, TEST = 84, 42  # Faces without a fault.

PAIRS = {
    "duplicate": {
        ("train-0", "same"): "",
        ("train-1", "other-label"): "",
        ("train-3", "noisy"): "",
        ("train-4", "mirrored"): "mirrored",
        ("train-5", "shifted"): "shifted by 3 and 2",
        ("train-6", "mirrored-shifted"): "mirrored shifted by 3 and 2",
        ("test-0", "test-same"): "",
    },
    "leak": {
        ("leaked", "train-7"): "",
        ("leaked-mirrored", "train-8"): "mirrored",
        ("leaked-other-label", "train-9"): "",
    },
}
"""The two images of each copy, and how they lie on each other, up to signs and order."""

THREE = {"train-2", "three-other-label", "three"}
"""Three copies in train, of which the last has another label than the others."""

OTHER_LABEL = {"other-label", "three-other-label", "leaked-other-label"}
BLANK, TEXT = {"black", "grey"}, {"notice", "test-notice"}
WRONG = {f"test-{k}" for k in (11, 17, 23)}
"""Images whose predictions contradict their labels."""


def shift(image: np.ndarray, right: int, down: int) -> np.ndarray:
    """Moves an image and repeats its edge, as a crop beside the first one would not."""
    framed = np.pad(image, ((down, 0), (right, 0)), mode="edge")
    return framed[: image.shape[0], : image.shape[1]]


def notice(lines: str) -> np.ndarray:
    picture = Image.new("L", (48, 48), 250)
    ImageDraw.Draw(picture).multiline_text((2, 8), lines, fill=20, font_size=9)
    return np.asarray(picture)


def make_planted(data_dir: Path, *, size: int = 48, channels: int = 1) -> Path:
    """Writes records of faces and faults, of any size; positions are in pixels of 48."""
    random = np.random.default_rng(0)
    labels = np.arange(TRAIN + TEST) % len(CLASS_NAMES)
    generators = [np.random.default_rng((1, k)) for k in range(len(labels))]
    faces = render(labels.tolist(), generators)
    images = {f"train-{k}": faces[k] for k in range(TRAIN)}
    images |= {f"test-{k}": faces[TRAIN + k] for k in range(TEST)}
    noisy = np.round(faces + random.normal(0, 3.5, faces.shape)).clip(0, 255).astype(np.uint8)
    too_noisy = np.round(faces + random.normal(0, 12, faces.shape)).clip(0, 255).astype(np.uint8)
    images |= {
        "same": faces[0],
        "other-label": faces[1],
        "three": faces[2],
        "three-other-label": faces[2],
        "noisy": noisy[3],
        "mirrored": faces[4][:, ::-1],
        "shifted": shift(faces[5], 3, 2),
        "mirrored-shifted": shift(faces[6][:, ::-1], 3, 2),
        "another": too_noisy[10],  # Too different to be a copy.
        "black": np.zeros((48, 48), np.uint8),
        "notice": notice("image moved\nor deleted"),
        "test-same": faces[TRAIN],
        "leaked": faces[7],
        "leaked-mirrored": faces[8][:, ::-1],
        "leaked-other-label": faces[9],
        "grey": random.integers(120, 123, (48, 48), np.uint8),
        "test-notice": notice("no longer\navailable\nhere"),
    }
    in_test = {"leaked", "leaked-mirrored", "leaked-other-label", "grey"}
    originals = {"same": 0, "three": 2, "noisy": 3, "mirrored": 4, "shifted": 5}
    originals |= {"mirrored-shifted": 6, "leaked": 7, "leaked-mirrored": 8, "test-same": TRAIN}
    originals |= {f"train-{k}": k for k in range(TRAIN)}
    originals |= {f"test-{k}": TRAIN + k for k in range(TEST)}
    originals |= {"other-label": 1 + 1, "three-other-label": 2 + 1, "leaked-other-label": 9 + 1}
    records = []
    for name, image in images.items():
        split = "public_test" if name.startswith("test") or name in in_test else "train"
        label = CLASS_NAMES[labels[originals.get(name, 0)]]
        pixels = cv2.resize(image, (size, size), interpolation=cv2.INTER_NEAREST)
        picture = Image.fromarray(pixels).convert("L" if channels == 1 else "RGB")
        records.append(Record(name, split, label, picture))
    description = Description(images=ImageFormat(size, channels))
    metadata = {"source": "folders", "images": len(records), "quarantined": 0}
    metadata |= fingerprints(records)
    write_records(data_dir, records, description, metadata, show_progress=False)
    return data_dir
