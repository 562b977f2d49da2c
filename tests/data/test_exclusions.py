"""Lists of images to leave out: what they leave out, and what is wrong with a list."""

import numpy as np
import pytest
from small_records import make_records

from fer_jax.data.exclusions import exclude
from fer_jax.data.records import open_data_set
from fer_jax.errors import UserError

LABELS = {
    name: [*range(7)] * n for name, n in (("train", 10), ("public_test", 2), ("private_test", 2))
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return open_data_set(make_records(tmp_path_factory.mktemp("records"), LABELS))


def write(folder, data, *rows, columns="kind,file,split,data"):
    path = folder / "audit.csv"
    lines = [f"{row},{data.fingerprint[:12]}" for row in rows]
    path.write_text("\n".join([columns, *lines]) + "\n")
    return path


def leave_out(listed, data, split):
    records = data.load(split)
    found = exclude(str(listed), data, split, records)
    gone = np.flatnonzero(~found.kept)
    assert found.images == len(gone)
    return {records.filenames[k] for k in gone}, found


def test_the_kinds_asked_for_are_left_out(data, tmp_path):
    rows = (
        "duplicate,0.png,train",
        "blank,0.png,train",
        "label,1.png,train",
        "leak,70.png,public_test",
    )
    path = write(tmp_path, data, *rows)
    for suffix, expected, kinds in (
        ("", {"0.png"}, {"leak": 0, "duplicate": 1, "blank": 0, "text": 0}),
        (":blank", {"0.png"}, {"blank": 1}),
        (":label+duplicate", {"0.png", "1.png"}, {"duplicate": 1, "label": 1}),
        (":text", set(), {"text": 0}),
    ):
        gone, found = leave_out(f"{path}{suffix}", data, "train")
        assert (gone, found.kinds) == (expected, kinds)
    assert leave_out(path, data, "public_test")[0] == {"70.png"}
    assert leave_out(path, data, "private_test")[0] == set()
    assert leave_out(path, data, "test")[0] == {"70.png"}


def test_the_two_parts_of_train_share_its_rows(data, tmp_path):
    path = write(tmp_path, data, *(f"text,{k}.png,train" for k in range(7)))
    parts = [leave_out(path, data, split) for split in ("train_80", "validation_20")]
    whole = leave_out(path, data, "train")
    assert parts[0][0] | parts[1][0] == whole[0]
    assert not parts[0][0] & parts[1][0]
    assert len({found.digest for _, found in (*parts, whole)}) == 3


def test_some_of_the_classes(data, tmp_path):
    """Rows about other classes are no mistake."""
    path = write(tmp_path, data, "text,0.png,train", "text,1.png,train")
    some = open_data_set(data.data_dir, ["angry", "happy"])
    assert leave_out(path, some, "train")[0] == {"0.png"}


def test_a_list_written_by_hand_needs_three_columns(data, tmp_path):
    path = tmp_path / "my:list.csv"
    path.write_text("split,file,kind\ntrain,3.png,text\n")
    assert leave_out(path, data, "train")[0] == {"3.png"}
    assert leave_out(f"{path}:text", data, "train")[0] == {"3.png"}


@pytest.mark.parametrize(
    ("row", "suffix", "message"),
    [
        ("text,999.png,train", "", r"names '999.png', of which train has none; make"),
        ("text,0.png,validation", "", r"line 2: 'validation' is no split of .*; the splits"),
        ("text,,train", "", "line 2: .*the file is missing"),
        ("blury,0.png,train", "", r"line 2: there is no kind 'blury'; give one of leak, dup"),
        ("text,0.png,train", ":leaks", r"there is no kind 'leaks'; give leak, duplicate, .*by \+"),
        ("text,0.png,train", ":leak,text", "there is no kind 'leak,text'; .*joined by"),
    ],
)
def test_a_wrong_row_is_said_in_one_line(data, tmp_path, row, suffix, message):
    with pytest.raises(UserError, match=message) as caught:
        leave_out(f"{write(tmp_path, data, row)}{suffix}", data, "train")
    assert "\n" not in str(caught.value)


def test_a_list_of_other_data_is_refused(data, tmp_path):
    path = write(tmp_path, data, "text,0.png,train")
    path.write_text(path.read_text().replace(data.fingerprint[:12], "0123456789ab"))
    with pytest.raises(UserError, match=r"line 2 is about data of fingerprint 0123456789ab, and"):
        leave_out(path, data, "train")


def test_no_class_may_become_empty(data, tmp_path):
    path = write(tmp_path, data, *(f"text,{k}.png,train" for k in range(2, 70, 7)))
    with pytest.raises(UserError, match="train has none of fear; give fewer kinds"):
        leave_out(path, data, "train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read .*: No such file"),
        (b"", "has no column file and kind and split; give the audit.csv"),
        (b"file,kind\n", "has no column split"),
        (b"kind,file,split\ntext,\xff,train\n", "cannot read .*utf-8"),
        (b'kind,file,split\ntext,"0.png,train\n', "cannot read .*unexpected end"),
    ],
)
def test_a_file_that_is_no_list_is_refused(data, tmp_path, content, message):
    path = tmp_path / "audit.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        leave_out(path, data, "train")
    with pytest.raises(UserError, match=r"cannot read .*Is a directory"):
        leave_out(tmp_path, data, "train")


def test_a_name_that_occurs_twice_is_refused(tmp_path):
    labels = {"public_test": [0, 1, 0, 1], "private_test": [0, 1]}
    same = open_data_set(make_records(tmp_path / "same", labels, name="image.png"))
    path = write(tmp_path, same, "text,image.png,private_test")
    with pytest.raises(UserError, match=r"'image.png', of which private_test has 2"):
        leave_out(path, same, "private_test")
