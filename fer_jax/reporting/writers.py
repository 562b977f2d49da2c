"""Where a run's numbers and pictures go while it runs: the log and TensorBoard, through clu."""

import os

import jax
from clu import metric_writers

from fer_jax.reporting.summary_writer import SummaryWriter

metric_writers.MetricWriter.register(SummaryWriter)


def create_writer(workdir: str | os.PathLike) -> metric_writers.MetricWriter:
    """Returns a writer to absl's log and to `events.out.tfevents.*` directly in `workdir`.

    Only process 0 writes; in the others the writer takes everything and does nothing. Call it
    after `jax.distributed.initialize`.
    """
    if jax.process_index() != 0:
        return metric_writers.MultiWriter([])
    return metric_writers.MultiWriter([metric_writers.LoggingWriter(), SummaryWriter(workdir)])
