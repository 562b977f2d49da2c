"""Predicts a stream of pictures in constant memory: decoded ahead by threads, in full batches."""

import collections
import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from fer_jax.inference.faces import Box, find_faces
from fer_jax.inference.pictures import UnreadableError, to_input
from fer_jax.inference.predictor import Predictor
from fer_jax.inference.sources import Frame

_PENDING_BYTES = 1 << 28  # Of pictures that wait for their batch, where they are kept.


@dataclasses.dataclass(frozen=True)
class Face:
    """One face of a picture.

    Attributes:
      box: around it; None where no faces were looked for, and it is the whole picture.
      label: its most probable class.
      probabilities: of the predictor's classes.
      heat: by Grad-CAM, over the box; None where not asked for.
    """

    box: Box | None
    label: str
    probabilities: Float[np.ndarray, " classes"]
    heat: Float[np.ndarray, "rows columns"] | None


@dataclasses.dataclass(frozen=True)
class Result:
    """What came of one picture.

    Attributes:
      frame: which picture.
      faces: from left to right.
      picture: None where not kept.
      error: why it could not be read, or empty.
    """

    frame: Frame
    faces: list[Face]
    picture: Image.Image | None
    error: str


def predict_frames(
    predictor: Predictor,
    frames: Iterable[Frame],
    *,
    detect_faces: bool,
    explain: bool,
    keep_pictures: bool,
    at_once: bool,
) -> Iterator[Result]:
    """Yields what comes of each picture, in order.

    Args:
      predictor: of the faces.
      frames: the pictures.
      detect_faces: find the faces in each picture; otherwise it is one.
      explain: make heat maps too; `UserError` where the network has no convolution.
      keep_pictures: in the results; a batch is then cut short at 256 MiB of them.
      at_once: wait for no batch to fill up, as before a camera.
    """
    look = functools.partial(_look, detect_faces=detect_faces, keep_picture=keep_pictures)
    batches: Iterator[list[_Seen]]
    if at_once:
        batches = ([look(frame)] for frame in frames)
    else:
        batches = _batches(_map_ahead(look, frames), predictor.batch_size)
    for batch in batches:
        yield from _predict(predictor, batch, explain)


@dataclasses.dataclass(frozen=True)
class _Seen:
    frame: Frame
    boxes: Sequence[Box | None]
    inputs: list[UInt8[np.ndarray, "48 48 1"]]
    picture: Image.Image | None = None
    error: str = ""


def _look(frame: Frame, *, detect_faces: bool, keep_picture: bool) -> _Seen:
    try:
        picture = frame.load()
    except UnreadableError as error:
        return _Seen(frame, [], [], error=error.reason)
    boxes = find_faces(picture) if detect_faces else [None]
    inputs = [to_input(box.crop(picture) if box else picture) for box in boxes]
    return _Seen(frame, boxes, inputs, picture if keep_picture else None)


def _map_ahead(look: Callable[[Frame], _Seen], frames: Iterable[Frame]) -> Iterator[_Seen]:
    """Maps in threads and in order, a few pictures ahead of whoever takes the results."""
    threads = os.cpu_count() or 1
    ahead: collections.deque[Future[_Seen]] = collections.deque()
    with ThreadPoolExecutor(threads) as pool:
        for frame in frames:
            ahead.append(pool.submit(look, frame))
            if len(ahead) > 2 * threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _batches(seen: Iterable[_Seen], batch_size: int) -> Iterator[list[_Seen]]:
    """Groups pictures whose faces fill a batch; one without a face counts as one."""
    batch: list[_Seen] = []
    rows = pending_bytes = 0
    for one in seen:
        more = max(1, len(one.inputs))
        if batch and (rows + more > batch_size or pending_bytes > _PENDING_BYTES):
            yield batch
            batch, rows, pending_bytes = [], 0, 0
        batch.append(one)
        rows += more
        if one.picture is not None:
            pending_bytes += one.picture.width * one.picture.height * 3
    if batch:
        yield batch


def _predict(predictor: Predictor, batch: list[_Seen], explain: bool) -> Iterator[Result]:
    inputs = [face for seen in batch for face in seen.inputs]
    rows: Iterator[tuple] = iter(())
    if inputs:
        prediction, heat = predictor.explain(inputs) if explain else (predictor(inputs), None)
        maps = itertools.repeat(None) if heat is None else heat
        rows = zip(prediction.labels, prediction.probabilities, maps, strict=False)
    for seen in batch:
        faces = [Face(box, *next(rows)) for box in seen.boxes]
        yield Result(seen.frame, faces, seen.picture, seen.error)
