"""`python -m fer_jax.predict` on the kinds of files that people have, and the stream behind it."""

import csv
import dataclasses
import functools
import io
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
from fer_jax.data.contract import ImageFormat
from fer_jax.data.pixels import picture_suffixes
from fer_jax.inference.pictures import UnreadableError
from fer_jax.inference.predictor import Prediction
from fer_jax.inference.sources import Frame, _live, find_frames
from fer_jax.inference.stream import predict_frames
from fer_jax.predict import is_scene

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


def test_a_face_below_the_least_confidence_is_unsure(album, trained_workdir):
    names = (f"--workdir={trained_workdir}", album / "a.png", album / "clip.avi", "--format=jsonl")
    sure, unsure = (
        [json.loads(line) for line in predict(*names, *more).stdout.splitlines()]
        for more in ((), ("--min_confidence=0.999",))
    )
    assert [line.pop("label") for line in unsure] == ["unsure"] * 4
    assert {line.pop("label") for line in sure} <= set(CLASSES)
    assert sure == unsure  # The probabilities stay.


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
        *("a.jpg", "group.jpg"),
        *("more/deep/a.jpg", "more/wall.jpg", "turned.jpg"),
    ]
    red, _, blue = np.asarray(Image.open(tmp_path / "out/a.jpg").convert("RGB")).T.astype(int)
    assert np.abs(red - blue).max() > 40  # The heat map is coloured, the picture grey.


def test_finds_faces_or_says_that_there_are_none(album, trained_workdir, tmp_path):
    names = (album / "a.png", album / "more/wall.png", album / "turned.png")
    flags = (f"--workdir={trained_workdir}", "--detector=haar", f"--output={tmp_path / 'out'}")
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
        (["{album}", "--checkpoint=latest"], "give its --workdir"),
        (["--workdir=w", "{album}", "--min_confidence=1"], "must be in [0, 1)"),
        (
            ["--workdir=w", "{album}", "--detector=hare"],
            "no detector 'hare'; choose one of mtcnn, haar, yunet",
        ),
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
        (["--workdir=w", "camera:99999999999"], "cannot open camera:99999999999"),
        (["--workdir=w", "\x1b[31m.png"], r"pattern '\x1b[31m.png'"),
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


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """An AVI of 60 frames, each a JPEG."""
    path = tmp_path_factory.mktemp("clip") / "clip.avi"
    write_video(path, "MJPG")
    return path


def write_video(path: Path, code: str, count: int = 60) -> None:
    video = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*code), 10, (64, 48))
    if not video.isOpened():
        pytest.skip(f"this OpenCV cannot write {code} to {path.suffix}")
    rng = np.random.default_rng(0)
    for _ in range(count):
        coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        video.write(cv2.resize(coarse, (64, 48)))
    video.release()


def read(*arguments) -> list[str]:
    """Returns the frame number and size of each picture, or why it cannot be read."""
    seen = []
    for frame in find_frames([str(argument) for argument in arguments]):
        try:
            size = frame.load().size
        except UnreadableError as error:
            seen.append(error.reason)
        else:
            seen.append("{} {}x{}".format(frame.number, *size))
    return seen


def test_of_half_a_video_the_frames_are_read_and_the_rest_is_told(clip, tmp_path, trained_workdir):
    half = tmp_path / "half.avi"
    half.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    result = predict(f"--workdir={trained_workdir}", half, "--format=csv")
    assert result.returncode == 1
    rows = list(csv.DictReader(result.stdout.splitlines()))
    frames, last = rows[:-1], rows[-1]
    assert [row["frame"] for row in frames] == [str(number) for number in range(len(frames))]
    assert {row["status"] for row in frames} == {"ok"}
    assert 25 <= len(frames) <= 32
    assert last["status"] == f"error: {len(frames)} of about 60 frames could be read"
    assert last["frame"] == ""
    assert result.stderr == f"error: 1 of {len(rows)} pictures could not be read\n"


