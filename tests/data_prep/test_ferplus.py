"""FER+: votes instead of FER-2013's labels."""

import numpy as np
import pytest
from small_releases import assert_one_line_error, csv_row, encode, noise

from data_prep.ferplus import CLASSES
from fer_jax.data.records import open_data_set

HEADER = (
    "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
)
ROWS = (
    ("Training", (8, 2, 0, 0, 0, 0, 0, 0, 0, 0)),  # neutral by 8 of 10
    ("Training", (4, 4, 1, 1, 0, 0, 0, 0, 0, 0)),  # neutral and happy alike: no majority
    ("Training", (1, 0, 0, 0, 0, 0, 0, 6, 3, 0)),  # contempt by 6 of 9; the single vote is dropped
    ("Training", (0, 0, 0, 0, 0, 0, 0, 0, 7, 3)),  # unknown
    ("Training", (0, 1, 0, 0, 0, 0, 0, 0, 0, 9)),  # no face
    ("Training", (1, 1, 1, 1, 1, 1, 1, 1, 1, 1)),  # nobody agrees
    ("PublicTest", (0, 0, 0, 0, 9, 0, 0, 0, 1, 0)),  # angry
    ("PublicTest", (0, 5, 0, 0, 0, 0, 0, 0, 5, 0)),  # happy as much as unknown: no majority
)


def write_votes(path, rows=ROWS, header=HEADER):
    lines = [f"{usage},fer{k}.png,{','.join(map(str, v))}" for k, (usage, v) in enumerate(rows)]
    path.write_text("\n".join([header, *lines]) + "\n")
    return f"--ferplus_csv={path}"


@pytest.fixture
def release(tmp_path):
    """fer2013.csv with a row for each of ROWS."""
    rows = [csv_row(0, noise(seed), usage) for seed, (usage, _) in enumerate(ROWS)]
    path = tmp_path / "fer2013.csv"
    path.write_text("\n".join(["emotion,pixels,Usage", *rows]) + "\n")
    return path


def test_votes_are_labels_and_shares(release, tmp_path, convert):
    run = convert(release, "--labels=ferplus", write_votes(tmp_path / "votes.csv"))
    assert run.status == 0, run.err
    data = open_data_set(run.data_dir)
    assert (data.name, data.classes) == ("ferplus", CLASSES)
    train = data.load("train", ambiguous=True)
    found = dict(zip(train.filenames, train.votes, strict=True))
    order = {name: label for label, name in enumerate(CLASSES)}
    expected = {
        "fer2013.csv:2": {"neutral": 0.8, "happy": 0.2},
        "fer2013.csv:3": {"neutral": 0.5, "happy": 0.5},
        "fer2013.csv:4": {"contempt": 6 / 9},
    }
    assert found.keys() == expected.keys()
    for name, shares in expected.items():
        row = np.zeros(len(CLASSES))
        for label, share in shares.items():
            row[order[label]] = share
        np.testing.assert_allclose(found[name], row, rtol=1e-6)
    assert run.metadata["left_out"] == 3


def test_only_a_majority_is_evaluated(release, tmp_path, convert):
    run = convert(release, "--labels=ferplus", write_votes(tmp_path / "votes.csv"))
    data = open_data_set(run.data_dir)
    assert data.load("public_test").filenames == ["fer2013.csv:8"]
    assert len(data.load("public_test", ambiguous=True)) == 2
    assert sorted(data.load("train").filenames) == ["fer2013.csv:2", "fer2013.csv:4"]


def test_image_files_are_found_by_a_table_of_rows(tmp_path, convert):
    names = ["Training_1.jpg", "Training_2.jpg", "Training_3.jpg", "Training_4.jpg"]
    folder = tmp_path / "images/train/angry"
    folder.mkdir(parents=True)
    for seed, name in enumerate(names):
        (folder / name).write_bytes(encode(noise(seed)))
    table = tmp_path / "rows.csv"
    table.write_text(
        "usage,filename,row\nTraining,Training_1.jpg,2\nTraining,Training_2.jpg,\n"
        "Training,Training_3.jpg,0\nTraining,Training_3.jpg,1\nTraining,Training_4.jpg,6\n"
    )
    flags = ("--labels=ferplus", write_votes(tmp_path / "votes.csv"), "--allow_bad")
    run = convert(tmp_path / "images", *flags, f"--ferplus_rows={table}")
    assert run.status == 0, run.err
    train = open_data_set(run.data_dir).load("train")
    assert train.filenames == ["train/angry/Training_1.jpg"]
    assert CLASSES[train.labels[0]] == "contempt"
    reasons = (run.data_dir / "quarantine.csv").read_text()
    assert "no row, or several, for Training_3.jpg" in reasons
    assert "an image of train, but row 6 of FER+ is of PublicTest" in reasons
    assert run.metadata["left_out"] == 1  # Training_2.jpg, which FER+ does not name.


def test_mistakes_are_told_in_a_line(release, tmp_path, convert):
    ferplus = "--labels=ferplus"
    assert_one_line_error(convert(release, ferplus), "needs --ferplus_csv=PATH")
    assert_one_line_error(convert(release, f"--ferplus_csv={release}"), "go with --labels=ferplus")
    other = write_votes(tmp_path / "other.csv", header=HEADER.replace("contempt", "joy"))
    assert_one_line_error(convert(release, ferplus, other), "has no column contempt")
    rows = [("Training", (8, "x", 0, 0, 0, 0, 0, 0, 0, 0))]
    bad = write_votes(tmp_path / "bad.csv", rows)
    assert_one_line_error(convert(release, ferplus, bad), "line 2: happiness is 'x'")
    none = convert(release, ferplus, f"--ferplus_csv={tmp_path / 'none.csv'}")
    assert_one_line_error(none, "cannot be read as a csv: No such file")
