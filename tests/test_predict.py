"""`python -m fer_jax.predict` on the kinds of files that people have, and the stream behind it."""

import csv
import dataclasses
import functools
import json
import os
import weakref
from pathlib import Path

import commands
import cv2
import numpy as np
import pytest
from PIL import Image

from data_prep.sample import render
from fer_jax.inference.pictures import UnreadableError
from fer_jax.inference.predictor import Prediction
from fer_jax.inference.sources import Frame, find_frames
from fer_jax.inference.stream import predict_frames

CLASSES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")


def predict(*arguments):
    return commands.run("fer_jax.predict", *arguments)


def face(seed: int, size: int = 48) -> Image.Image:
    """A drawn face that the cascade finds if it is large enough."""
    image = Image.fromarray(render([seed % 7], [np.random.default_rng(seed)])[0])
    return image.resize((size, size), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def album(tmp_path_factory) -> Path:
    """Pictures, a video and damaged files, two folders deep."""
    album = tmp_path_factory.mktemp("album")
    (album / "more/deep").mkdir(parents=True)
    face(1).save(album / "a.png")
    canvas = Image.new("RGB", (400, 300), (128, 128, 128))
    canvas.paste(face(9, 150), (30, 60))
    canvas.paste(face(12, 120), (230, 90))
    canvas.save(album / "group.jpg")
    quarter_turn = Image.Exif()
    quarter_turn[0x0112] = 6  # Orientation: turn clockwise to view.
    canvas.rotate(90, expand=True).save(album / "turned.png", exif=quarter_turn)
    Image.new("L", (80, 80), 90).save(album / "more/wall.png")
    face(17, 200).save(album / "more/deep/a.JPG")
    (album / "notes.txt").write_text("no picture")
    content = (album / "group.jpg").read_bytes()
    (album / "more/half.jpg").write_bytes(content[: len(content) // 2])
    (album / os.fsdecode(b"more/b\xff.png")).write_bytes(b"")
    (album / "more/cut.mp4").write_bytes(b"no video")
    size = (160, 120)
    video = cv2.VideoWriter(str(album / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, size)
    for shift in range(3):
        frame = Image.new("RGB", size, (128, 128, 128))
        frame.paste(face(25, 96), (10 + 10 * shift, 12))
        video.write(np.asarray(frame))
    video.release()
    return album


def test_explains_every_picture_of_a_folder(album, trained_workdir, tmp_path):
    flags = (f"--workdir={trained_workdir}", "--format=jsonl", f"--output={tmp_path / 'out'}")
    result = predict(album, *flags, "--explain")
    assert result.returncode == 1
    assert result.stderr == "error: 3 of 11 pictures could not be read\n"
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    names = [os.fsencode(line["image"]).removeprefix(os.fsencode(album) + b"/") for line in lines]
    assert names == [
        *(b"a.png", b"clip.avi", b"clip.avi", b"clip.avi", b"group.jpg", b"turned.png"),
        *(b"more/b\xff.png", b"more/cut.mp4", b"more/half.jpg", b"more/wall.png"),
        b"more/deep/a.JPG",
    ]
    assert [line["frame"] for line in lines[:5]] == [None, 0, 1, 2, None]
    failed = {line["image"][-8:]: line["status"] for line in lines if line["status"] != "ok"}
    assert len(failed) == 3
    assert failed["half.jpg"].startswith("error: image file is truncated")
    assert failed["/cut.mp4"] == "error: not a video, or damaged"
    for line in lines:
        if line["status"] == "ok":
            assert tuple(line["probabilities"]) == CLASSES
            assert sum(line["probabilities"].values()) == pytest.approx(1, abs=1e-4)
            assert line["label"] == max(line["probabilities"], key=line["probabilities"].get)
            assert line["box"] is None
    group, turned = (list(lines[index]["probabilities"].values()) for index in (4, 5))
    np.testing.assert_allclose(group, turned, atol=0.02)  # One of them is a JPEG.

    copies = sorted(str(path.relative_to(tmp_path / "out")) for path in tmp_path.rglob("*.jpg"))
    assert copies == [
        *("a.jpg", "clip/000000.jpg", "clip/000001.jpg", "clip/000002.jpg", "group.jpg"),
        *("more/deep/a.jpg", "more/wall.jpg", "turned.jpg"),
    ]
    red, _, blue = np.asarray(Image.open(tmp_path / "out/a.jpg").convert("RGB")).T.astype(int)
    assert np.abs(red - blue).max() > 40  # The heat map is coloured, the picture grey.


def test_finds_faces_or_says_that_there_are_none(album, trained_workdir, tmp_path):
    names = (album / "a.png", album / "more/wall.png", album / "turned.png")
    flags = (f"--workdir={trained_workdir}", "--detect_faces", f"--output={tmp_path / 'out'}")
    result = predict("--format=csv", *flags, *names, album / "gr*.jpg", album / "more/deep/*")
    assert result.returncode == 0, result.stderr
    rows = list(csv.DictReader(result.stdout.splitlines()))
    faces = [(Path(row["image"]).name, row["status"]) for row in rows]
    for once in (("wall.png", "no face"), ("a.JPG", "ok")):
        assert faces.count(once) == 1
    for twice in ("turned.png", "group.jpg"):
        found = [row for row in rows if row["image"].endswith(twice)]
        assert [30 <= int(row["left"]) + int(row["width"]) / 2 <= 180 for row in found] == [1, 0]
        assert all(60 <= int(row["top"]) + int(row["height"]) / 2 <= 210 for row in found)
        assert all(row["label"] == max(CLASSES, key=lambda name: float(row[name])) for row in found)
    # Two pictures called `a` lie beside each other.
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("a.jpg", "a-2.jpg", "wall.jpg", "turned.jpg", "group.jpg"),
    }


def test_prints_a_table(album, trained_workdir):
    result = predict(f"--workdir={trained_workdir}", album / "clip.avi", album / "more/cut.mp4")
    assert result.returncode == 1
    head, *rows, broken = result.stdout.splitlines()
    assert head.split()[:8] == [*CLASSES, "label"]
    for number, row in enumerate(rows):
        *percents, label = row.split()[:8]
        assert label == CLASSES[np.argmax(np.array(percents, float))]
        assert row.endswith(f"clip.avi frame {number}")
    assert len(rows) == 3
    assert broken.split()[:8] == ["-"] * 7 + ["error"]
    assert broken.endswith("cut.mp4: not a video, or damaged")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workdir=w"], "name a picture"),
        (["{album}"], "--workdir"),
        (["--workdir=w", "{album}", "--explain"], "--output=FOLDER"),
        (["--workdir=w", "{album}", "--format=xml"], "<table|jsonl|csv>"),
        (["--workdir=w", "{album}", "--detect_face"], "Did you mean: detect_faces"),
        (["--workdir=w", "{album}", "--output={album}/more/labelled"], "choose another folder"),
        (["--workdir=w", "{album}/a.png", "--output={album}"], "choose another folder"),
        (["--workdir=w", "{album}/a.png", "nowhere.png"], "'nowhere.png'"),
        (["--workdir=w", "{album}/*.gif"], "*.gif'"),
        (["--workdir=w", "{empty}"], "holds no picture or video"),
        (["--workdir=w", ""], "the path is empty; give one"),
        (["--workdir=w", "{album}", 256 * "x"], "a name in the path has 256 bytes"),
        (["--workdir=w", "{album}", "--output="], "flag --output=: the path is empty"),
        (
            ["--workdir=w", "{album}", "--output={album}/a.png/x"],
            "cannot be a folder: {album}/a.png is a file",
        ),
        (["--workdir=w", "camera:987"], "cannot open camera:987"),
        (["--workdir=w", "camera:x"], "cannot open camera:x"),
        (["--workdir=w", "camera:0", "{album}"], "give it alone"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_ends_in_one_line_and_status_2(arguments, message, album, tmp_path):
    result = predict(*(argument.format(album=album, empty=tmp_path) for argument in arguments))
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert message.format(album=album) in result.stderr


class FakePredictor:
    """Predicts the grey level of each face, and records the sizes of its batches."""

    batch_size = 4

    def __init__(self):
        self.batches = []

    def __call__(self, inputs):
        self.batches.append(len(inputs))
        levels = np.array([[image.mean() / 255] for image in inputs])
        return Prediction(levels, ("grey",))


def grey_frames(count, loaded):
    def load(level):
        loaded.append(level)
        if level % 10 == 5:
            raise UnreadableError(f"{level}.png", "torn")
        return Image.new("L", (60, 60), level)

    for level in range(count):
        yield Frame(f"{level}.png", Path(str(level)), lambda level=level: load(level))


def stream(predictor, frames, **options):
    defaults = {"detect_faces": False, "explain": False, "keep_pictures": False, "at_once": False}
    return predict_frames(predictor, frames, **{**defaults, **options})


def test_batches_are_full_and_in_order_around_what_is_broken():
    predictor = FakePredictor()
    predictions = list(stream(predictor, grey_frames(30, [])))
    assert [each.frame.name for each in predictions] == [f"{level}.png" for level in range(30)]
    for level, each in enumerate(predictions):
        if level % 10 == 5:
            assert (each.faces, each.error) == ([], "torn")
        else:
            assert each.faces[0].probabilities[0] == pytest.approx(level / 255)
    assert max(predictor.batches) == 4
    assert len(predictor.batches) == 8
    assert sum(predictor.batches) == 27


def test_reads_only_a_little_ahead():
    loaded = []
    predictions = stream(FakePredictor(), grey_frames(10_000, loaded))
    next(predictions)
    assert len(loaded) < 4 + 3 * (os.cpu_count() + 1)
    predictions.close()


def test_a_camera_is_answered_frame_by_frame():
    loaded = []
    predictions = stream(FakePredictor(), grey_frames(10, loaded), at_once=True)
    for count in (1, 2, 3):
        next(predictions)
        assert len(loaded) == count


def test_pictures_kept_for_their_copies_cut_batches_short(monkeypatch):
    monkeypatch.setattr("fer_jax.inference.stream._PENDING_BYTES", 60 * 60 * 3)
    predictor = FakePredictor()
    predictions = list(stream(predictor, grey_frames(5, []), keep_pictures=True))
    assert predictor.batches == [2, 2, 1]
    assert all(each.picture.size == (60, 60) for each in predictions)


def test_a_batch_does_not_hold_the_pixels_of_a_video():
    held = []

    def video():
        for level in range(8):
            pixels = np.full((60, 60), level, np.uint8)
            held.append(weakref.ref(pixels))
            yield Frame("video", Path(str(level)), functools.partial(Image.fromarray, pixels))

    predictions = list(stream(FakePredictor(), video()))
    assert [each.faces[0].probabilities[0] * 255 for each in predictions] == list(range(8))
    assert not any(reference() is not None for reference in held[:-1])  # `pixels` is the last.


def test_a_folder_is_listed_as_it_is_read(album):
    frames = find_frames([str(album)])
    first = next(frames)
    assert first.name.endswith("a.png")
    assert dataclasses.astuple(first)[1] == Path("a")
    assert sum(1 for _ in frames) == 10
