"""Faces are followed through a video; its copy, table and timeline agree with its frames."""

import csv
import io
import os
from pathlib import Path

import commands
import cv2
import numpy as np
import pytest
from PIL import Image

from data_prep.sample import render
from fer_jax.inference import video
from fer_jax.inference.annotate import Mark, annotate
from fer_jax.inference.faces import Box, Face
from fer_jax.inference.timeline import Timeline
from fer_jax.inference.tracks import Tracks

WHOLE = Box(0, 0, 640, 480)


def face(left: int, top: int = 100, values=(0.5, 0.5)) -> Face:
    return Face(Box(left, top, 100, 100), "", np.array(values))


def numbers(tracks: Tracks, seconds: float, *faces: Face) -> list[int]:
    """Returns the numbers of the tracks with a face in this frame, from left to right."""
    followed = [track for track in tracks.follow(seconds, faces, WHOLE) if track.seconds == seconds]
    return [track.number for track in sorted(followed, key=lambda track: track.box.left)]


def test_moving_faces_keep_their_tracks():
    tracks = Tracks(1)
    for step in range(20):  # One goes right, one left, below it.
        order = [1, 2] if 10 * step <= 380 - 10 * step else [2, 1]
        seen = numbers(tracks, step / 10, face(10 * step), face(380 - 10 * step, 300))
        assert seen == order
    # The one that overlaps more continues the track, whatever the order of the boxes.
    assert numbers(tracks, 2.0, face(260, 110), face(195)) == [1, 3]


def test_a_short_gap_is_bridged_and_a_long_one_is_not():
    tracks = Tracks(1)
    assert numbers(tracks, 0, face(50)) == [1]
    for seconds in (0.1, 0.2, 0.3):
        assert numbers(tracks, seconds) == []
    assert numbers(tracks, 0.4, face(60)) == [1]
    for seconds in (0.5, 0.6, 0.7, 0.8):
        assert numbers(tracks, seconds) == []
    assert numbers(tracks, 1.0, face(60)) == [2]
    # Frames that are far apart: a face may be missed in one.
    assert numbers(tracks, 6, face(60)) == [2]
    assert numbers(tracks, 11) == []
    assert numbers(tracks, 16, face(60)) == [2]


def test_probabilities_are_means_over_the_stated_seconds():
    rng = np.random.default_rng(0)
    values = rng.dirichlet(np.ones(3), 50)
    for window, count in ((0, 1), (0.1, 1), (0.5, 5), (2, 20)):
        tracks = Tracks(window)
        for step, row in enumerate(values):
            (track,) = tracks.follow(step / 10, [Face(None, "", row)], WHOLE)
            expected = values[max(0, step + 1 - count) : step + 1].mean(axis=0)
            np.testing.assert_allclose(track.probabilities, expected)


def test_a_timeline_of_any_length_has_the_same_size():
    timeline = Timeline(["a", "b"], 0.1)
    for step in range(5000):
        share = (step % 1000) / 1000
        timeline.add(1, step / 10, np.array([share, 1 - share]))
        if 1000 <= step < 1010:
            timeline.add(2, step / 10, np.array([1, 0]))
    for number in range(3, 500):  # Many faces that are seen once.
        timeline.add(number, 500.0, np.array([0.5, 0.5]))
    assert len(timeline._tracks) <= 64
    sums, counts = timeline._tracks[1]
    assert counts.sum() == 5000
    assert len(counts) == 1024
    means = sums[:625, 0] / counts[:625]
    steps = np.arange(625) * timeline._span / 0.1
    rising = (
        steps % 1000 > 8
    )  # Elsewhere a span has the end of one slope and the start of the next.
    np.testing.assert_allclose(means[rising], steps[rising] % 1000 / 1000, atol=0.01, rtol=0)
    with Image.open(io.BytesIO(timeline.draw("a clip"))) as picture:
        assert picture.format == "PNG"
        assert picture.height > picture.width  # eight panels
    assert Timeline(["a", "b"], 0.1).draw("empty").startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """Three seconds with a face that moves, is hidden for three frames, and is alone."""
    path = tmp_path_factory.mktemp("clip") / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (320, 240))
    drawn = Image.fromarray(render([4], [np.random.default_rng(25)])[0]).resize((120, 120))
    for step in range(30):
        frame = Image.new("RGB", (320, 240), (128, 128, 128))
        if step not in (10, 11, 12):
            frame.paste(drawn, (20 + 4 * step, 50))
        writer.write(np.asarray(frame))
    writer.release()
    return path


def frames_of(path: Path) -> tuple[int, float, np.ndarray]:
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1])
    return len(frames), capture.get(cv2.CAP_PROP_FPS), np.stack(frames)