@pytest.mark.parametrize("places", [[(0.5, 1)], [(0.3, 0.32)], [(0.2, 0.4), (0.6, 0.8)]])
def test_zeroed_frames_of_a_video_are_told(clip, tmp_path, places):
    content = bytearray(clip.read_bytes())
    for start, end in places:
        part = slice(int(start * len(content)), int(end * len(content)))
        content[part] = bytes(part.stop - part.start)
    (tmp_path / "zeros.avi").write_bytes(content)
    *frames, last = read(tmp_path / "zeros.avi")
    assert last == f"{len(frames)} of about 60 frames could be read"
    share = sum(end - start for start, end in places)
    assert 60 * (1 - share) - 5 <= len(frames) < 60
    assert all(frame.endswith("64x48") for frame in frames)


@pytest.mark.parametrize(
    ("suffix", "code", "cut_is_seen"),
    [
        *(("avi", "MJPG", True), ("avi", "XVID", True), ("mkv", "VP80", True)),
        *(("mp4", "mp4v", True), ("mov", "MJPG", True), ("3gp", "mp4v", True)),
        *(("webm", "VP80", True), ("flv", "FLV1", True), ("ogv", "VP80", False)),
        *(("ts", "mpg2", False), ("wmv", "WMV2", False), ("mpg", "mpg2", False)),
    ],
)
def test_videos_of_every_kind(suffix, code, cut_is_seen, tmp_path):
    """A sound video has no error; a cut one has, where the file announces its length."""
    (tmp_path / "videos").mkdir()
    path = tmp_path / f"videos/a.{suffix.upper()}"
    write_video(path.with_suffix(f".{suffix}"), code)
    path.with_suffix(f".{suffix}").rename(path)
    whole = [f"{number} 64x48" for number in range(60)]
    assert read(tmp_path / "videos") == whole
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    *frames, last = read(path)
    assert frames == whole[: len(frames)]
    ends = (f"{len(frames)} of about 60 frames could be read", "not a video, or damaged")
    assert (last in ends) == cut_is_seen


