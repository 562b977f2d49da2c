"""Grain pipelines: records to batches, the same ones for any number of processes.

A stream of record numbers is shuffled, repeated and batched to the *global* batch; only then does
each process read and augment its own rows. So the batches, and with them a run, do not depend on
how many processes share the work, and a whole batch is gathered and augmented by single calls.
"""

from collections.abc import Iterator

import grain
import numpy as np

from fer_jax.data.augment import Augmentation, augment
from fer_jax.data.records import Records

Batch = dict[str, np.ndarray]
"""`image`: UInt8[rows, 48, 48, 1]; `label`: Int32[rows]."""


def training_batches(
    records: Records,
    *,
    batch_size: int,
    seed: int,
    augmentation: Augmentation,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.DatasetIterator[Batch]:
    """Returns an endless, checkpointable iterator over shuffled, augmented batches.

    Every record comes once in each pass over the data, in an order of that pass's own; a batch may
    span two passes, so that no record is dropped. Same seed, same batches.

    Args:
      records: what to read.
      batch_size: rows of the global batch; each process gets its equal share of them, in order.
      seed: of order and augmentation.
      augmentation: what may happen to the images.
      process_index: which share this process reads.
      process_count: among how many processes the batch is shared; divides `batch_size`.
    """
    share = batch_size // process_count
    rows = slice(process_index * share, (process_index + 1) * share)

    def read_and_augment(indices: np.ndarray, rng: np.random.Generator) -> Batch:
        # Drawn for all rows, then cut: what an image meets does not depend on who reads it.
        uniforms = rng.random((batch_size, augmentation.draws), np.float32)[rows]
        return {
            "image": augment(records.read(indices[rows]), uniforms, augmentation),
            "label": records.labels[indices[rows]],
        }

    dataset = (
        grain.MapDataset.range(len(records))
        .seed(seed)
        .shuffle()
        .repeat()
        .batch(batch_size)
        .random_map(read_and_augment)
    )
    # Whole batches gathered from memory take less time than handing them between threads.
    threads = {"num_threads": 0} if records.in_memory else {}
    return iter(dataset.to_iter_dataset(grain.ReadOptions(**threads)))


def evaluation_batches(
    records: Records, *, batch_size: int, process_index: int = 0, process_count: int = 1
) -> Iterator[Batch]:
    """Yields every record once and in order; the last batch is filled up with the last record.

    All batches have one shape, so that a compiled step never meets a second one. The caller cuts
    the results to `len(records)`. Arguments as for `training_batches`.
    """
    share = batch_size // process_count
    for start in range(0, len(records), batch_size):
        first = start + process_index * share
        indices = np.minimum(np.arange(first, first + share), len(records) - 1)
        yield {"image": records.read(indices), "label": records.labels[indices]}