@pytest.mark.parametrize("every", [1, 3])
def test_a_video_gives_a_copy_a_table_and_a_timeline(clip, trained_workdir, tmp_path, every):
    result = commands.run(
        "fer_jax.predict",
        *(f"--workdir={trained_workdir}", clip, "--detector=haar", f"--output={tmp_path}"),
        *(f"--every={every}", "--format=csv"),
    )
    assert result.returncode == 0, result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"clip.mp4", "clip.csv", "clip.png"}
    lines = list(csv.DictReader(io.StringIO(result.stdout)))
    found = [line for line in lines if line["status"] == "ok"]
    assert {line["frame"] for line in lines} == {str(n) for n in range(0, 30, every)}
    rows = list(csv.DictReader((tmp_path / "clip.csv").read_text().splitlines()))
    assert len(rows) == len(found) > 20 / every
    for row, line in zip(rows, found, strict=True):
        for name in ("frame", "left", "top", "width", "height"):
            assert row[name] == line[name]
        assert float(row["seconds"]) == pytest.approx(int(row["frame"]) / 10)
        assert row["track"] == "1"
    # Each row is the mean of the frames of the last second.
    classes = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
    for name in classes:
        recent = [
            float(line[name]) for line in found if int(line["frame"]) > int(rows[-1]["frame"]) - 10
        ]
        assert float(rows[-1][name]) == pytest.approx(np.mean(recent), abs=1e-5)
    assert rows[-1]["label"] == max(classes, key=lambda name: float(rows[-1][name]))

    count, rate, frames = frames_of(tmp_path / "clip.mp4")
    assert (count, rate) == (len(range(0, 30, every)), pytest.approx(10 / every))
    assert frames.shape[1:] == (240, 320, 3)
    coloured = (np.ptp(frames.astype(int), axis=-1) > 60).sum(axis=(1, 2))  # The rest is grey.
    assert (coloured > 100).all()  # The box stays while the face is hidden.


def test_a_damaged_video_keeps_what_was_read(clip, trained_workdir, tmp_path):
    half = tmp_path / "half.avi"
    half.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    out = tmp_path / "out"
    result = commands.run(
        "fer_jax.predict", f"--workdir={trained_workdir}", half, clip, f"--output={out}"
    )
    assert result.returncode == 1
    assert "frames could be read" in result.stdout
    counts = [frames_of(out / f"{name}.mp4")[0] for name in ("half", "clip")]
    assert 5 < counts[0] < 25
    assert counts[1] == 30
    rows = list(csv.DictReader((out / "clip.csv").read_text().splitlines()))
    assert [row["frame"] for row in rows] == [str(n) for n in range(30)]  # The whole is the face.
    assert {row["width"] for row in rows} == {"320"}


def test_without_pyav_a_copy_is_written_and_the_lack_is_told(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(video.importlib.util, "find_spec", lambda name: None)
    encoder = video.open_encoder(tmp_path / "a.mp4", 10, (64, 48))
    for level in (0, 100, 200):
        encoder.write(np.full((48, 64, 3), (level, 50, 50), np.uint8))
    encoder.close()
    count, rate, frames = frames_of(tmp_path / "a.mp4")
    assert (count, rate) == (3, 10)
    np.testing.assert_allclose(frames[:, 24, 32, 2], (0, 100, 200), atol=8)  # red, as BGR
    assert "pip install 'fer_jax[video]'" in capfd.readouterr().err


def test_a_camera_that_stops_in_an_error_leaves_no_parts(tmp_path, clip):
    stem = tmp_path / "out/a"
    with pytest.raises(ZeroDivisionError), video.VideoOutput(stem, video.Clip(10), ["a"]):
        raise ZeroDivisionError
    assert list(stem.parent.iterdir()) == []


def test_labels_in_a_video_leave_its_size_alone():
    picture = Image.new("RGB", (640, 480), (90, 90, 90))
    for box in (Box(0, 0, 60, 60), Box(580, 420, 60, 60), Box(0, 0, 640, 480)):
        copy = annotate(picture, [Mark(box, "12 surprise 100 %")], grow=False)
        assert copy.size == picture.size
        black = (np.asarray(copy) == 0).all(axis=-1)
        assert black.sum() > 500  # The label is inside.


@pytest.mark.skipif("DISPLAY" in os.environ, reason="a window would open")
def test_without_a_display_the_lines_go_on(clip, trained_workdir):
    result = commands.run("fer_jax.predict", f"--workdir={trained_workdir}", clip, "--window")
    assert result.returncode == 0
    assert result.stderr.startswith("warning: no window can be opened: ")
    assert result.stderr.count("\n") == 1
    assert len(result.stdout.splitlines()) == 31
