"""TensorBoard event files without TensorFlow: clu's `SummaryWriter`, on tensorboardX."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

_DEFAULT_BUCKETS = 30  # as in TensorBoard and in clu's LoggingWriter


class SummaryWriter:
    """Implements `clu.metric_writers.MetricWriter`, of which `writers.py` makes it a subclass.

    It cannot inherit: clu's package asks for this class before its base can be imported.

    Writes at once, in the caller's thread. tensorboardX's own `SummaryWriter` hands events to a
    thread and its `flush` does not wait for them, so that a killed run loses its last ones.
    """

    def __init__(self, logdir: str | os.PathLike):
        """Starts a new `events.out.tfevents.*` file in `logdir`, which is created if missing."""
        from tensorboardX.event_file_writer import EventsWriter

        Path(logdir).mkdir(parents=True, exist_ok=True)
        # tensorboardX names files by host and second alone: a quick restart would overwrite.
        suffix = f".{os.getpid()}.{time.monotonic_ns()}"
        self._file = EventsWriter(os.path.join(logdir, "events"), suffix)

    def _write(self, step: int, summary: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._file.write_event(Event(wall_time=time.time(), step=step, summary=summary))

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Writes numbers, or arrays of one element."""
        from tensorboardX import summary

        for name, value in scalars.items():
            self._write(step, summary.scalar(name, np.asarray(value)))

    def write_images(self, step: int, images: Mapping[str, Any]) -> None:
        """Writes `[h, w, c]` as `name` and `[n, h, w, c]` as `name/0` to `name/{n - 1}`.

        `c` is 1 or 3; values are uint8, or floats in [0, 1].
        """
        from tensorboardX import summary

        for name, value in images.items():
            pixels = np.asarray(value)
            named = (
                {name: pixels}
                if pixels.ndim == 3
                else {f"{name}/{index}": image for index, image in enumerate(pixels)}
            )
            for tag, image in named.items():
                self._write(step, summary.image(tag, image, dataformats="HWC"))

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Writes texts, which TensorBoard renders as Markdown."""
        from tensorboardX import summary

        for name, text in texts.items():
            self._write(step, summary.text(name, text))

    def write_histograms(
        self,
        step: int,
        arrays: Mapping[str, Any],
        num_buckets: Mapping[str, int] | None = None,
    ) -> None:
        """Writes histograms of the finite, non-empty `arrays`, 30 buckets unless told."""
        from tensorboardX import summary

        for name, values in arrays.items():
            buckets = (num_buckets or {}).get(name, _DEFAULT_BUCKETS)
            self._write(step, summary.histogram(name, np.asarray(values), buckets))

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """Writes a flat mapping of settings; what is no number, truth value or text, as `str`."""
        from tensorboardX import summary

        plain = {
            name: value if isinstance(value, bool | int | float | str) else str(value)
            for name, value in hparams.items()
        }
        # Only the session's start: with the `experiment` summary that lists the metrics (none
        # here), TensorBoard would no longer find them by itself.
        _, session_start, _ = summary.hparams(plain, {})
        self._write(0, session_start)

    def write_summaries(self, step: int, values: Any, metadata: Any = None) -> None:
        """Is not supported: says so once."""
        self._unsupported("raw tensors")

    def write_videos(self, step: int, videos: Any) -> None:
        """Is not supported: says so once."""
        self._unsupported("videos")

    def write_audios(self, step: int, audios: Any, *, sample_rate: int) -> None:
        """Is not supported: says so once."""
        self._unsupported("audios")

    def _unsupported(self, kind: str) -> None:
        logging.log_first_n(logging.WARNING, "SummaryWriter does not write %s.", 1, kind)

    def flush(self) -> None:
        """Puts everything written so far on the disk."""
        self._file.flush()

    def close(self) -> None:
        """Flushes and closes the file; the writer is of no use afterwards."""
        self._file.close()
