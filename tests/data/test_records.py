import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from small_records import make_records

from data_prep.options import Options
from data_prep.prepare import prepare
from fer_jax.data.contract import CLASS_NAMES, DIGESTS, INFO_FILES, PUBLISHED_COUNTS, record_dir
from fer_jax.data.records import find_data_dir, open_data_set
from fer_jax.data.splits import stratified_split
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


def test_the_index_holds_what_the_records_hold(tmp_path):
    """Records without an index are read themselves, as older ones are."""
    labels = {"train": [*range(7), *range(7)] * 5, "public_test": [3, 4]}
    data_dir = make_records(tmp_path, labels, name="é/{}.png", votes=True)
    by_index = open_data_set(data_dir)
    before = [by_index.load(split, memory_gib=0) for split in ("train", "train_80")]
    for path in record_dir(data_dir).glob("*.index.npz"):
        path.unlink()
    by_records = open_data_set(data_dir)
    for one in before:
        other = by_records.load("train" if len(one) == 70 else "train_80", memory_gib=0)
        np.testing.assert_array_equal(one.labels, other.labels)
        np.testing.assert_array_equal(one.votes, other.votes)
        assert one.filenames == other.filenames
        np.testing.assert_array_equal(one.images(), other.images())
    assert "é/0.png" in before[0].filenames


def test_a_split_that_stays_on_the_disk_is_opened_without_its_images(tiny_data_dir, tmp_path):
    """So a process reads no more than its share. What it reads is checked then."""
    data_dir = shutil.copytree(tiny_data_dir, tmp_path / "records")
    shard = record_dir(data_dir) / SHARD
    content = shard.read_bytes()
    shard.unlink()
    data = open_data_set(data_dir)
    assert len(data.load("train", memory_gib=0)) == 210
    for place in (len(content) // 3, len(content) // 2):
        spoiled = bytearray(content)
        spoiled[place] ^= 1
        shard.write_bytes(spoiled)
        records = open_data_set(data_dir).load("train", memory_gib=0)
        with pytest.raises(UserError, match=f"{SHARD} is damaged: .*; delete .*, then prepare"):
            records.images()


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
    known = "private_test, public_test, train, train_80, validation_20, test"
    for split in ("tset", "", "train[:9]", "../train"):
        with pytest.raises(UserError) as caught:
            open_data_set(tiny_data_dir).load(split)
        assert str(caught.value) == f"the data set has no split {split!r}; choose one of {known}"


def test_missing_records_say_how_to_make_them(tmp_path):
    with pytest.raises(UserError, match=r"python -m data_prep --source PATH --data_dir"):
        open_data_set(tmp_path)


def test_the_data_folder_is_the_configured_one_then_the_environments(monkeypatch, tmp_path):
    assert str(find_data_dir()) == "data/fer2013"
    monkeypatch.setenv("FER2013_DIR", str(tmp_path))
    assert find_data_dir() == tmp_path
    assert str(find_data_dir("elsewhere")) == "elsewhere"


def test_a_run_finds_the_folder_it_recorded_only_if_the_configured_one_has_no_records(
    tiny_data_dir, tmp_path
):
    assert find_data_dir("elsewhere", str(tiny_data_dir)) == tiny_data_dir
    assert find_data_dir(str(tiny_data_dir), str(tmp_path)) == tiny_data_dir
    assert str(find_data_dir("elsewhere", str(tmp_path))) == "elsewhere"


def test_the_same_images_by_other_names_are_the_same_data(tmp_path):
    """Two images are the same; their names differ."""
    labels = {"train": [*range(7), *range(7)] * 5, "public_test": [3, 3]}
    one, other = (
        open_data_set(make_records(tmp_path / name, labels, name=name))
        for name in ("{}.png", "fer2013.csv:{}")
    )
    assert one.fingerprint == other.fingerprint
    for split in ("train_80", "validation_20", "public_test"):
        first, second = one.load(split), other.load(split)
        np.testing.assert_array_equal(first.labels, second.labels)
        np.testing.assert_array_equal(first.images(), second.images())
        assert not set(first.filenames) & set(second.filenames)


SHARD = "fer2013-train.array_record-00000-of-00001"
OTHER_SHARD = "fer2013-public_test.array_record-00000-of-00001"
INDEX = "fer2013-train.index.npz"
OLD = Path(__file__).parents[1] / "fixtures/run_0_1_0/records"
"""Records of version 0.1.0, which have no digests."""


def flip_a_bit(file):
    """Flips a bit among the bytes that are not padding."""
    content = bytearray(file.read_bytes())
    place = random.Random(0).choice([k for k, byte in enumerate(content) if byte])
    content[place] ^= 1 << 3
    file.write_bytes(content)


SPOILED = {
    "a flipped bit": flip_a_bit,
    "cut": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "emptied": lambda file: file.write_bytes(b""),
    "missing": Path.unlink,
    "swapped": lambda file: shutil.copy(file.with_name(OTHER_SHARD), file),
    "no object": lambda file: file.write_bytes(b"[]"),
    "an empty object": lambda file: file.write_bytes(b"{}"),
}


def read_all(data_dir):
    data = open_data_set(data_dir)
    return [data.load(split) for split in data.split_sizes]


@pytest.mark.parametrize("how", SPOILED)
@pytest.mark.parametrize("name", [*INFO_FILES, SHARD, INDEX, DIGESTS])
def test_damage_is_told_in_a_line_that_names_the_file(tiny_data_dir, tmp_path, name, how):
    """Without digests, only damage that the formats notice is told."""
    noticed_by_formats = name not in (DIGESTS, INDEX) and (how != "a flipped bit" or name == SHARD)
    for source in [tiny_data_dir, OLD] if noticed_by_formats else [tiny_data_dir]:
        data_dir = shutil.copytree(source, tmp_path / source.name)
        file = record_dir(data_dir) / name
        SPOILED[how](file)
        if name in (DIGESTS, INDEX) and how == "missing":
            assert len(read_all(data_dir)) == 3
            continue
        with pytest.raises(UserError, match=r"is damaged: .*; delete .*, then prepare") as caught:
            read_all(data_dir)
        message = str(caught.value)
        assert name in (message if name == DIGESTS else message.partition(" is damaged")[0])
        assert "\n" not in message
        if source == tiny_data_dir:  # To prepare again is refused until it is deleted.
            with pytest.raises(UserError, match=r"delete it first|is damaged: .*; delete"):
                prepare(Options(source="sample", data_dir=data_dir))


def test_every_flipped_bit_is_noticed(tiny_data_dir, tmp_path):
    data_dir = shutil.copytree(tiny_data_dir, tmp_path / "records")
    draw = random.Random(1)
    for file in sorted(record_dir(data_dir).iterdir()):
        content = file.read_bytes()
        for _ in range(3):
            spoiled = bytearray(content)
            spoiled[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
            file.write_bytes(spoiled)
            with pytest.raises(UserError, match="is damaged"):
                read_all(data_dir)
        file.write_bytes(content)
    assert len(read_all(data_dir)) == 3
