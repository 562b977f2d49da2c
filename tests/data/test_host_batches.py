import functools
import itertools

import numpy as np
import pytest

from fer_jax.data.augment import Augmentation
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


def test_evaluation_batches_have_every_record_once_and_one_shape(records):
    batches = list(evaluation_batches(records, batch_size=16))
    assert {batch["image"].shape for batch in batches} == {(16, 48, 48, 1)}
    numbers = np.concatenate([batch["image"][:, 0, 0, 0] for batch in batches])
    np.testing.assert_array_equal(numbers[:101], np.arange(101))
    assert set(numbers[101:]) == {100}


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
