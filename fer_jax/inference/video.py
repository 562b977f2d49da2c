"""Writes what is predicted in a video: an annotated copy, a table and a timeline; or shows it."""

import contextlib
import csv
import importlib.util
import os
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image
from tqdm import tqdm

from fer_jax.errors import UserError, warn, write_atomically
from fer_jax.inference.annotate import Mark, annotate
from fer_jax.inference.faces import Box, name_label
from fer_jax.inference.sources import Clip
from fer_jax.inference.stream import FramePrediction
from fer_jax.inference.timeline import Timeline
from fer_jax.inference.tracks import Track, Tracks
from fer_jax.paths import printable

_MOST_REPEATS = 100  # frames that a late picture of a camera stands for


class Follower:
    """Follows the faces of one video or camera, and labels them by their smoothed probabilities."""

    def __init__(self, classes: Sequence[str], smooth_seconds: float, min_confidence: float):
        self._tracks = Tracks(smooth_seconds)
        self._classes, self._min_confidence = classes, min_confidence

    def follow(self, prediction: FramePrediction) -> list[tuple[Track, str]]:
        """Returns the tracks that have not ended, and their labels."""
        whole = Box(0, 0, *prediction.size)
        tracks = self._tracks.follow(prediction.frame.seconds or 0, prediction.faces, whole)
        return [
            (track, name_label(track.probabilities, self._classes, self._min_confidence))
            for track in tracks
        ]


def draw(prediction: FramePrediction, followed: Sequence[tuple[Track, str]]) -> Image.Image:
    """Returns the frame with its tracks; its size is the same for each frame of a video."""
    assert prediction.picture
    heat = {face.box: face.heat for face in prediction.faces}  # The box is None without detection.
    marks = [
        Mark(
            None if None in heat else track.box,
            f"{track.number} {label} {100 * track.probabilities.max():.0f} %",
            heat.get(None if None in heat else track.box),
        )
        for track, label in followed
    ]
    return annotate(prediction.picture, marks, grow=False)