def test_frames_behind_damaged_ones_keep_their_numbers(tmp_path):
    path = tmp_path / "a.mp4"
    write_video(path, "mp4v")
    content = bytearray(path.read_bytes())
    part = slice(len(content) * 4 // 10, len(content) * 7 // 10)
    content[part] = bytes(part.stop - part.start)
    path.write_bytes(content)
    *frames, last = read(path)
    assert 38 <= len(frames) <= 48
    assert frames[-1] == "59 64x48"
    assert last == f"{len(frames)} of about 60 frames could be read"


def test_a_camera_that_stops_is_told(clip):
    """A video stands in for the camera, as OpenCV has one interface for both."""
    frames = list(_live(cv2.VideoCapture(str(clip)), "camera:0", Path("camera_0")))
    assert [frame.number for frame in frames[:-1]] == list(range(60))
    with pytest.raises(UnreadableError, match="camera:0: the camera gives no more pictures"):
        frames[-1].load()


def test_a_folder_with_everything_that_lies_in_folders(tmp_path, clip, capfd):
    root = tmp_path / "pictures"
    (root / "inner.png").mkdir(parents=True)
    (root / "inner.png/back").symlink_to(root)
    (tmp_path / "elsewhere").mkdir()
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    face(1).save(tmp_path / "elsewhere/linked.png")
    readable = ["jfif", "jpe", "pgm", "mpo", "ppm", "ico", "tga"]
    readable += [suffix for suffix in ("avif", "jp2") if f".{suffix}" in picture_suffixes()]
    for suffix in readable:
        face(1).save(root / f"{suffix}.{suffix.upper()}")
    (root / "heic.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1")
    (root / "hidden").mkdir()
    face(1).save(root / ".hidden.png")
    (root / "notes.txt").write_text("no picture")
    os.mkfifo(root / "fifo.jpg")
    os.mkfifo(root / "video.mp4")
    (root / "device.png").symlink_to("/dev/zero")
    (root / "broken.png").symlink_to("nowhere")
    (root / os.fsdecode(b"clip\xff.avi")).write_bytes(clip.read_bytes())
    frames = list(find_frames([str(root)]))
    names = [frame.name.removeprefix(f"{root}/") for frame in frames if not frame.number]
    expected = [*(f"{suffix}.{suffix.upper()}" for suffix in readable), "broken.png", "heic.heic"]
    assert names == [*sorted([*expected, "clip\udcff.avi"]), "linked/linked.png"]
    for frame in frames:
        if frame.name.endswith("heic"):
            with pytest.raises(UnreadableError, match="HEIC is not supported"):
                frame.load()
        elif frame.name.endswith("broken.png"):
            with pytest.raises(UnreadableError, match="No such file"):
                frame.load()
        else:
            assert frame.load().size in ((48, 48), (64, 48))
    assert sorted(capfd.readouterr().err.splitlines()) == [
        f"passed over {root}/device.png: a device, not a file",
        f"passed over {root}/fifo.jpg: a FIFO, not a file",
        f"passed over {root}/video.mp4: a FIFO, not a file",
    ]


def test_a_folder_that_cannot_be_listed_is_told(tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    face(1).save(tmp_path / "first/a.png")
    frames = find_frames([str(tmp_path)])
    assert next(frames).name.endswith("a.png")
    (tmp_path / "second").rmdir()  # It is known already, but not yet listed.
    (frame,) = frames
    assert frame.name == str(tmp_path / "second")
    with pytest.raises(UnreadableError, match="second: No such file or directory"):
        frame.load()


def test_copies_in_a_linked_folder_are_not_read_again(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "out").mkdir()
    face(1).save(tmp_path / "photos/a.png")
    face(1).save(tmp_path / "out/copy.png")
    (tmp_path / "photos/labelled").symlink_to(tmp_path / "out")
    frames = list(find_frames([str(tmp_path / "photos")], tmp_path / "out"))
    assert [Path(frame.name).name for frame in frames] == ["a.png"]


def test_what_is_named_and_no_file_is_refused_unopened(tmp_path, clip):
    os.mkfifo(tmp_path / "a.png")
    os.mkfifo(tmp_path / "b.mp4")
    (tmp_path / "c.avi").write_bytes(b"")
    arguments = (tmp_path / "a.png", tmp_path / "b.mp4", "/dev/zero", tmp_path / "c.avi")
    assert read(*arguments) == [
        *("a FIFO, not a file", "a FIFO, not a file", "a device, not a file"),
        "not a video, or damaged",
    ]
    assert read(tmp_path / "?.*") == [*("a FIFO, not a file",) * 2, "not a video, or damaged"]


def test_control_characters_do_not_reach_the_terminal(tmp_path, trained_workdir):
    name = "a\x1b[31m\n\x07\u202e\x9bé.png"
    raw = os.fsdecode(os.fsencode(str(tmp_path)) + b"/\x9b31m.png")
    face(1).save(tmp_path / name)
    face(1).save(raw)
    table, rows = (
        predict(f"--workdir={trained_workdir}", tmp_path, f"--format={kind}").stdout
        for kind in ("table", "csv")
    )
    assert f"{tmp_path}/a\\x1b[31m\\n\\x07\\u202e\\x9bé.png\n" in table
    assert f"{tmp_path}/\\x9b31m.png\n" in table
    assert table.count("\n") == 3
    seen = {row["image"] for row in csv.DictReader(io.StringIO(rows, newline=""))}
    assert seen == {f"{tmp_path}/{name}", raw}


def test_a_scene_without_face_detection_gets_a_hint(tmp_path, trained_workdir):
    sizes = [(48, 48), (800, 600), (500, 100), (2000, 1500)]
    names = [tmp_path / f"{width}.png" for width, _ in sizes]
    for name, size in zip(names, sizes, strict=True):
        Image.new("L", size, 99).save(name)
    result = predict(f"--workdir={trained_workdir}", *names)
    assert result.returncode == 0
    assert result.stderr == (
        f"hint: {tmp_path}/500.png has 500x100 pixels and counts as one face; "
        "--detect_faces finds the faces in such pictures\n"
    )
    assert not predict(f"--workdir={trained_workdir}", *names, "--detect_faces").stderr


@pytest.mark.parametrize(
    ("size", "scene"),
    [((1000, 1000), False), ((1025, 1025), True), ((48, 97), True), ((90, 48), False)],
)
def test_which_pictures_are_more_than_a_face(size, scene):
    assert is_scene(*size) == scene


class FakePredictor:
    """Predicts the grey level of each face, and records the sizes of its batches."""

    batch_size = 4
    images = ImageFormat()

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
    defaults = {"detector": None, "explain": False, "keep_pictures": False, "at_once": False}
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
