import dataclasses
import functools
import itertools

import grain
import numpy as np
import pytest

from fer_jax.data.augment import Augmentation, augment
from fer_jax.data.evaluation_batches import evaluation_batches
from fer_jax.data.host_batches import training_batches
from fer_jax.data.records import Records

SHIFT_AND_FLIP = Augmentation(shift=0.1, flip=True)


@pytest.fixture
def records() -> Records:
    """101 records; every pixel of image k has grey level k."""
    images = np.broadcast_to(np.arange(101, dtype=np.uint8)[:, None, None, None], (101, 48, 48, 1))
    return Records(
        labels=np.arange(101, dtype=np.int32) % 7,
        filenames=[f"{k}.png" for k in range(101)],
        read=images.__getitem__,
    )


def stream(records, **changes):
    defaults = {"batch_size": 8, "seed": 3, "augmentation": SHIFT_AND_FLIP}
    return training_batches(records, **{**defaults, **changes})


def first(iterator, count):
    batches = list(itertools.islice(iterator, count))
    return {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}


@pytest.mark.parametrize("batch_size", [1, 8])
def test_each_pass_has_every_record_once_in_an_order_of_its_own(records, batch_size):
    batches = stream(records, batch_size=batch_size)
    numbers = first(batches, 808 // batch_size)["image"][:, 0, 0, 0].reshape(8, 101)
    for one_pass in numbers:
        assert sorted(one_pass) == list(range(101))
    assert len({tuple(one_pass) for one_pass in numbers}) == 8


def test_labels_stay_with_their_images(records):
    batches = first(stream(records), 20)
    np.testing.assert_array_equal(batches["label"], batches["image"][:, 0, 0, 0] % 7)
    assert batches["image"].dtype == np.uint8
    assert batches["label"].dtype == np.int32


def test_the_seed_determines_the_batches(tiny_records):
    same, again, other = (first(stream(tiny_records, seed=s), 5)["image"] for s in (3, 3, 4))
    np.testing.assert_array_equal(same, again)
    assert (same != other).any()


def test_a_restored_position_continues_with_the_same_batches(tiny_records):
    iterator = stream(tiny_records)
    first(iterator, 7)
    state = iterator.get_state()
    expected = first(iterator, 5)
    restored = stream(tiny_records)
    restored.set_state(state)
    np.testing.assert_array_equal(first(restored, 5)["image"], expected["image"])


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("augmentation", [SHIFT_AND_FLIP, Augmentation(rotation=20.0)], ids=str)
def test_several_processes_share_the_batches_of_one_process(tiny_records, augmentation, processes):
    shared = functools.partial(stream, tiny_records, augmentation=augmentation)
    whole = first(shared(), 1)
    share = len(whole["label"]) // processes
    parts = [first(shared(rows=slice(k * share, (k + 1) * share)), 1) for k in range(processes)]
    for key in ("image", "label"):
        together = np.concatenate([part[key] for part in parts])
        np.testing.assert_array_equal(together, whole[key])


@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("seed", [0, 2**31 - 1])
def test_the_batches_are_those_of_grains_own_steps(tiny_records, seed, batch_size):
    """Runs of earlier versions, which took these steps, go on with the same batches."""

    def read_and_augment(numbers, rng):
        uniforms = rng.random((batch_size, SHIFT_AND_FLIP.draws), np.float32)
        return augment(tiny_records.read(numbers), uniforms, SHIFT_AND_FLIP)

    numbers = grain.MapDataset.range(len(tiny_records)).seed(seed).shuffle().repeat(99)
    mapped = numbers.batch(batch_size).random_map(read_and_augment)
    steps = iter(mapped.to_iter_dataset(grain.ReadOptions(num_threads=0)))
    batches = stream(tiny_records, seed=seed, batch_size=batch_size)
    expected = list(itertools.islice(steps, 80 // batch_size))
    found = [batch["image"] for batch in itertools.islice(batches, 80 // batch_size)]
    np.testing.assert_array_equal(found, expected)
    assert batches.get_state() == steps.get_state()


def recorded(records, reads):
    """The same records; the numbers that are read go to `reads`."""
    read = records.read
    return dataclasses.replace(records, read=lambda k: (reads.append(k), read(k))[1])


def test_each_of_64_processes_reads_its_own_rows_and_all_shards_evenly():
    """100 rows do not divide over 64 processes; 1,600 records are in 16 shards of 100."""
    images = np.zeros((1_600, 2, 2, 1), np.uint8)
    records = Records(np.arange(1_600, dtype=np.int32), [""] * 1_600, images.__getitem__)
    ends = np.arange(65) * 100 // 64
    shares = []
    for start, end in itertools.pairwise(ends.tolist()):
        reads: list[np.ndarray] = []
        batches = stream(recorded(records, reads), batch_size=100, rows=slice(start, end))
        labels = [next(batches)["label"] for _ in range(80)]  # five passes
        np.testing.assert_array_equal(reads, labels)  # What it read is what it gave.
        shares.append(np.stack(reads, axis=1))
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) == 1
    together = np.concatenate(shares).T.reshape(5, 1_600)
    np.testing.assert_array_equal(np.sort(together, axis=1), [np.arange(1_600)] * 5)
    for share in shares:
        of_shard = np.bincount(share.ravel() // 100, minlength=16)
        mean = share.size / 16  # 5 or 10; the standard deviation is about its root.
        assert np.abs(of_shard - mean).max() < 5 * mean**0.5


def test_evaluation_over_64_processes_reads_each_image_once(records):
    reads: list[np.ndarray] = []
    for k in range(64):
        batches = evaluation_batches(
            recorded(records, reads), batch_size=64, process_index=k, process_count=64
        )
        assert [batch["image"].shape for batch in batches] == [(1, 48, 48, 1)] * 2
    assert sorted(np.concatenate(reads)) == list(range(101))


def test_evaluation_batches_have_every_record_once_and_one_shape(records):
    batches = list(evaluation_batches(records, batch_size=16))
    assert {batch["image"].shape for batch in batches} == {(16, 48, 48, 1)}
    numbers = np.concatenate([batch["image"][:, 0, 0, 0] for batch in batches])
    np.testing.assert_array_equal(numbers[:101], np.arange(101))
    assert set(numbers[101:]) == {0}


def test_processes_share_evaluation_batches_in_order(records):
    parts = [
        list(evaluation_batches(records, batch_size=16, process_index=k, process_count=2))
        for k in range(2)
    ]
    pairs = zip(*parts, strict=True)
    numbers = [np.concatenate([p["image"][:, 0, 0, 0] for p in pair]) for pair in pairs]
    np.testing.assert_array_equal(np.concatenate(numbers)[:101], np.arange(101))


@pytest.fixture
def tiny_records() -> Records:
    images = np.random.default_rng(0).integers(0, 256, (60, 48, 48, 1), dtype=np.uint8)
    return Records(
        labels=np.arange(60, dtype=np.int32) % 7,
        filenames=[f"{k}.png" for k in range(60)],
        read=images.__getitem__,
    )