class VideoOutput:
    """The three files of one video: STEM.mp4, STEM.csv and STEM.png.

    They get their names when the video ends; until then they are hidden. Use it as a context.

    Raises:
      UserError: a file cannot be written.
    """

    def __init__(self, stem: Path, clip: Clip, classes: Sequence[str]):
        self._stem, self._clip, self._classes = stem, clip, classes
        stem.parent.mkdir(parents=True, exist_ok=True)
        hidden = f".{stem.name}.{os.getpid()}.partial"
        self._partial = {end: stem.with_name(hidden + end) for end in (".mp4", ".csv")}
        self._table = self._partial[".csv"].open(
            "w", newline="", encoding="utf-8", errors="surrogateescape"
        )
        self._rows = csv.writer(self._table, lineterminator="\n")
        place = ("track", "left", "top", "width", "height")
        self._rows.writerow(["frame", "seconds", *place, "label", *classes])
        self._timeline = Timeline(classes, 1 / clip.rate)
        self._encoder: _Encoder | None = None
        self._written = 0

    def write(
        self, prediction: FramePrediction, followed: Sequence[tuple[Track, str]], copy: Image.Image
    ) -> None:
        """Adds a frame, its tracks and its annotated copy."""
        number, seconds = prediction.frame.number, prediction.frame.seconds or 0
        for track, label in followed:
            if track.seconds == seconds:
                values = [f"{value:.6f}" for value in track.probabilities]
                row = [number, f"{seconds:.3f}", track.number, *track.box, label, *values]
                self._rows.writerow(row)
                self._timeline.add(track.number, seconds, track.probabilities)
        # H.264 halves the resolution of colours, so it wants even sides.
        pixels = np.asarray(copy)[: copy.height // 2 * 2, : copy.width // 2 * 2]
        if self._encoder is None:
            height, width, _ = pixels.shape
            self._encoder = open_encoder(self._partial[".mp4"], self._clip.rate, (width, height))
        # A camera's pictures come as they are predicted; the copy has a constant rate.
        due = round(seconds * self._clip.rate) + 1
        for _ in range(min(due - self._written, _MOST_REPEATS)):
            self._encoder.write(pixels)
        self._written = max(due, self._written)

    def __enter__(self) -> "VideoOutput":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._table.close()
            if self._encoder:
                self._encoder.close()
            if kind is None:
                title = f"{printable(self._stem.name)}: probability of each class"
                write_atomically(self._stem.with_name(f"{self._stem.name}.png"),
                                 self._timeline.draw(title))  # fmt: skip
                for end, partial in self._partial.items():
                    partial.replace(self._stem.with_name(f"{self._stem.name}{end}"))
        finally:
            for partial in self._partial.values():
                partial.unlink(missing_ok=True)


class _Encoder(Protocol):
    """Writes frames of one size to a file."""

    def write(self, pixels: UInt8[np.ndarray, "height width 3"]) -> None:
        """Adds a frame in RGB."""

    def close(self) -> None:
        """Ends the file."""


def open_encoder(path: Path, rate: float, size: tuple[int, int]) -> _Encoder:
    """Opens an .mp4: H.264 by PyAV if it is installed, otherwise MPEG-4 part 2 by OpenCV."""
    return (_H264 if importlib.util.find_spec("av") else _Mpeg4)(path, rate, size)


class _H264:
    def __init__(self, path: Path, rate: float, size: tuple[int, int]):
        import av

        self._frame: Callable = av.VideoFrame.from_ndarray
        self._file = av.open(str(path), "w")
        # Time to the microsecond: 30,000 / 1,001 frames a second are usual.
        exact = Fraction(rate).limit_denominator(1001)
        self._stream: Any = self._file.add_stream("libx264", rate=exact)
        self._stream.width, self._stream.height = size
        self._stream.pix_fmt = "yuv420p"  # The one that every browser plays.
        self._stream.options = {"preset": "veryfast"}

    def write(self, pixels: UInt8[np.ndarray, "height width 3"]) -> None:
        self._file.mux(self._stream.encode(self._frame(pixels, format="rgb24")))

    def close(self) -> None:
        self._file.mux(self._stream.encode())
        self._file.close()


class _Mpeg4:
    def __init__(self, path: Path, rate: float, size: tuple[int, int]):
        warn("videos are MPEG-4 part 2, which browsers do not play; pip install 'fer_jax[video]'")
        code = cv2.VideoWriter.fourcc(*"mp4v")
        self._writer = cv2.VideoWriter(os.fspath(path), cv2.CAP_FFMPEG, code, rate, size)
        if not self._writer.isOpened():
            raise UserError(f"--output: this OpenCV cannot write {printable(str(path))}")

    def write(self, pixels: UInt8[np.ndarray, "height width 3"]) -> None:
        self._writer.write(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        self._writer.release()


class Window:
    """A window with the latest picture.

    Attributes:
      closed: whether the user has closed it.

    Raises:
      UserError: there is no display, or Python has no Tk.
    """

    def __init__(self, title: str):
        try:
            import tkinter

            from PIL import ImageTk

            self._root = tkinter.Tk()
        except Exception as error:  # ImportError, or TclError of a module that is not imported.
            raise UserError(f"no window can be opened: {error}") from None
        self._photo: Callable = ImageTk.PhotoImage
        self._root.title(title)
        self._label = tkinter.Label(self._root)
        self._label.pack()
        self.closed = False
        self._root.protocol("WM_DELETE_WINDOW", self.close)

    def show(self, picture: Image.Image) -> None:
        """Shows a picture, no larger than the screen."""
        if self.closed:
            return
        picture.thumbnail((self._root.winfo_screenwidth(), self._root.winfo_screenheight()))
        photo = self._photo(picture)
        self._label.configure(image=photo)
        self._shown = photo  # Tk itself does not keep it.
        self._root.update()

    def close(self) -> None:
        """Closes it."""
        if not self.closed:
            self.closed = True
            self._root.destroy()


class Videos:
    """Handles the videos of a stream of predictions, one after the other. Use it as a context.

    Attributes:
      closed: whether the user has closed the window.
    """

    def __init__(
        self,
        classes: Sequence[str],
        *,
        smooth_seconds: float,
        min_confidence: float,
        name_output: Callable[[Path], Path] | None,
        window: Window | None,
    ):
        """Starts without a video.

        Args:
          classes: names, in the order of the probabilities.
          smooth_seconds: probabilities are means over the last seconds.
          min_confidence: a face whose highest probability is below it is unsure.
          name_output: maps a video's relative path to that of its outputs, without suffix; None
            writes none.
          window: shows every frame; None shows none.
        """
        self._classes, self._name, self._window = classes, name_output, window
        self._smoothing = smooth_seconds, min_confidence
        self._clip: Clip | None = None
        self._open = contextlib.ExitStack()

    def add(self, prediction: FramePrediction) -> None:
        """Adds the next prediction; one that is no frame of the current video ends it."""
        clip = prediction.frame.clip
        if clip is not self._clip:
            self._end()
            self._clip = clip
            if clip:
                self._begin(clip, prediction)
        if clip is None:
            return
        followed = self._follower.follow(prediction)
        if prediction.picture and (self._output or self._window):
            copy = draw(prediction, followed)
            if self._output:
                self._output.write(prediction, followed, copy)
            if self._window:
                self._window.show(copy)
        self._bar.update()

    def _begin(self, clip: Clip, prediction: FramePrediction) -> None:
        self._follower = Follower(self._classes, *self._smoothing)
        self._output: VideoOutput | None = None
        if self._name:
            output = VideoOutput(self._name(prediction.frame.copy), clip, self._classes)
            self._output = self._open.enter_context(output)
        name = printable(Path(prediction.frame.name).name)
        # By default a bar appears on a terminal only.
        bar = tqdm(total=clip.frames or None, desc=name, unit=" frames", disable=None)
        self._bar = self._open.enter_context(bar)

    def _end(self) -> None:
        self._open.close()

    def __enter__(self) -> "Videos":
        return self

    def __exit__(self, *exception: Any) -> None:
        self._open.__exit__(*exception)
        if self._window:
            self._window.close()
