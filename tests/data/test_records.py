import numpy as np
import pytest

from fer_jax.data.contract import CLASS_NAMES, PUBLISHED_COUNTS
from fer_jax.data.records import find_data_dir, open_data_set, stratified_split
from fer_jax.errors import UserError


def test_reads_the_prepared_records(tiny_data_dir):
    data = open_data_set(tiny_data_dir)
    train = data.load("train")
    assert data.classes == CLASS_NAMES
    assert len(train) == 210
    assert train.images().shape == (210, 48, 48, 1)
    assert train.images().dtype == np.uint8
    for label, name in zip(train.labels, train.filenames, strict=True):
        assert f"/{CLASS_NAMES[label]}/" in name


def test_streaming_and_memory_give_the_same_images(tiny_data_dir):
    data = open_data_set(tiny_data_dir)
    wanted = np.array([5, 0, 41])
    for split in ("train", "validation_20", "test"):
        in_memory, streamed = (data.load(split, memory_gib=gib) for gib in (1.0, 1e-6))
        np.testing.assert_array_equal(in_memory.read(wanted), streamed.read(wanted))
        assert in_memory.filenames == streamed.filenames


def test_validation_is_a_fifth_of_each_class_and_disjoint(tiny_data_dir):
    data = open_data_set(tiny_data_dir)
    train, validation = data.load("train_80"), data.load("validation_20")
    assert np.bincount(validation.labels).tolist() == [6] * 7
    assert not set(train.filenames) & set(validation.filenames)
    assert set(train.filenames) | set(validation.filenames) == set(data.load("train").filenames)


def test_the_split_has_the_published_sizes():
    labels = np.repeat(np.arange(7), PUBLISHED_COUNTS["train"])
    train, validation = stratified_split(np.random.default_rng(0).permutation(labels), 0.2)
    assert (len(train), len(validation)) == (22_968, 5_741)


def test_split_test_is_the_union_of_both_tests(tiny_data_dir):
    data = open_data_set(tiny_data_dir)
    parts = [data.load(f"{name}_test").filenames for name in ("public", "private")]
    assert data.load("test").filenames == parts[0] + parts[1]


@pytest.mark.parametrize("split", ["validation_20", "test"])
def test_a_choice_of_classes_keeps_the_images_and_renumbers_the_labels(tiny_data_dir, split):
    whole = open_data_set(tiny_data_dir).load(split)
    data = open_data_set(tiny_data_dir, ("neutral", "angry", "happy"))
    some = data.load(split)
    assert data.classes == ("angry", "happy", "neutral")
    assert some.labels.dtype == np.int32
    expected = [
        (name, data.classes.index(CLASS_NAMES[label]))
        for name, label in zip(whole.filenames, whole.labels, strict=True)
        if CLASS_NAMES[label] in data.classes
    ]
    assert list(zip(some.filenames, some.labels.tolist(), strict=True)) == expected
    numbers = [whole.filenames.index(name) for name in some.filenames]
    np.testing.assert_array_equal(some.images(), whole.read(np.array(numbers)))


def test_an_unknown_class_is_named_with_the_known_ones(tiny_data_dir):
    with pytest.raises(UserError, match=r"no class 'joyful'; choose among angry, .*, neutral"):
        open_data_set(tiny_data_dir, ("angry", "joyful"))


def test_an_unknown_split_is_named_with_the_known_ones(tiny_data_dir):
    with pytest.raises(UserError, match=r"'valid' needs valid.*public_test.*validation_20"):
        open_data_set(tiny_data_dir).load("valid")


def test_missing_records_say_how_to_make_them(tmp_path):
    with pytest.raises(UserError, match=r"python -m data_prep --source PATH --data_dir"):
        open_data_set(tmp_path)


def test_the_data_folder_is_the_configured_one_then_the_environments(monkeypatch, tmp_path):
    assert str(find_data_dir()) == "data/fer2013"
    monkeypatch.setenv("FER2013_DIR", str(tmp_path))
    assert find_data_dir() == tmp_path
    assert str(find_data_dir("elsewhere")) == "elsewhere"
