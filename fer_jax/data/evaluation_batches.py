"""Batches of evaluation and prediction, on the host. They need no Grain, which imports slowly."""

from collections.abc import Iterator

import numpy as np

from fer_jax.data.records import Records

Batch = dict[str, np.ndarray]
"""`image`, UInt8[rows, size, size, channels], and `label`, Int32[rows]."""


def evaluation_batches(
    records: Records, *, batch_size: int, process_index: int = 0, process_count: int = 1
) -> Iterator[Batch]:
    """Yields every record once, in order; black images fill the last batch.

    All batches have the same shape, so that a step compiles once. The caller truncates the results
    to `len(records)`. Each image is read once, by one process.

    Args:
      records: split to read.
      batch_size: rows of the global batch; the processes get equal shares of them, in order.
      process_index: index of this process, and of the share it reads.
      process_count: number of processes, a divisor of `batch_size`.
    """
    share = batch_size // process_count
    for start in range(0, len(records), batch_size):
        first = start + process_index * share
        indices = np.arange(min(first, len(records)), min(first + share, len(records)))
        batch = {"image": records.read(indices), "label": records.labels[indices]}
        missing = share - len(indices)
        yield {
            name: np.pad(rows, [(0, missing), *[(0, 0)] * (rows.ndim - 1)]) if missing else rows
            for name, rows in batch.items()
        }
