"""TensorBoard event files of a run: clu's `MetricWriter` on tensorboardX, without TensorFlow."""

import contextlib
import json
import os
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event

from fer_jax.config import flatten
from fer_jax.errors import warn

# clu.metric_writers imports TensorFlow (1.4 GB, 5 s) for its own SummaryWriter, which is not needed
# here. This entry defers the import until a SummaryWriter is created.
_TF = "clu.metric_writers.tf.summary_writer"
_lazy: Any = SimpleNamespace(SummaryWriter=lambda logdir: import_module(_TF).SummaryWriter(logdir))
sys.modules.setdefault("clu.metric_writers.summary_writer", _lazy)
from clu.metric_writers import LoggingWriter, MetricWriter, MultiWriter  # noqa: E402

_SCALARS = {
    "train_loss": "train/loss",
    "train_accuracy": "train/accuracy",
    "val_loss": "validation/loss",
    "val_accuracy": "validation/accuracy",
    "learning_rate": "train/learning_rate",
    "images_per_second": "speed/images_per_second",
    "seconds": "speed/seconds",
}


class RunEvents:
    """A run's data for TensorBoard. Only process 0 writes.

    Each method returns once its data are on disk, so that a killed run loses nothing. If the file
    cannot be written, a warning says so once, and no more is written.
    """

    def __init__(self, workdir: str | os.PathLike, config: Mapping[str, Any]):
        """Takes the config, which the first event starts a new `events.out.tfevents.*` file with.

        Call it after `jax.distributed.initialize`.
        """
        self._workdir, self._config = workdir, config
        self._writer: MetricWriter | None = None
        if jax.process_index() != 0:
            self._writer = MultiWriter([])

    def write_epoch(self, epoch: Mapping[str, Any]) -> None:
        """Writes the numbers of one epoch, a row of metrics.jsonl, at its step."""
        scalars = {tag: epoch[k] for k, tag in _SCALARS.items()}
        self._write(lambda writer: writer.write_scalars(epoch["step"], scalars))

    def write_result(self, report: Mapping[str, Any]) -> None:
        """Writes a report's headline figures as `final/<name>`; the HPARAMS tab lists them too."""
        figures = {f"final/{key}": report[key] for key in report["intervals"]}
        self._write(lambda writer: writer.write_scalars(report["checkpoint_step"], figures))

    def write_figures(self, step: int, figures: Mapping[str, UInt8[np.ndarray, "h w 3"]]) -> None:
        """Writes pictures as `figures/<name>`."""
        images = {f"figures/{k}": pixels for k, pixels in figures.items()}
        self._write(lambda writer: writer.write_images(step, images))

    def close(self) -> None:
        """Closes the file."""
        if self._writer:
            with contextlib.suppress(OSError):
                self._writer.close()

    def _write(self, write: Callable[[MetricWriter], None]) -> None:
        """Opens the file if it is not open, writes, and flushes."""
        try:
            if self._writer is None:
                self._writer = _EventFile(self._workdir)
                _write_config(self._writer, self._config)
            write(self._writer)
            self._writer.flush()
        except OSError as error:
            warn(f"events for TensorBoard cannot be written any more: {error}")
            self._writer = MultiWriter([])


def _write_config(writer: MetricWriter, config: Mapping[str, Any]) -> None:
    """Writes the config as text, and as hyper-parameters for the HPARAMS tab."""
    text = textwrap.indent(json.dumps(config, indent=2), "    ")  # A code block in Markdown.
    writer.write_texts(0, {"config": text})
    writer.write_hparams(flatten(config))


class _EventFile(LoggingWriter):
    """Writes to an event file in the caller's thread, and to absl's log like its base class.

    tensorboardX's own `SummaryWriter` hands events to a thread, and its `flush` does not wait for
    them. A killed run would lose its last events.
    """

    def __init__(self, logdir: str | os.PathLike):
        super().__init__()
        Path(logdir).mkdir(parents=True, exist_ok=True)
        # tensorboardX names files by host and second only: a quick restart would overwrite one.
        suffix = f".{os.getpid()}.{time.monotonic_ns()}"
        self._file = EventsWriter(os.path.join(logdir, "events"), suffix)

    def _write(self, step: int, content: Any) -> None:
        self._file.write_event(Event(wall_time=time.time(), step=step, summary=content))

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        super().write_scalars(step, scalars)
        for tag, value in scalars.items():
            self._write(step, summary.scalar(tag, np.asarray(value)))

    def write_images(self, step: int, images: Mapping[str, UInt8[np.ndarray, "h w 3"]]) -> None:
        super().write_images(step, images)
        for tag, pixels in images.items():
            self._write(step, summary.image(tag, pixels, dataformats="HWC"))

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        super().write_texts(step, texts)
        for tag, text in texts.items():
            self._write(step, summary.text(tag, text))

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        super().write_hparams(hparams)
        plain = {k: v if isinstance(v, int | float | str) else str(v) for k, v in hparams.items()}
        # Without an `experiment` summary TensorBoard offers every scalar of a run as its metric.
        _, session_start, _ = summary.hparams(plain, {})
        self._write(0, session_start)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()
