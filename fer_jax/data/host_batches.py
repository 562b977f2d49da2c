"""Grain pipelines from records to batches, which are the same for any number of processes.

A stream of record numbers is shuffled, repeated and grouped into *global* batches. Only then does
each process read and augment its own rows, so the batches do not depend on the number of processes.
One call gathers a whole batch, and one call augments it.
"""

import grain
import numpy as np

from fer_jax.data.augment import Augmentation, augment
from fer_jax.data.evaluation_batches import Batch
from fer_jax.data.records import Records

_PASSES = 2**32
"""More than any run takes. Without a number, Grain's length overflows with batches of one."""


def training_batches(
    records: Records,
    *,
    batch_size: int,
    seed: int,
    augmentation: Augmentation,
    rows: slice = slice(None),
) -> grain.DatasetIterator[Batch]:
    """Returns an endless, checkpointable iterator over shuffled, augmented batches.

    Each pass over the data has every record once, in its own order. A batch may span two passes, so
    that no record is dropped. The same seed gives the same batches.

    Args:
      records: split to read.
      batch_size: rows of the global batch.
      seed: seed of order and augmentation.
      augmentation: ranges of the augmentation.
      rows: rows of each global batch that this process reads; default: all.
    """

    def read_and_augment(indices: np.ndarray, rng: np.random.Generator) -> Batch:
        # Every process draws for all rows, so an image's numbers do not depend on its reader.
        uniforms = rng.random((batch_size, augmentation.draws), np.float32)[rows]
        return {
            "image": augment(records.read(indices[rows]), uniforms, augmentation),
            **records.answers(indices[rows]),
        }

    dataset = (
        grain.MapDataset.range(len(records))
        .seed(seed)
        .shuffle()
        .repeat(_PASSES)
        .batch(batch_size)
        .random_map(read_and_augment)
    )
    # Gathering a whole batch from memory is faster than passing it between threads.
    threads = {"num_threads": 0} if records.in_memory else {}
    return iter(dataset.to_iter_dataset(grain.ReadOptions(**threads)))
