"""Finds the pictures that a command names: files, folders, patterns, videos and cameras."""

import dataclasses
import functools
import glob
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from fer_jax.errors import UserError
from fer_jax.inference.pictures import UnreadableError, open_picture

# This package reports what cannot be opened, so OpenCV and FFmpeg stay silent.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

PICTURES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""Suffixes of pictures in folders; a file named by itself can have any suffix."""

VIDEOS = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"})
"""Suffixes of videos."""

_CAMERA = "camera:"


@dataclasses.dataclass(frozen=True)
class Frame:
    """A picture that is not loaded yet.

    Attributes:
      name: the file as the user gave it, or the camera.
      copy: relative path of the annotated copy, without suffix.
      load: function that decodes the picture or raises `UnreadableError`.
      number: frame number in a video or from a camera, from 0; None for a picture.
    """

    name: str
    copy: Path
    load: Callable[[], Image.Image]
    number: int | None = None


def is_camera(argument: str) -> bool:
    """Returns whether an argument names a camera."""
    return argument.startswith(_CAMERA)


def find_frames(arguments: Sequence[str], output: Path | None = None) -> Iterator[Frame]:
    """Returns the pictures of all arguments in order; folders are walked recursively, by name.

    Nothing is read ahead, and a folder's files are listed as they are needed.

    Args:
      arguments: files, folders, patterns, videos, or `camera:` and a number.
      output: folder for the annotated copies.

    Raises:
      UserError: an argument names nothing, a camera cannot be opened, or `output` is a folder that
        is read. It is raised before the first picture.
    """
    return itertools.chain.from_iterable([_open(argument, output) for argument in arguments])


def _open(argument: str, output: Path | None) -> Iterable[Frame]:
    if is_camera(argument):
        return _camera(argument)
    path = Path(argument)
    if output and path.exists():
        _refuse_to_overwrite(path.resolve(), output.resolve())
    if path.is_dir():
        files = _walk(path)
        first = next(files, None)
        if first is None:
            raise UserError(f"{argument} holds no picture or video")
        found = itertools.chain([first], files)
        return itertools.chain.from_iterable(
            _frames(file, file.relative_to(path).with_suffix("")) for file in found
        )
    if path.exists():
        return _frames(path, Path(path.stem))
    matches = sorted(filter(os.path.isfile, glob.iglob(argument, recursive=True)))
    if not matches:
        raise UserError(f"there is no file, folder or pattern {argument!r}")
    return find_frames(matches, output)


def _refuse_to_overwrite(path: Path, output: Path) -> None:
    if output == path.parent or output.is_relative_to(path):
        raise UserError(f"--output={output} is a folder that is read; choose another folder")


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, files in folder.walk():
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in PICTURES | VIDEOS:
                yield parent / name


def _frames(path: Path, copy: Path) -> Iterable[Frame]:
    if path.suffix.lower() in VIDEOS:
        return _video(path, copy)
    return [Frame(str(path), copy, functools.partial(open_picture, path))]


def _video(path: Path, copy: Path) -> Iterator[Frame]:
    def fail() -> Image.Image:
        raise UnreadableError(path, "not a video, or damaged")

    frames = _capture(cv2.VideoCapture(str(path)), str(path), copy)
    yield next(frames, Frame(str(path), copy, fail))
    yield from frames


def _camera(name: str) -> Iterator[Frame]:
    number = name.removeprefix(_CAMERA)
    capture = cv2.VideoCapture(int(number)) if number.isdecimal() else None
    if capture is None or not capture.isOpened():
        raise UserError(f"cannot open {name}; the first camera is {_CAMERA}0")
    return _capture(capture, name, Path(f"camera_{number}"))


def _capture(capture: cv2.VideoCapture, name: str, copy: Path) -> Iterator[Frame]:
    for number in itertools.count():
        more, pixels = capture.read()
        if not more:
            return
        load = functools.partial(_from_bgr, pixels)
        yield Frame(name, copy / f"{number:06d}", load, number)


def _from_bgr(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
