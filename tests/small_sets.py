"""Makes small sets of labelled faces of other kinds than FER-2013: drawn, in seconds."""

import csv
import zipfile
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image

from data_prep.sample import render

RAF = ("surprise", "fear", "disgust", "happy", "sad", "angry", "neutral")
"""RAF-DB's classes, which its folders and tables call 1 to 7."""

RAF_MAP = ",".join(f"{number}={name}" for number, name in enumerate(RAF, start=1))
"""The --label_map of RAF-DB."""

AFFECTNET = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "angry", "contempt")
"""AffectNet's classes, which its tables call 0 to 7; 8 to 10 are none, uncertain and no face."""

AFFECTNET_MAP = ",".join(
    [*(f"{number}={name}" for number, name in enumerate(AFFECTNET)), "8=-", "9=-", "10=-"]
)
"""The --label_map of AffectNet."""

AFFECTNET_COLUMNS = "file=subDirectory_filePath,label=expression"
"""The --columns of AffectNet."""

_FER = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")


def faces(names: Sequence[str], size: int, *, seed: int = 0) -> Iterator[Image.Image]:
    """Draws a coloured face with the expression of each name; unknown names look neutral."""
    labels = [_FER.index(name if name in _FER else "neutral") for name in names]
    generators = [np.random.default_rng((seed, number)) for number in range(len(names))]
    tints = np.random.default_rng(seed).uniform(0.7, 1, (len(names), 3))
    for grey, tint in zip(render(labels, generators), tints, strict=True):
        colour = (grey[..., None] * tint).astype(np.uint8)
        yield Image.fromarray(colour).resize((size, size))


def save(image: Image.Image, path: Path) -> None:
    """Writes an image below a folder that may not exist yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def write_raf_folders(root: Path, per_class: int = 2, size: int = 100) -> int:
    """Writes folders as RAF-DB's on Kaggle, DATASET/train/1 and so on; returns the number."""
    numbers = count(1)
    for split in ("train", "test"):
        names = [name for name in RAF for _ in range(per_class)]
        for name, face in zip(names, faces(names, size, seed=len(split)), strict=True):
            file = f"{split}_{next(numbers):05}_aligned.jpg"
            save(face, root / "DATASET" / split / str(RAF.index(name) + 1) / file)
    return 2 * per_class * len(RAF)


def write_raf_table(root: Path, per_class: int = 2, size: int = 100) -> int:
    """Writes the official layout of RAF-DB: a list without a header, and aligned faces."""
    lines = []
    for split in ("train", "test"):
        names = [name for name in RAF for _ in range(per_class)]
        for number, face in enumerate(faces(names, size, seed=len(split))):
            name = f"{split}_{number + 1:05}"
            save(face, root / "basic/Image/aligned" / f"{name}_aligned.jpg")
            lines.append(f"{name}.jpg {RAF.index(names[number]) + 1}\n")
            landmarks = root / "basic/Annotation/manual" / f"{name}_manu_attri.txt"
            landmarks.parent.mkdir(parents=True, exist_ok=True)
            landmarks.write_text("89.0\t94.5\n120.1\t91.2\n0\n1\n2\n")
    labels = root / "basic/EmoLabel/list_patition_label.txt"
    labels.parent.mkdir(parents=True)
    labels.write_text("".join(lines))
    return len(lines)


def write_affectnet(root: Path, per_class: int = 2, size: int = 60) -> int:
    """Writes two tables as AffectNet's, each with one image of 8, 9 and 10; returns the number."""
    header = (
        *("subDirectory_filePath", "face_x", "face_y", "face_width", "face_height"),
        *("facial_landmarks", "expression", "valence", "arousal"),
    )
    written = 0
    for table in ("training", "validation"):
        codes = [code for code in range(8) for _ in range(per_class)] + [8, 9, 10]
        names = [AFFECTNET[code] if code < 8 else "neutral" for code in codes]
        with open(root / f"{table}.csv", "w", newline="") as file:
            rows = csv.writer(file)
            # The original validation.csv has no header.
            rows.writerows([header] if table == "training" else [])
            for number, face in enumerate(faces(names, size, seed=len(table))):
                path = f"{number % 3}/{table[0]}{number:04}.png"
                save(face, root / "Manually_Annotated_Images" / path)
                points = "12.3;45.6;78.9"
                rows.writerow((path, 1, 2, size, size, points, codes[number], -0.1, 0.5))
        written += len(codes)
    return written


def write_people(root: Path, people: int = 10, per_class: int = 1, size: int = 64) -> int:
    """Writes a folder for each of three classes, with files such as s03_1.png of a person."""
    names = [name for name in ("bored", "confused", "happy") for _ in range(people * per_class)]
    for number, face in enumerate(faces(names, size)):
        person, take = divmod(number % (people * per_class), per_class)
        save(face, root / names[number] / f"s{person:02}_{take}.png")
    return len(names)


def write_votes(root: Path, number: int = 12, size: int = 48) -> int:
    """Writes a table with a column of votes for each class, and one for "unknown"."""
    names = [("angry", "happy", "sad")[index % 3] for index in range(number)]
    lines = ["file,angry,happy,sad,unknown,split"]
    for index, face in enumerate(faces(names, size)):
        save(face, root / "faces" / f"{index}.png")
        votes = [7 if name == names[index] else 1 for name in ("angry", "happy", "sad")]
        split = "train" if index < number // 2 else "test"
        lines.append(",".join(map(str, (f"{index}.png", *votes, 1, split))))
    (root / "votes.csv").write_text("\n".join(lines) + "\n")
    return number


def zip_folder(folder: Path, file: Path) -> Path:
    """Writes a folder as a zip, and returns its path."""
    with zipfile.ZipFile(file, "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder).as_posix())
    return file
