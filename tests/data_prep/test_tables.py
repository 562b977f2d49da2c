"""Tables of labels beside images: their layouts, columns, votes and mistakes."""

import numpy as np
import pytest
import small_sets
from small_releases import assert_one_line_error, encode, noise

from data_prep.images import RejectedError
from data_prep.label_map import name_classes, read_map
from data_prep.votes import read_counts, to_shares
from fer_jax.data.records import open_data_set

RAF = ("--name=raf", "--channels=3", "--image_size=96", f"--label_map={small_sets.RAF_MAP}")


def write(root, table="", name="labels.csv", number=8, folder="faces"):
    """Writes images 0.png, 1.png, ... of noise below a folder, and a table."""
    (root / folder).mkdir(parents=True, exist_ok=True)
    for seed in range(number):
        (root / folder / f"{seed}.png").write_bytes(encode(noise(seed)))
    if table:
        (root / name).write_text(table)
    return root


def rows(*lines, header="file,label", number=8):
    """Returns a table with images of classes a and b by turns, before other lines."""
    some = [f"{k}.png,{'ab'[k % 2]}{',train' * header.count('split')}" for k in range(number)]
    return "\n".join([header, *some, *lines]) + "\n"


def test_raf_db_as_it_is_given_out(tmp_path, convert_own):
    total = small_sets.write_raf_table(tmp_path / "raf")
    small_sets.write_raf_folders(tmp_path / "folders")
    run = convert_own(tmp_path / "raf", *RAF)
    assert run.status == 0, run.err
    data = open_data_set(run.data_dir)
    assert data.classes == small_sets.RAF
    assert data.split_sizes == {"train": total // 2, "test": total // 2}
    for words in ("list_patition_label.txt", "28 files are taken from their version *_aligned"):
        assert words in run.out
    # The same images in folders have the same labels.
    other = convert_own(tmp_path / "folders", *RAF, to="folders_records")
    assert other.metadata["fingerprint"] == run.metadata["fingerprint"]


def test_a_table_elsewhere(tmp_path, convert_own):
    small_sets.write_raf_table(tmp_path / "raf")
    table = tmp_path / "raf/basic/EmoLabel/list_patition_label.txt"
    whole = convert_own(tmp_path / "raf", *RAF)
    run = convert_own(tmp_path / "raf/basic/Image", *RAF, f"--table={table}", to="image")
    assert run.metadata["fingerprint"] == whole.metadata["fingerprint"]
    inside = convert_own(
        *(tmp_path / "raf", *RAF, "--table=basic/EmoLabel/list_patition_label.txt"), to="inside"
    )
    assert inside.metadata["fingerprint"] == whole.metadata["fingerprint"]
    missing = convert_own(tmp_path / "raf", "--table=nothing.csv", to="missing")
    assert_one_line_error(missing, "--table nothing.csv", "neither in the source nor here")


def test_aligned_faces_precede_originals(tmp_path, convert_own):
    root = write(tmp_path / "own", "0.png 1\n1.png 1\n2.png 2\n3.png 2\n", "list.txt", 4)
    (root / "aligned").mkdir()
    (root / "aligned/0_aligned.png").write_bytes(encode(noise(99)))
    run = convert_own(root)
    assert run.status == 0, run.err
    assert sorted(run.examples) == [
        *("aligned/0_aligned.png", "faces/1.png", "faces/2.png", "faces/3.png")
    ]
    assert "left out: 1 pictures that the table does not name" in run.out


def test_affectnet_as_it_is_given_out(tmp_path, convert_own):
    total = small_sets.write_affectnet(tmp_path, per_class=2)
    flags = (
        f"--columns={small_sets.AFFECTNET_COLUMNS}",
        f"--label_map={small_sets.AFFECTNET_MAP}",
        *("--name=affectnet", "--image_size=64", "--channels=3"),
    )
    zipped = small_sets.zip_folder(tmp_path, tmp_path.parent / f"{tmp_path.name}.zip")
    run = convert_own(zipped, *flags)
    assert run.status == 0, run.err
    data = open_data_set(run.data_dir)
    assert data.classes == small_sets.AFFECTNET
    # Each table has one image of 8, of 9 and of 10; validation.csv has no header.
    assert data.split_sizes == {"train": total // 2 - 3, "validation": total // 2 - 3}
    assert "left out: 2 images of class '10', which the map leaves out" in run.out
    assert run.metadata["left_out"] == 6
    assert run.quarantine == {}
    labels = data.load("validation").labels
    assert np.bincount(labels).tolist() == [2] * 8


@pytest.mark.parametrize(
    ("delimiter", "name"), [(",", "x.csv"), (";", "x.csv"), ("\t", "x.tsv"), (" ", "x.txt")]
)
@pytest.mark.parametrize("header", [True, False])
def test_delimiters_and_headers(tmp_path, convert_own, delimiter, name, header):
    lines = [["file", "label", "split"]] if header else []
    lines += [[f"{k}.png", "ab"[k % 2], ("train", "Val")[k // 4]] for k in range(8)]
    table = "\r\n".join(delimiter.join(line) for line in lines)
    run = convert_own(write(tmp_path / "own", "\ufeff" + table, name))
    assert run.status == 0, run.err
    assert open_data_set(run.data_dir).split_sizes == {"train": 4, "validation": 4}
    assert {name: example["label"] for name, example in run.examples.items()} == {
        f"faces/{k}.png": "ab"[k % 2] for k in range(8)
    }


def test_columns_by_name_and_by_number(tmp_path, convert_own):
    table = "id,Emotion,Path,Usage\n" + "".join(
        f"{k},{'ab'[k % 2]},faces/{k}.png,{('Training', 'PrivateTest')[k // 4]}\n" for k in range(8)
    )
    run = convert_own(
        write(tmp_path / "own", table), "--columns=file=path,label=emotion,split=usage"
    )
    assert run.status == 0, run.err
    assert open_data_set(run.data_dir).split_sizes == {"train": 4, "private_test": 4}
    headless = "".join(f"{k}.png 0 {'ab'[k % 2]}\n" for k in range(8))
    run = convert_own(write(tmp_path / "other", headless), "--columns=label=3", to="headless")
    assert open_data_set(run.data_dir).classes == ("a", "b")


def test_bad_rows_are_quarantined(tmp_path, convert_own):
    bad = {
        "9.png,a,train": ": no picture '9.png'",
        "0.png,a,train": "faces/0.png again, after labels.csv:2",
        "1.png,b": "too few columns",
        "6.png,a,later": "split 'later' is not train, validation or test",
        "7.png,,train": "no label",
        "../../etc/passwd,a,train": "no picture",
        "twice.png,a,train": "2 files are called twice.png",
    }
    root = write(tmp_path / "own", rows(*bad, header="file,label,split", number=6))
    for folder in ("x", "y"):
        (root / folder).mkdir()
        (root / folder / "twice.png").write_bytes(encode(noise(70)))
    run = convert_own(root, "--allow_bad")
    assert run.status == 0, run.err
    assert len(run.examples) == 6
    assert list(run.quarantine) == [f"labels.csv:{number}" for number in range(8, 15)]
    for reason, found in zip(bad.values(), run.quarantine.values(), strict=True):
        assert reason in found
    assert_one_line_error(convert_own(root, to="strict"), "7 of 13", "--allow_bad")


@pytest.mark.parametrize(
    ("table", "flags", "words"),
    [
        ("image,mood\n0.png,a\n", ["--table=labels.csv"], ["no column 'file'", "image, mood"]),
        ("file,mood\n0.png,a\n", ["--table=labels.csv"], ["no column 'label'", "--columns"]),
        ("", ["--table=labels.csv"], ["no column 'file'"]),
        (rows(), ["--table=labels.csv", "--columns=split=use"], ["no column 'use'"]),
    ],
)
def test_tables_without_the_columns(tmp_path, convert_own, table, flags, words):
    root = write(tmp_path / "own")
    (root / "labels.csv").write_text(table)
    assert_one_line_error(convert_own(root, *flags), *words)


def test_tables_that_are_none_are_named(tmp_path, convert_own):
    small_sets.write_people(tmp_path / "own", 2)
    (tmp_path / "own" / "ages.csv").write_text("person,age\n1,33\n")
    (tmp_path / "own" / "landmarks.txt").write_text("33.1 44.5\n")
    run = convert_own(tmp_path / "own")
    assert run.status == 0, run.err
    assert "not read as a table of labels: ages.csv has no column 'file'; it has" in run.out
    assert "landmarks" not in run.out
    asked = convert_own(tmp_path / "own", "--columns=label=mood", to="asked")
    assert_one_line_error(asked, "ages.csv has no column 'file'", "--columns")
    (tmp_path / "own" / "ages.csv").unlink()
    none = convert_own(tmp_path / "own", "--columns=label=mood", to="none")
    assert_one_line_error(none, "holds no table", "--table")


def test_two_tables_are_told_apart_by_name_or_refused(tmp_path, convert_own):
    root = write(tmp_path / "own", rows(), "old.csv")
    (root / "new.csv").write_text(rows())
    assert_one_line_error(convert_own(root), "2 tables, new.csv and old.csv", "--table")
    assert convert_own(root, "--table=new.csv", to="chosen").status == 0


def test_votes_make_labels(tmp_path, convert_own):
    small_sets.write_votes(tmp_path / "own")
    flags = ("--columns=votes=angry+happy+sad+unknown", "--label_map=unknown=-,happy=joy")
    run = convert_own(tmp_path / "own", *flags)
    assert run.status == 0, run.err
    data = open_data_set(run.data_dir)
    assert data.classes == ("joy", "angry", "sad")
    records = data.load("train")
    assert records.votes.shape == (6, 3)
    np.testing.assert_allclose(np.sort(records.votes, axis=1), [[0.1, 0.1, 0.7]] * 6, atol=1e-6)
    np.testing.assert_array_equal(records.votes.argmax(axis=1), records.labels)


VOTES = [
    ("angry:3;happy:7", {"angry": 3, "happy": 7}),
    ("happy:1", {"happy": 1}),
    ("angry: 2 | sad: 2", {"angry": 2, "sad": 2}),
    ("0 3 7", {"a": 0, "b": 3, "c": 7}),
    ("0;3;7", {"a": 0, "b": 3, "c": 7}),
    ("0.5 0.25 0", {"a": 0.5, "b": 0.25, "c": 0}),
]


@pytest.mark.parametrize(("cell", "counts"), VOTES)
def test_votes_in_one_column(cell, counts):
    assert read_counts([cell], ("a", "b", "c")) == counts


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        *(("0 0 0", "no votes"), ("", "1 votes for 3 classes"), ("1 2", "2 votes for 3")),
        *(("1 2 x", "no numbers"), ("1 -2 3", "from 0 up"), ("1 nan 3", "from 0 up")),
        ("a:1;a:2", "2 votes for 1 classes"),
    ],
)
def test_votes_that_are_none(cell, reason):
    with pytest.raises(RejectedError, match=reason):
        read_counts([cell], ("a", "b", "c"))
    with pytest.raises(RejectedError, match="votes without names"):
        read_counts(["1 2"], ())


def test_shares_are_of_all_annotators():
    naming = name_classes({"a": 1, "b": 1, "c": 1}, read_map("c=a,b=b,a=a"))
    assert naming.classes == ("a", "b")
    assert to_shares({"a": 2, "b": 5, "c": 3}, naming) == pytest.approx((0.5, 0.5))
    naming = name_classes({"a": 1, "b": 1, "c": 1}, read_map("c=-"))
    assert to_shares({"a": 2, "b": 5, "c": 3}, naming) == pytest.approx((0.2, 0.5))
    assert to_shares({"a": 0.25, "b": 0.5}, naming) == (0.25, 0.5)
    assert to_shares({"c": 9}, naming) == (0, 0)


def test_votes_in_the_order_of_the_map(tmp_path, convert_own):
    table = "file,votes\n" + "".join(
        f"{k}.png,{9 * (k % 2)} {9 - 9 * (k % 2)} 1\n" for k in range(8)
    )
    root = write(tmp_path / "own", table + "7.png,\n")
    assert_one_line_error(convert_own(root), "9 of 9", "no image is usable")
    run = convert_own(root, "--label_map=joy=joy,anger=anger,none=-", "--allow_bad", to="named")
    assert run.status == 0, run.err
    example = run.examples["faces/0.png"]
    assert example["label"] == "anger"
    np.testing.assert_allclose(example["votes"], [0, 0.9], atol=1e-6)


def test_images_that_nobody_can_name_are_left_out(tmp_path, convert_own):
    table = "file,a,b,unsure\n" + "".join(f"{k}.png,{k % 2},{1 - k % 2},0\n" for k in range(7))
    root = write(tmp_path / "own", table + "7.png,0,0,5\n")
    run = convert_own(root, "--columns=votes=a+b+unsure", "--label_map=unsure=-")
    assert run.status == 0, run.err
    assert "left out: 1 images with votes for classes that are left out only" in run.out
    assert len(run.examples) == 7
