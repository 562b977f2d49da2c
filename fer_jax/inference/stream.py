"""Predicts a stream of pictures in constant memory: threads decode ahead, batches are full."""

import collections
import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NoReturn

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from fer_jax.data.contract import ImageFormat
from fer_jax.inference.detectors import Detector
from fer_jax.inference.faces import Box, Face, locate, name_label
from fer_jax.inference.pictures import UnreadableError, to_input
from fer_jax.inference.predictor import Predictor
from fer_jax.inference.sources import Frame

_PENDING_BYTES = 1 << 26  # limit on the kept pictures of one batch


@dataclasses.dataclass(frozen=True)
class FramePrediction:
    """The prediction for one picture.

    Attributes:
      frame: the picture's name and number; it cannot be loaded again.
      faces: the faces, from left to right.
      size: width and height of the picture in pixels; zeros if it could not be read.
      picture: the decoded picture; None unless kept.
      error: the reason why the picture could not be read; empty otherwise.
    """

    frame: Frame
    faces: list[Face]
    size: tuple[int, int]
    picture: Image.Image | None
    error: str


def predict_frames(
    predictor: Predictor,
    frames: Iterable[Frame],
    *,
    detector: Detector | None,
    explain: bool,
    keep_pictures: bool,
    at_once: bool,
    min_confidence: float = 0,
) -> Iterator[FramePrediction]:
    """Yields the prediction for each picture, in order.

    Args:
      predictor: the trained model.
      frames: the pictures.
      detector: what finds the faces; None: each picture is one face.
      explain: whether to make heat maps.
      keep_pictures: whether to return the pictures; a batch then ends early at 64 MiB of them.
      at_once: whether to predict each picture alone instead of filling a batch, as for a camera.
      min_confidence: a face whose highest probability is below it gets the label `UNSURE`.

    Raises:
      UserError: `explain` is set and the network has no convolution.
    """
    load = functools.partial(
        _load, images=predictor.images, detector=detector, keep_picture=keep_pictures
    )
    batches: Iterator[list[_Loaded]]
    if at_once:
        batches = ([load(frame)] for frame in frames)
    else:
        batches = _batches(_map_ahead(load, frames), predictor.batch_size)
    for batch in batches:
        yield from _predict(predictor, batch, explain, min_confidence)


@dataclasses.dataclass(frozen=True)
class _Loaded:
    frame: Frame
    boxes: Sequence[Box | None]
    inputs: list[UInt8[np.ndarray, "size size channels"]]
    size: tuple[int, int] = (0, 0)
    picture: Image.Image | None = None
    error: str = ""


def _load(
    frame: Frame, *, images: ImageFormat, detector: Detector | None, keep_picture: bool
) -> _Loaded:
    try:
        picture = frame.load()
    except UnreadableError as error:
        return _Loaded(frame, [], [], error=error.reason)
    # A video's frame holds its pixels until it is loaded, and a batch has hundreds of frames.
    frame = dataclasses.replace(frame, load=_loaded_before)
    boxes: list[Box | None] = [None]
    crops = [picture]
    if detector:
        places = locate(picture, detector)
        boxes, crops = [place.box for place in places], [place.crop(picture) for place in places]
    inputs = [to_input(crop, images) for crop in crops]
    return _Loaded(frame, boxes, inputs, picture.size, picture if keep_picture else None)


def _loaded_before() -> NoReturn:
    raise ValueError("a picture is loaded once")


def _map_ahead(load: Callable[[Frame], _Loaded], frames: Iterable[Frame]) -> Iterator[_Loaded]:
    """Maps in threads and in order, a few pictures ahead of the consumer."""
    threads = os.cpu_count() or 1
    ahead: collections.deque[Future[_Loaded]] = collections.deque()
    with ThreadPoolExecutor(threads) as pool:
        for frame in frames:
            ahead.append(pool.submit(load, frame))
            if len(ahead) > 2 * threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _batches(loaded: Iterable[_Loaded], batch_size: int) -> Iterator[list[_Loaded]]:
    """Groups pictures whose faces fill a batch. A picture without faces counts as one face."""
    batch: list[_Loaded] = []
    rows = pending_bytes = 0
    for one in loaded:
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


def _predict(
    predictor: Predictor, batch: list[_Loaded], explain: bool, min_confidence: float
) -> Iterator[FramePrediction]:
    inputs = [face for loaded in batch for face in loaded.inputs]
    rows: Iterator[tuple] = iter(())
    if inputs:
        prediction, heat = predictor.explain(inputs) if explain else (predictor(inputs), None)
        maps = itertools.repeat(None) if heat is None else heat
        rows = zip(prediction.probabilities, maps, strict=False)
    for loaded in batch:
        faces = []
        for box in loaded.boxes:
            values, heat_map = next(rows)
            label = name_label(values, prediction.classes, min_confidence)
            faces.append(Face(box, label, values, heat_map))
        yield FramePrediction(loaded.frame, faces, loaded.size, loaded.picture, loaded.error)
