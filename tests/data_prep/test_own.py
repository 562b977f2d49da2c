"""Own data: folders named after classes, splits, groups, names, sizes and colours."""

import os
import re
import unicodedata

import numpy as np
import pytest
import small_sets
from PIL import Image
from small_releases import assert_one_line_error, encode, noise, write_folders

from data_prep.__main__ import main
from fer_jax.data.records import open_data_set


def write(root, files):
    """Writes a noisy image for each path; the seed is its number, or the value of the path."""
    if not isinstance(files, dict):
        files = dict(zip(files, range(len(files)), strict=True))
    for path, seed in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(encode(noise(seed)))
    return root


def folders(*names, number=2):
    return [f"{name}/{k}.png" for name in names for k in range(number)]


def test_folders_like_those_of_raf_db(tmp_path, convert_own):
    total = small_sets.write_raf_folders(tmp_path / "raf")
    flags = (
        *("--name=raf", "--channels=3", "--image_size=96"),
        f"--label_map={small_sets.RAF_MAP}",
    )
    run = convert_own(tmp_path / "raf", *flags, pictures=True)
    assert run.status == 0, run.err
    assert not run.err
    data = open_data_set(run.data_dir)
    assert data.classes == small_sets.RAF
    assert (data.name, data.images.shape) == ("raf", (96, 96, 3))
    assert data.split_sizes == {"train": total // 2, "test": total // 2}
    assert "surprise (4), fear (4), disgust (4)" in run.out
    for name, example in run.examples.items():
        assert example["label"] == small_sets.RAF[int(name.split("/")[1]) - 1]
        with Image.open(tmp_path / "raf" / "DATASET" / name) as image:
            expected = image.resize((96, 96), Image.Resampling.LANCZOS)
        np.testing.assert_array_equal(example["image"], expected)
    assert run.metadata["fit"] == "stretch"


@pytest.mark.parametrize("word", ["val", "validation", "Valid", "val_set"])
def test_splits_on_disk_have_one_name_each(tmp_path, convert_own, word):
    files = [f"{split}/{path}" for split in ("train", word, "test") for path in folders("a", "b")]
    run = convert_own(write(tmp_path / "own", files))
    assert run.status == 0, run.err
    assert open_data_set(run.data_dir).split_sizes == {"train": 4, "validation": 4, "test": 4}


def test_one_folder_of_classes_is_all_train_and_sorts_numbers_as_numbers(tmp_path, convert_own):
    run = convert_own(write(tmp_path / "own", folders("faces/10", "faces/9", "faces/b", "faces/A")))
    data = open_data_set(run.data_dir)
    assert data.classes == ("9", "10", "A", "b")
    assert data.split_sizes == {"train": 8}


def test_every_picture_format_that_predict_reads(tmp_path, convert_own):
    root = write(tmp_path / "own", folders("a", "b"))
    for kind in ("bmp", "tiff", "webp", "gif"):
        Image.fromarray(noise(0, (30, 40, 3))).save(root / "a" / f"x.{kind}")
    run = convert_own(root)
    assert run.status == 0, run.err
    assert len(run.examples) == 8


def test_people_are_in_one_split_only(tmp_path, convert_own):
    small_sets.write_people(tmp_path / "own")
    flags = ("--validation_fraction=0.2", "--test_fraction=0.3", "--group_by=^(s[0-9]+)_")
    run = convert_own(tmp_path / "own", *flags, pictures=True)
    assert run.status == 0, run.err
    assert "10 groups; 0 images have none" in run.out
    data = open_data_set(run.data_dir)
    assert data.split_sizes == {"train": 15, "validation": 6, "test": 9}
    people = {}
    for name, example in run.examples.items():
        assert example["group"] == re.search("s[0-9]+", name)[0]
        people.setdefault(example["group"], set()).add(example["split"])
    assert all(len(splits) == 1 for splits in people.values())
    kept, aside = (set(data.load(split).groups) for split in ("train_80", "validation_20"))
    assert not kept & aside
    again = convert_own(tmp_path / "own", *flags, to="again")
    assert again.metadata["fingerprint"] == run.metadata["fingerprint"]
    other = convert_own(tmp_path / "own", *flags, "--seed=1", to="other")
    assert other.metadata["fingerprint"] != run.metadata["fingerprint"]


def test_fractions_are_of_each_class(tmp_path, convert_own):
    root = write(tmp_path / "own", folders("a", number=10) + folders("b", number=20))
    run = convert_own(root, "--validation_fraction=0.3", "--test_fraction=0.3")
    found = [(example["split"], example["label"]) for example in run.examples.values()]
    assert {pair: found.count(pair) for pair in found} == {
        **{("train", "a"): 4, ("validation", "a"): 3, ("test", "a"): 3},
        **{("train", "b"): 8, ("validation", "b"): 6, ("test", "b"): 6},
    }


def test_a_zip_gives_the_same_records(tmp_path, convert_own):
    small_sets.write_people(tmp_path / "people", 4)
    file = small_sets.zip_folder(tmp_path / "people", tmp_path / "people.zip")
    flags = ("--name=people", "--test_fraction=0.25")
    one, other = convert_own(tmp_path / "people", *flags), convert_own(file, *flags, to="zip")
    assert one.metadata == other.metadata


def test_a_large_set_waits_on_the_disk_and_needs_no_tensorflow(tmp_path, convert_own, monkeypatch):
    small_sets.write_people(tmp_path / "people", 4)
    small = convert_own(tmp_path / "people", "--name=people")
    monkeypatch.setattr("data_prep.store.MAX_MEMORY", 1000)
    monkeypatch.setattr("tensorflow_datasets.core.shuffle.MAX_MEM_BUFFER_SIZE", 1000)
    large = convert_own(tmp_path / "people", "--name=people", to="large")
    assert large.status == 0, large.err
    assert large.metadata == small.metadata
    assert list(large.examples) == list(small.examples)
    assert sorted(os.listdir(large.data_dir)) == [
        *("class_distribution.png", "people", "quarantine.csv", "samples.png")
    ]


@pytest.mark.parametrize(
    ("fit", "corner", "middle"), [("crop", 0, 7), ("pad", 0, 7), ("stretch", 200, 7)]
)
def test_fit(tmp_path, convert_own, fit, corner, middle):
    """The image is 40 high and 120 wide: its left 30 columns are 200, its middle is 7."""
    levels = np.zeros((40, 120), np.uint8)
    levels[:, :30] = 200
    levels[:, 50:70] = 7
    root = write(tmp_path / "own", folders("a", "b"))
    (root / "a/wide.png").write_bytes(encode(levels))
    run = convert_own(root, f"--fit={fit}", "--image_size=40")
    image = run.examples["a/wide.png"]["image"]
    assert image.shape == (40, 40, 1)
    assert (image[1, 1], image[20, 20]) == (corner, middle)
    if fit == "pad":
        assert image[20, 1] > 150
    assert run.metadata["fit"] == fit


def test_unicode_names_and_spellings(tmp_path, convert_own):
    decomposed = unicodedata.normalize("NFD", "Wütend")
    files = [
        *(f"train/{path}" for path in folders("Wütend", "Angst  ", number=3)),
        *(f"test/{path}" for path in folders(decomposed, "angst")),
    ]
    run = convert_own(write(tmp_path / "own", files))
    assert run.status == 0, run.err
    assert open_data_set(run.data_dir).classes == ("Angst", "Wütend")
    assert "'Angst' and 'angst' are taken for one class" in run.out
    assert run.out.count("taken for one") == 1  # macOS decomposes names; nobody sees it.


def test_the_map_renames_merges_leaves_out_and_orders(tmp_path, convert_own):
    root = write(tmp_path / "own", folders("anger", "rage", "joy", "other", "blur"))
    (tmp_path / "map.txt").write_text("# ours\njoy=happy\nANGER = angry\n\nrage=angry\nblur=\n")
    run = convert_own(root, f"--label_map={tmp_path / 'map.txt'}")
    assert run.status == 0, run.err
    assert open_data_set(run.data_dir).classes == ("happy", "angry", "other")
    assert "happy (2), angry (4), other (2)" in run.out
    assert "left out: 2 images of class 'blur'" in run.out
    assert run.quarantine == {}
    assert run.metadata["left_out"] == 2
    inline = convert_own(root, "--label_map=joy=happy,anger=angry,rage=angry,blur=-", to="inline")
    assert inline.metadata["fingerprint"] == run.metadata["fingerprint"]


def test_what_is_no_picture_is_counted_and_not_bad(tmp_path, convert_own):
    root = write(tmp_path / "own", folders("a", "b"))
    for path in ("README.md", "a/notes.txt", "a/Thumbs.db", ".DS_Store", "a/._0.png"):
        (root / path).write_bytes(b"x")
    run = convert_own(root)
    assert run.status == 0, run.err
    assert "left out: 2 hidden files" in run.out
    assert "left out: 3 files that are no pictures" in run.out
    assert run.quarantine == {}


def test_bad_pictures_are_quarantined(tmp_path, convert_own):
    root = write(tmp_path / "own", [*folders("a", "b"), "stray.png", "a/deep/1.png"])
    (root / "a/empty.jpg").write_bytes(b"")
    (root / "a/text.png").write_bytes(b"text")
    (root / "a/phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    assert_one_line_error(convert_own(root), "5 of 9", "--allow_bad")
    run = convert_own(root, "--allow_bad")
    assert run.status == 0, run.err
    reasons = {
        "stray.png": "train: not directly inside a <class> folder",
        "a/deep/1.png": "train: not directly inside a <class> folder",
        "a/empty.jpg": "train: empty file",
        "a/text.png": "train: not a readable image",
        "a/phone.heic": "train: not a readable image, but HEIC",
    }
    assert run.quarantine == reasons


def test_oddities_are_said_before_anything_is_written(tmp_path, convert_own, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("the records are written")

    files = {f"train/{path}": seed for seed, path in enumerate(folders("a", "b", "c"))}
    files |= {"test/a/1.png": 0, "test/b/1.png": 0, "test/b/2.png": 50, "train/b/again.png": 2}
    monkeypatch.setattr("data_prep.prepare.write_records", fail)
    with pytest.raises(AssertionError, match="written"):
        main(
            [
                *("--source", str(write(tmp_path / "own", files)), "--labels=folders"),
                *("--data_dir", str(tmp_path / "data")),
            ]
        )


def test_warnings(tmp_path, convert_own):
    files = {f"train/{path}": seed for seed, path in enumerate(folders("a", "b", "c"))}
    files |= {"test/a/s1_1.png": 0, "test/b/s1_2.png": 0, "test/b/2.png": 50, "train/b/3.png": 2}
    files |= {"train/a/s1_3.png": 60}
    run = convert_own(write(tmp_path / "own", files), "--group_by=s1")
    assert run.status == 0
    assert run.err.splitlines() == [
        "warning: test has images of 2 of 3 classes: none of c",
        "warning: images with the same pixels are in two splits: 1 in test and train",
        "warning: images with the same pixels are in two classes: 1 in a and b",
        "warning: 1 images repeat another one of their own split and class",
        "warning: groups of --group_by are in two splits: 1 in test and train",
    ]


@pytest.mark.parametrize(
    ("files", "flags", "words"),
    [
        (["1.png", "2.png"], [], ["no folders of images", "<class>/*.jpg"]),
        (folders("a"), [], ["one class, 'a'"]),
        ([*folders("a"), "b/1.png"], [], ["at least two images: b has 1", "--label_map=it=-"]),
        (folders("a", "b"), ["--label_map=c=x"], ["'c'", "there are a, b"]),
        (folders("happy", "b"), ["--label_map=hapy=x"], ["did you mean 'happy'"]),
        (folders("a", "b"), ["--label_map=a=x,A=y"], ["'A' twice"]),
        (folders("a", "b"), ["--label_map=a=x,b"], ["'b' is no pair"]),
        (folders("a", "b"), ["--label_map=nowhere.txt"], ["neither a file nor pairs"]),
        (folders("a", "b"), ["--label_map=a=x,b=x"], ["one class, 'x'"]),
        (folders("a", "b"), ["--label_map=a=-,b=-"], ["no image is left"]),
        (folders("a", "b,c"), [], ["'b,c' cannot be the name of a class"]),
        (folders("a", "b"), ["--group_by=("], ["no regular expression"]),
        (folders("a", "b"), ["--group_by=zzz"], ["finds no group", "a/0.png"]),
        (
            [*(f"train/{path}" for path in folders("a", "b")), "test/a/1.png"],
            ["--test_fraction=0.5"],
            ["has a test split already"],
        ),
        (
            [f"{k}/train/{path}" for k in "xy" for path in folders("a", "b")],
            [],
            ["2 sets of faces", "x/ and y/"],
        ),
    ],
)
def test_what_is_refused(tmp_path, convert_own, files, flags, words):
    run = convert_own(write(tmp_path / "own", files), *flags)
    assert_one_line_error(run, *words)
    assert not run.wrote_records


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--name=RAF"], ["'RAF' is no name", "lower-case"]),
        (["--name=fer2013"], ["cannot have the name fer2013"]),
        (["--labels=fer2014"], ["--labels", "fer2013", "folders"]),
        (["--image_size=31"], ["--image_size=31 is not from 32 to 512"]),
        (["--channels=2"], ["--channels"]),
        (["--fit=squash"], ["--fit"]),
        (["--validation_fraction=1.5"], ["--validation_fraction=1.5"]),
        (["--validation_fraction=nan"], ["--validation_fraction=nan"]),
        (["--validation_fraction=0.5", "--test_fraction=0.5"], ["nothing to train on"]),
        (["--columns=face=x"], ["'face=x'", "file, label, split, votes"]),
        (["--seed=-1"], ["--seed=-1"]),
        (["--labels=fer2013", "--group_by=x"], ["--group_by is for own data", "--labels=folders"]),
    ],
)
def test_bad_flags(tmp_path, convert_own, flags, words):
    write(tmp_path / "own", folders("a", "b"))
    assert_one_line_error(convert_own(tmp_path / "own", *flags), *words)


def test_bad_sources(tmp_path, convert_own):
    (tmp_path / "file.csv").write_text("file,label\n")
    assert_one_line_error(convert_own(tmp_path / "nowhere"), "does not exist", "folder or .zip")
    assert_one_line_error(convert_own(tmp_path / "file.csv"), "neither a folder nor a .zip")
    assert_one_line_error(convert_own("kaggle"), "does not exist")
    for folder in ("own", "own/below"):
        run = convert_own(write(tmp_path / "own", folders("a", "b")), to=folder)
        assert_one_line_error(run, "lies in --source", "another --data_dir")


def test_the_folder_gives_the_name_and_the_name_the_folder(tmp_path, convert_own, monkeypatch):
    root = write(tmp_path / "own", folders("a", "b"))
    assert convert_own(root, to="moods").metadata["options"]["labels"] == "folders"
    assert open_data_set(tmp_path / "moods").name == "moods"
    assert_one_line_error(convert_own(root, to="My Moods"), "'My Moods' is no name", "--name")
    monkeypatch.chdir(tmp_path)
    assert main(["--source", str(root), "--labels=folders", "--name=faces"]) == 0
    assert os.listdir("data") == ["faces"]
    assert (tmp_path / "data/faces/faces/1.0.0/metadata.json").exists()


def test_finished_records_refuse_other_options(tmp_path, convert_own, convert):
    root = write(tmp_path / "own", folders("a", "b"))
    flags = ("--name=moods", "--image_size=64")
    first = convert_own(root, *flags)
    assert first.status == 0, first.err
    again = convert_own(root, *flags)
    assert "already finished" in again.out
    for others, words in (
        (["--name=others"], ["holds records of moods", "others"]),
        (["--image_size=96"], ["--image_size=64", "not --image_size=96"]),
        (["--channels=3"], ["--channels=1", "--channels=3"]),
        (["--label_map=b=x"], ["--label_map=", "b=x"]),
        (["--test_fraction=0.5"], ["--test_fraction=0.0", "--test_fraction=0.5"]),
    ):
        assert_one_line_error(convert_own(root, *flags, *others), *words, "another --data_dir")
    write(root, ["a/another.png"])
    assert_one_line_error(convert_own(root, *flags), "with 4 files or rows", "with 5")
    assert_one_line_error(convert(root, to="records"), "holds records of moods")


def test_fer2013_in_another_size_and_name(tmp_path, convert):
    write_folders(tmp_path / "fer", 1)
    run = convert(tmp_path / "fer", "--image_size=64", "--channels=3", "--name=fer64")
    assert run.status == 0, run.err
    data = open_data_set(run.data_dir)
    assert (data.name, data.images.shape) == ("fer64", (64, 64, 3))


def test_the_default_is_as_before(tmp_path, convert):
    """Version 0.2.0 gave these records this fingerprint."""
    write_folders(tmp_path / "fer", 1)
    fingerprint = convert(tmp_path / "fer").metadata["fingerprint"]
    assert fingerprint == "41bc7a51871a479ff78e8aa57386f15650b053520ef81d47921a7c5eccf89804"


def test_finished_records_of_changed_files_are_refused(tmp_path, convert_own):
    source = write(tmp_path / "source", folders("calm", "tense", number=3))
    assert convert_own(source).status == 0
    assert "already finished" in convert_own(source).out
    (source / "tense").rename(source / "upset")
    assert_one_line_error(convert_own(source), "other names, splits or classes")
