"""The probabilities of each face in a video over time, in constant memory, and their picture."""

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

_SPANS = 1024  # of equal length; at the end of the last one, they become twice as long
_KEPT, _DRAWN = 64, 8  # tracks: the longest
_INK = "#222222"


class _Spans(NamedTuple):
    sums: Float[np.ndarray, "spans classes"]
    counts: Float[np.ndarray, " spans"]


class Timeline:
    """Means of each track's probabilities over equal spans of time."""

    def __init__(self, classes: Sequence[str], step: float):
        """Starts an empty timeline; `step` is the time between two frames in seconds."""
        self._classes = classes
        self._span = step
        self._end = 0.0
        self._tracks: dict[int, _Spans] = {}

    def add(self, track: int, seconds: float, values: Float[np.ndarray, " classes"]) -> None:
        """Adds the probabilities of one face in one frame."""
        while seconds >= self._span * (_SPANS - 0.5):
            self._span *= 2
            self._tracks = {n: _Spans(*map(_halve, spans)) for n, spans in self._tracks.items()}
        if track not in self._tracks:
            if len(self._tracks) == _KEPT:
                del self._tracks[min(self._tracks, key=self._length)]
            empty = np.zeros((_SPANS, len(self._classes))), np.zeros(_SPANS)
            self._tracks[track] = _Spans(*empty)
        index = round(seconds / self._span)
        self._tracks[track].sums[index] += values
        self._tracks[track].counts[index] += 1
        self._end = max(self._end, seconds)

    def _length(self, track: int) -> float:
        return self._tracks[track].counts.sum()

    def draw(self, title: str) -> bytes:
        """Returns a PNG with a panel for each of the longest tracks, in order of appearance.

        A panel has a row for each class, darker where it is more probable. Time without the face
        is grey.
        """
        from matplotlib.figure import Figure

        numbers = sorted(sorted(self._tracks, key=self._length, reverse=True)[:_DRAWN])
        height = 0.22 * len(self._classes) + 0.75
        figure = Figure((9, height * max(1, len(numbers)) + 0.8), dpi=150, layout="constrained")
        figure.suptitle(title, color=_INK, fontsize=11, parse_math=False)
        shown = round(self._end / self._span) + 1
        edge = self._span / 2
        extent = (-edge, shown * self._span - edge, len(self._classes) - 0.5, -0.5)
        panels = figure.subplots(max(1, len(numbers)), 1, sharex=True, squeeze=False)[:, 0]
        for axes, number in zip(panels, numbers, strict=False):
            sums, counts = self._tracks[number]
            with np.errstate(invalid="ignore"):
                means = (sums / counts[:, None])[:shown].T
            image = axes.imshow(
                means, cmap="Blues", vmin=0, vmax=1, aspect="auto", extent=extent,
                interpolation="nearest",
            )  # fmt: skip
            axes.set_facecolor("#DDDDDD")
            axes.set_yticks(range(len(self._classes)), self._classes, fontsize=8, parse_math=False)
            best = self._classes[int(np.argmax(sums.sum(axis=0)))]
            share = sums.sum(axis=0).max() / counts.sum()
            axes.set_title(
                f"face {number}: {best} {100 * share:.0f} % on average",
                fontsize=9, color=_INK, loc="left", parse_math=False,
            )  # fmt: skip
        if numbers:
            bar = figure.colorbar(image, ax=panels, label="probability", fraction=0.03, pad=0.01)
            bar.outline.set_visible(False)  # type: ignore[operator]
        else:
            panels[0].text(0.5, 0.5, "no face", ha="center", transform=panels[0].transAxes)
            panels[0].set_yticks([])
        panels[-1].set_xlabel("time (seconds)", color=_INK)
        png = io.BytesIO()
        figure.savefig(png, format="png")
        return png.getvalue()


def _halve(values: np.ndarray) -> np.ndarray:
    """Adds the values of neighbours, and leaves the second half empty."""
    # Index k becomes round(k / 2), so that times stay in the middle of their span.
    halved = np.zeros_like(values)
    np.add.at(halved, np.round(np.arange(len(values)) / 2).astype(int), values)
    return halved
