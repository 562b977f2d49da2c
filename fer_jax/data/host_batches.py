"""Grain pipelines from records to batches, which are the same for any number of processes.

Each pass over the record numbers is shuffled, and the passes are cut into *global* batches. Only
then does each process read and augment its own rows, so the batches do not depend on the number of
processes, and no process reads an image of another's. One call gathers the rows of a whole batch,
and one call augments them.
"""

import functools

import grain
import numpy as np

from fer_jax.data.augment import Augmentation, augment
from fer_jax.data.evaluation_batches import Batch
from fer_jax.data.order import shuffled
from fer_jax.data.records import Records

_PASSES = 2**32
"""More than any run takes. With more, Grain's length would overflow with batches of one."""

_READERS = 2  # Threads for images that are not in memory. With eight, they wait for one another.


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
            "image": augment(records.read(indices), uniforms, augmentation),
            **records.answers(indices),
        }

    order_seed, augmentation_seed = (
        int(np.random.SeedSequence((seed, k)).generate_state(1)[0]) for k in (1, 4)
    )
    dataset = grain.MapDataset.source(
        _Order(len(records), batch_size, order_seed, rows)
    ).random_map(read_and_augment, seed=augmentation_seed)
    # Gathering a whole batch from memory is faster than passing it between threads.
    threads = 0 if records.in_memory else _READERS
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return iter(dataset.to_iter_dataset(options))


class _Order(grain.sources.RandomAccessDataSource):
    """The record numbers of some rows of each batch, by the batch's number.

    It is the order of `range(n).seed(seed).shuffle().repeat().batch(batch_size)`.
    """

    def __init__(self, length: int, batch_size: int, seed: int, rows: slice):
        self._length, self._batch_size, self._seed, self._rows = length, batch_size, seed, rows
        self._pass = functools.lru_cache(maxsize=2)(self._shuffle)  # A batch may span two.

    def __len__(self) -> int:
        return _PASSES * self._length // self._batch_size

    def __getitem__(self, batch: int) -> np.ndarray:
        first = batch * self._batch_size
        rows = np.arange(first, first + self._batch_size)[self._rows]
        passes, places = np.divmod(rows, self._length)
        numbers = np.empty_like(places)
        for number in np.unique(passes).tolist():
            in_pass = passes == number
            numbers[in_pass] = self._pass(number)[places[in_pass]]
        return numbers

    def _shuffle(self, number: int) -> np.ndarray:
        return shuffled(self._length, (self._seed + number) % 2**32)
