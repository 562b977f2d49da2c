"""Every release converts to the same records: names, splits, order of classes and pixels."""

import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from small_releases import assert_one_line_error, csv_row, noise, write_folders

from fer_jax.data.contract import CLASS_NAMES, PUBLISHED_COUNTS, record_dir
from fer_jax.data.records import open_data_set


def zip_folder(folder: Path, file: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(file, "w") as archive:
        for path in sorted(folder.rglob("*"), reverse=True):
            archive.write(path, prefix + path.relative_to(folder).as_posix())
    return file


def test_folders_keep_every_pixel_and_the_order_of_classes(tmp_path, convert):
    expected = write_folders(tmp_path / "fer")
    run = convert(tmp_path / "fer")
    assert run.status == 0, run.err
    assert run.records == expected
    # Sorted folders would make neutral class 4 and surprise class 6.
    assert run.records["train/neutral/Training_0.png"][1] == 6
    assert run.records["train/surprise/Training_0.png"][1] == 5
    assert run.quarantine == {}
    assert run.metadata["source"] == "folders"
    assert run.metadata["images"] == len(expected)


def test_class_names_are_stored_with_the_records(tmp_path, convert):
    write_folders(tmp_path / "fer", 1)
    builder = tfds.builder_from_directory(record_dir(convert(tmp_path / "fer").data_dir))
    assert tuple(builder.info.features["label"].names) == CLASS_NAMES


def test_zips_and_nested_and_plain_folders_agree_to_the_byte(tmp_path, convert):
    folder = tmp_path / "fer"
    expected = write_folders(folder)
    shutil.copytree(folder, tmp_path / "outer" / "archive")
    flat = zip_folder(folder, tmp_path / "flat.zip")
    nested = zip_folder(folder, tmp_path / "nested.ZIP", prefix="fer2013/")
    windows = zip_folder(folder, tmp_path / "windows.zip", prefix="fer2013\\")
    sources = (folder, tmp_path / "outer", flat, nested, windows)
    runs = [convert(source, to=f"data{n}") for n, source in enumerate(sources)]
    for run in runs:
        assert run.status == 0, run.err
        assert run.records == expected
        assert run.metadata == runs[0].metadata
        for shard in record_dir(run.data_dir).glob("*.array_record*"):
            other = record_dir(runs[0].data_dir) / shard.name
            assert shard.read_bytes() == other.read_bytes()


def test_the_same_pixels_have_the_same_fingerprint_from_a_folder_and_a_csv(tmp_path, convert):
    expected = write_folders(tmp_path / "fer", 1)
    usages = {"train": "Training", "public_test": "PublicTest", "private_test": "PrivateTest"}
    rows = [
        csv_row(label, np.frombuffer(pixels, np.uint8), usages[split])
        for split, label, pixels in reversed(expected.values())
    ]
    (tmp_path / "fer2013.csv").write_text("\n".join(["emotion,pixels,Usage", *rows]))
    folder, table = convert(tmp_path / "fer"), convert(tmp_path / "fer2013.csv", to="table")
    assert sorted(table.records.values()) == sorted(folder.records.values())
    assert table.metadata["fingerprint"] == folder.metadata["fingerprint"]
    assert table.metadata["names"] != folder.metadata["names"]


def test_the_fingerprint_depends_on_the_labels(tmp_path, convert):
    write_folders(tmp_path / "fer", 1)
    first = convert(tmp_path / "fer").metadata["fingerprint"]
    swapped = tmp_path / "fer" / "train"
    (swapped / "sad").rename(swapped / "kept")
    (swapped / "fear").rename(swapped / "sad")
    (swapped / "kept").rename(swapped / "fear")
    assert convert(tmp_path / "fer", to="swapped").metadata["fingerprint"] != first


def test_a_test_folder_without_prefixes_is_one_split(tmp_path, convert):
    expected = write_folders(tmp_path / "fer", prefixed=False)
    assert {split for split, *_ in expected.values()} == {"train", "test"}
    assert convert(tmp_path / "fer").records == expected


def test_the_images_release_gives_train_and_test(tmp_path, convert):
    expected = write_folders(tmp_path / "fer" / "images", prefixed=False)
    (tmp_path / "fer/images/test").rename(tmp_path / "fer/images/validation")
    renamed = {name.replace("test/", "validation/"): value for name, value in expected.items()}
    assert convert(tmp_path / "fer").records == renamed


@pytest.mark.parametrize("as_zip", [False, True])
@pytest.mark.parametrize(
    ("file", "header"),
    [("fer2013.csv", "emotion,pixels,Usage"), ("icml_face_data.csv", "emotion, Usage, pixels")],
)
def test_csv(tmp_path, convert, file, header, as_zip):
    usages = {"Training": "train", "PublicTest": "public_test", "PrivateTest": "private_test"}
    lines = [header]
    expected = {}
    for usage, split in usages.items():
        for label in range(7):
            image = noise(len(lines))
            row = csv_row(label, image, usage)
            if header.endswith("pixels"):
                row = ",".join(np.array(row.split(","))[[0, 2, 1]])
            lines.append(row)
            expected[f"{file}:{len(lines)}"] = (split, label, image.tobytes())
    source = tmp_path / file
    source.write_text("\ufeff" + "\r\n".join(lines) + "\r\n\r\n", newline="")
    if as_zip:
        with zipfile.ZipFile(tmp_path / "fer.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(source, f"challenge/{file}")
        source = tmp_path / "fer.zip"
    run = convert(source)
    assert run.status == 0, run.err
    assert run.records == expected
    assert run.metadata["source"] == "csv"
    assert run.quarantine == {}


def test_aliases_and_capitals(tmp_path, convert):
    expected = write_folders(tmp_path / "fer")
    others = ("Anger", "DISGUSTED", "fearful", "Happiness", "sadness", "Surprised", "NEUTRAL")
    for folder in ("train", "test"):
        for name, other in zip(CLASS_NAMES, others, strict=True):
            (tmp_path / "fer" / folder / name).rename(tmp_path / "fer" / folder / other)
    (tmp_path / "fer" / "train").rename(tmp_path / "fer" / "Train")
    assert sorted(convert(tmp_path / "fer").records.values()) == sorted(expected.values())


def test_an_unknown_class_is_named_with_the_known_ones(tmp_path, convert):
    write_folders(tmp_path / "fer")
    (tmp_path / "fer/train/sad").rename(tmp_path / "fer/train/contempt")
    run = convert(tmp_path / "fer")
    assert_one_line_error(run, "'contempt'", *CLASS_NAMES)
    assert not run.wrote_records


def test_the_same_name_in_two_classes_stays_two_images(tmp_path, convert):
    for seed, name in enumerate(("sad", "happy", "happiness")):
        (tmp_path / "fer/train" / name).mkdir(parents=True)
        Image.fromarray(noise(seed)).save(tmp_path / "fer/train" / name / "1.png")
    records = convert(tmp_path / "fer").records
    assert {name: value[1:] for name, value in records.items()} == {
        "train/sad/1.png": (4, noise(0).tobytes()),
        "train/happy/1.png": (3, noise(1).tobytes()),
        "train/happiness/1.png": (3, noise(2).tobytes()),
    }


def test_links_are_followed_once(tmp_path, convert):
    expected = write_folders(tmp_path / "elsewhere")
    (tmp_path / "fer").mkdir()
    for folder in ("train", "test"):
        (tmp_path / "fer" / folder).symlink_to(tmp_path / "elsewhere" / folder)
    (tmp_path / "elsewhere/train/loop").symlink_to(tmp_path / "elsewhere/train")
    assert convert(tmp_path / "fer").records == expected


def test_train_test_and_validation_together_are_not_mixed(tmp_path, convert):
    write_folders(tmp_path / "fer", 1, prefixed=False)
    shutil.copytree(tmp_path / "fer/test", tmp_path / "fer/validation")
    assert_one_line_error(convert(tmp_path / "fer"), "test/", "validation/")


def test_two_releases_side_by_side_are_not_mixed(tmp_path, convert):
    write_folders(tmp_path / "fer" / "one", 1)
    write_folders(tmp_path / "fer" / "two", 1)
    assert_one_line_error(convert(tmp_path / "fer"), "2 releases", "one", "two")


def test_sample_goes_through_the_same_path(tmp_path, convert, monkeypatch):
    monkeypatch.setattr("data_prep.sources.write_sample", lambda folder: write_folders(folder))
    run = convert("sample")
    assert run.status == 0, run.err
    assert run.metadata["source"] == "sample"
    assert len(run.records) == 42


def test_pictures_show_the_images_and_the_counts(tmp_path, convert):
    write_folders(tmp_path / "fer", 3)
    run = convert(tmp_path / "fer", pictures=True)
    for picture in ("samples.png", "class_distribution.png"):
        with Image.open(run.data_dir / picture) as image:
            assert min(image.size) > 400
            assert np.asarray(image.convert("L")).std() > 20
    # Each of 3 splits has 8 rows; train has 3 of the published 3,995 angry images.
    assert sum("│" in line for line in run.out.splitlines()) == 24
    assert "3,995" in run.out
    assert "-3,992" in run.out
    assert sorted(os.listdir(run.data_dir)) == [
        "class_distribution.png",
        "fer2013",
        "quarantine.csv",
        "samples.png",
    ]


def test_the_real_images_have_the_published_counts(fer2013_source, convert):
    run = convert(fer2013_source)
    assert run.status == 0, run.err
    data = open_data_set(run.data_dir)
    assert {"train", "public_test"} <= data.split_sizes.keys()
    for split in data.split_sizes:
        labels = data.load(split, memory_gib=0).labels
        assert tuple(np.bincount(labels)) == PUBLISHED_COUNTS[split]
