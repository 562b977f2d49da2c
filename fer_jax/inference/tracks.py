"""Follows faces through a video: which boxes are one face, and what it shows on average."""

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from fer_jax.inference.faces import Box, Face

_LEAST_OVERLAP = 0.3  # of a face's boxes in two frames, intersection over union
_ROUNDING = 1e-6  # seconds
_BRIDGED_SECONDS = 0.5  # without a box, after which a track ends


@dataclasses.dataclass
class Track:
    """A face that is followed.

    Attributes:
      number: number of the track in its video, from 1.
      box: where the face was found last.
      seconds: when that was.
      probabilities: mean over the last seconds.
    """

    number: int
    box: Box
    seconds: float
    probabilities: Float[np.ndarray, " classes"]
    _recent: collections.deque[tuple[float, Float[np.ndarray, " classes"]]]

    def _add(self, box: Box, seconds: float, face: Face, window: float) -> None:
        self.box, self.seconds = box, seconds
        self._recent.append((seconds, face.probabilities))
        while self._recent[0][0] < seconds - window + _ROUNDING and len(self._recent) > 1:
            self._recent.popleft()
        self.probabilities = np.mean([values for _, values in self._recent], axis=0)


class Tracks:
    """The faces of a video. A box continues the track whose last box it overlaps most.

    A face that is not found for up to half a second, or in one frame, keeps its track.
    """

    def __init__(self, smooth_seconds: float):
        self._smooth = smooth_seconds
        self._tracks: list[Track] = []
        self._count = 0
        self._before: float | None = None

    def follow(self, seconds: float, faces: Sequence[Face], whole: Box) -> list[Track]:
        """Adds the faces of the next frame.

        Args:
          seconds: time of the frame.
          faces: its faces.
          whole: box of the whole frame, for faces without one.

        Returns:
          The tracks that have not ended. Those of the frame's faces have its time.
        """
        step = 0 if self._before is None else seconds - self._before
        self._before = seconds
        patience = max(_BRIDGED_SECONDS, 2.01 * step)  # A video may be read at every tenth frame.
        self._tracks = [track for track in self._tracks if seconds - track.seconds <= patience]
        boxes = [face.box or whole for face in faces]
        overlaps = np.array([[_overlap(t.box, box) for box in boxes] for t in self._tracks])
        left = set(range(len(faces)))
        if overlaps.size:
            # Imported here: it takes a quarter of a second, and only videos need it.
            from scipy.optimize import linear_sum_assignment

            for row, column in zip(*linear_sum_assignment(-overlaps), strict=True):
                if overlaps[row, column] >= _LEAST_OVERLAP:
                    left.remove(column)
                    track = self._tracks[row]
                    track._add(boxes[column], seconds, faces[column], self._smooth)
        for index in sorted(left):
            self._count += 1
            face = faces[index]
            track = Track(
                self._count, boxes[index], seconds, face.probabilities, collections.deque()
            )
            track._add(boxes[index], seconds, face, self._smooth)
            self._tracks.append(track)
        return self._tracks


def _overlap(one: Box, other: Box) -> float:
    """Returns intersection over union."""
    width = min(one.left + one.width, other.left + other.width) - max(one.left, other.left)
    height = min(one.top + one.height, other.top + other.height) - max(one.top, other.top)
    common = max(0, width) * max(0, height)
    return common / (one.width * one.height + other.width * other.height - common)
