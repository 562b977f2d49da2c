"""Finds the pictures that a command names: files, folders, patterns, videos and cameras."""

import dataclasses
import functools
import glob
import itertools
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from fer_jax.data.pixels import describe_special, picture_suffixes
from fer_jax.errors import UserError
from fer_jax.inference.pictures import UnreadableError, naming, open_picture, require_regular
from fer_jax.paths import printable

# This package reports what cannot be opened, so OpenCV and FFmpeg stay silent.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

VIDEOS = frozenset(
    {".3g2", ".3gp", ".asf", ".avi", ".divx", ".f4v", ".flv", ".m2ts", ".m2v", ".m4v", ".mjpeg"}
    | {".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".ogm", ".ogv", ".qt"}
    | {".ts", ".vob", ".webm", ".wmv"}
)
"""Suffixes of videos. In folders, files with these and with the suffixes of pictures are read; a
picture named by itself can have any suffix."""

_CAMERA = "camera:"
_MOST_FRAMES = 1e9  # announced by a sound video: a year of frames
_MOST_RATE = 1000  # frames per second, announced by a sound video
_USUAL_RATE = 25  # of a video that announces none
_CAMERA_RATE = 10  # frames per second of a camera's annotated copy
_MOST_DAMAGED = 1000  # damaged frames in a row that are passed over


@dataclasses.dataclass(frozen=True, eq=False)
class Clip:
    """A video or a camera's view.

    Attributes:
      rate: frames per second that are read.
      frames: number of frames that will be read, as far as the file tells; 0 if unknown.
    """

    rate: float
    frames: int = 0


@dataclasses.dataclass(frozen=True)
class Frame:
    """A picture that is not loaded yet.

    Attributes:
      name: the file as the user gave it, or the camera.
      copy: relative path of what is written for the picture or its video, without suffix.
      load: function that decodes the picture or raises `UnreadableError`.
      number: frame number in a video or from a camera, from 0; None for a picture.
      seconds: time since the first frame; None for a picture.
      clip: the video; None for a picture.
    """

    name: str
    copy: Path
    load: Callable[[], Image.Image]
    number: int | None = None
    seconds: float | None = None
    clip: Clip | None = None


def is_camera(argument: str) -> bool:
    """Returns whether an argument names a camera."""
    return argument.startswith(_CAMERA)


def find_frames(
    arguments: Sequence[str], output: Path | None = None, every: int = 1
) -> Iterator[Frame]:
    """Returns the pictures of all arguments in order; folders are walked recursively, by name.

    Nothing is read ahead, and a folder's files are listed as they are needed.

    Args:
      arguments: files, folders, patterns, videos, or `camera:` and a number.
      output: folder for the annotated copies.
      every: read the first and then every so many frames of a video.

    Raises:
      UserError: an argument names nothing, a camera cannot be opened, or `output` is a folder that
        is read. It is raised before the first picture.
    """
    return itertools.chain.from_iterable([_open(argument, output, every) for argument in arguments])


def _open(argument: str, output: Path | None, every: int) -> Iterable[Frame]:
    if is_camera(argument):
        return _camera(argument)
    path = Path(argument)
    try:
        exists = argument != "" and path.exists()
    except OSError as error:  # The name is too long, or a folder must not be entered.
        raise UserError(f"cannot read {argument!r}: {error.strerror}") from None
    if output and exists:
        _refuse_to_overwrite(path.resolve(), output.resolve())
    if exists and path.is_dir():
        frames = _walk(path, output, every)
        first = next(frames, None)
        if first is None:
            raise UserError(f"{argument!r} holds no picture or video")
        return itertools.chain([first], frames)
    if exists:
        return _frames(path, Path(path.stem), every)
    matches = [Path(match) for match in sorted(glob.iglob(argument, recursive=True))]
    matches = [match for match in matches if not os.path.isdir(match)]
    if not matches:
        raise UserError(f"there is no file, folder or pattern {argument!r}")
    if output:
        for match in matches:
            _refuse_to_overwrite(match.resolve(), output.resolve())
    return itertools.chain.from_iterable(
        _frames(match, Path(match.stem), every) for match in matches
    )


def _refuse_to_overwrite(path: Path, output: Path) -> None:
    if output == path.parent or output.is_relative_to(path):
        raise UserError(f"--output={output} is a folder that is read; choose another folder")


def _walk(folder: Path, output: Path | None, every: int) -> Iterator[Frame]:
    """Yields the frames of a folder's files, then of those in its folders. Links are followed."""
    seen = {os.path.realpath(output)} if output else set()
    folders = [(folder, Path())]
    while folders:
        folder, copies = folders.pop()
        if (place := os.path.realpath(folder)) in seen:  # A link to a parent would loop for ever.
            continue
        seen.add(place)
        try:
            paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        except OSError as error:
            yield _unreadable(str(folder), error.strerror or str(error))
            continue
        for path in paths:
            if os.path.isdir(path):
                continue
            if os.path.exists(path) and not os.path.isfile(path):
                kind = describe_special(path)
                print(f"passed over {printable(str(path))}: {kind}, not a file", file=sys.stderr)
            elif path.suffix.lower() in picture_suffixes() | VIDEOS:
                yield from _frames(path, copies / path.stem, every)
        inner = [(path, copies / path.name) for path in paths if os.path.isdir(path)]
        folders += reversed(inner)


def _frames(path: Path, copy: Path, every: int) -> Iterable[Frame]:
    if path.suffix.lower() in VIDEOS:
        return _video(path, copy, every)
    return [Frame(str(path), copy, functools.partial(open_picture, path))]


def _unreadable(name: str, reason: str) -> Frame:
    def fail() -> Image.Image:
        raise UnreadableError(name, reason)

    return Frame(name, Path(), fail)


def _video(path: Path, copy: Path, every: int) -> Iterator[Frame]:
    """Yields every so many of the readable frames; then an error if the file announces more."""
    name = str(path)
    try:
        with naming(path):
            require_regular(path)
            with path.open("rb") as file:
                is_avi = file.read(4) == b"RIFF"
    except UnreadableError as error:
        yield _unreadable(name, error.reason)
        return
    # As bytes, because a text that is not UTF-8 crashes OpenCV; absolute, so that it is no address.
    place: Any = os.fsencode(path.absolute())
    capture = cv2.VideoCapture(place, cv2.CAP_FFMPEG)
    announced = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    expected = round(announced) if 0 < announced < _MOST_FRAMES else 0  # 0 if it is unknown.
    rate = capture.get(cv2.CAP_PROP_FPS)
    if not 0 < rate <= _MOST_RATE:
        rate = _USUAL_RATE
    clip = Clip(rate / every, math.ceil(expected / every))
    read = 0
    for number, pixels in _read(capture, expected):
        if number % every == 0:
            load = functools.partial(_from_bgr, pixels)
            yield Frame(name, copy, load, number, number / rate, clip)
        read += 1
    # An AVI counts its frames. Others also count what is trimmed away or only heard.
    tolerated = 0 if is_avi else min(capture.get(cv2.CAP_PROP_FPS), expected / 10)
    if not read:
        yield _unreadable(name, "not a video, or damaged")
    elif expected - read > tolerated:
        yield _unreadable(name, f"{read:,} of about {expected:,} frames could be read")


def _read(capture: cv2.VideoCapture, expected: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yields frames and their numbers. Frames behind damaged ones are read, as far as expected."""
    read = damaged = 0
    for number in itertools.count():
        more, pixels = capture.read()
        if more:
            yield number, pixels
            read, damaged = read + 1, 0
        elif damaged < min(expected - read, _MOST_DAMAGED):
            damaged += 1
        else:
            return


def _camera(name: str) -> Iterator[Frame]:
    number = name.removeprefix(_CAMERA)
    try:
        capture = cv2.VideoCapture(int(number)) if number.isdecimal() else None
    except (cv2.error, ValueError):  # The number is too large.
        capture = None
    if capture is None or not capture.isOpened():
        raise UserError(f"cannot open {printable(name)}; the first camera is {_CAMERA}0")
    return _live(capture, name, Path(f"camera_{number}"))


def _live(capture: cv2.VideoCapture, name: str, copy: Path) -> Iterator[Frame]:
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # The latest picture, not an old one.
    clip = Clip(_CAMERA_RATE)
    start = time.monotonic()
    for number, pixels in _read(capture, expected=0):
        seconds = time.monotonic() - start
        yield Frame(name, copy, functools.partial(_from_bgr, pixels), number, seconds, clip)
    yield _unreadable(name, "the camera gives no more pictures")


def _from_bgr(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
