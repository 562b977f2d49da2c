"""Faces of several sizes on one canvas: each is found, and predicted as its crop would be."""

import numpy as np
import pytest
from PIL import Image

from data_prep.sample import render
from fer_jax import Predictor
from fer_jax.data.pixels import to_grey_or_rgb
from fer_jax.inference.annotate import Mark, annotate
from fer_jax.inference.detectors import DETECTORS, choose_detector
from fer_jax.inference.faces import Box, find_faces
from fer_jax.inference.pictures import open_picture
from fer_jax.inference.sources import Frame
from fer_jax.inference.stream import predict_frames

PLACES = [
    *(Box(20, 30, 60, 60), Box(120, 20, 96, 96), Box(260, 40, 150, 150)),
    *(Box(30, 160, 200, 200), Box(440, 20, 260, 260), Box(270, 240, 120, 120)),
]
FRONTAL = [  # The faces are from PublicTest.
    *("angry/PublicTest_18770630", "disgust/PublicTest_20464211", "fear/PublicTest_51379102"),
    *("happy/PublicTest_13119862", "neutral/PublicTest_14220243", "sad/PublicTest_22869580"),
]


def drawn_faces(_):
    seeds = (1, 9, 17, 25, 20, 12)
    return render([seed % 7 for seed in seeds], [np.random.default_rng(seed) for seed in seeds])


def real_faces(request):
    source = request.getfixturevalue("fer2013_source")
    return [np.asarray(Image.open(source / f"test/{name}.jpg")) for name in FRONTAL]


def overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    width = min(one.left + one.width, other.left + other.width) - max(one.left, other.left)
    height = min(one.top + one.height, other.top + other.height) - max(one.top, other.top)
    common = max(width, 0) * max(height, 0)
    return common / (one.width * one.height + other.width * other.height - common)


def paste(faces) -> Image.Image:
    canvas = Image.new("L", (720, 400), 128)
    for face, (left, top, width, height) in zip(faces, PLACES, strict=True):
        enlarged = Image.fromarray(face).resize((width, height), Image.Resampling.BICUBIC)
        canvas.paste(enlarged, (left, top))
    return canvas


BOTH = [(drawn_faces, "haar"), (real_faces, "haar"), (real_faces, "mtcnn")]


@pytest.mark.parametrize(("make_faces", "detector"), BOTH)
def test_every_face_is_found_and_predicted(
    make_faces, detector, request, trained_workdir, tmp_path
):
    canvas = paste(make_faces(request))
    predictor = Predictor.from_workdir(trained_workdir)
    frame = Frame("canvas", tmp_path, lambda: canvas)
    (prediction,) = predict_frames(
        predictor,
        [frame],
        detector=choose_detector(detector),
        explain=False,
        keep_pictures=True,
        at_once=False,
    )
    assert len(prediction.faces) == len(PLACES)
    pixels = np.asarray(canvas)
    for place in PLACES:
        face = max(prediction.faces, key=lambda face: overlap(face.box, place))
        assert overlap(face.box, place) > 0.5
        left, top, width, height = face.box
        assert width == height
        crop = predictor(pixels[top : top + height, left : left + width])
        if detector == "haar":  # It does not turn faces.
            assert face.label == crop.labels[0]
            np.testing.assert_allclose(face.probabilities, crop.probabilities[0], rtol=1e-4)
    assert prediction.faces == sorted(prediction.faces, key=lambda face: face.box.left)
    assert len({face.label for face in prediction.faces}) > 1

    canvas.save(tmp_path / "canvas.png")
    for picture in (canvas, pixels, tmp_path / "canvas.png"):
        faces = predictor.faces(picture, detector=detector)
        assert [face.box for face in faces] == [face.box for face in prediction.faces]
        assert [face.label for face in faces] == [face.label for face in prediction.faces]
    assert predictor.faces(pixels, detector=detector, min_confidence=1)[0].label == "unsure"
    assert predictor.faces(pixels[:30, :30]) == []


@pytest.mark.parametrize("detector", DETECTORS)
def test_where_there_is_no_face_none_is_found(detector):
    noise = np.random.default_rng(0).integers(0, 256, (300, 400), dtype=np.uint8)
    ramp = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
    for pixels in (noise, ramp, noise[:1, :1], noise[:1], np.zeros((2000, 3), np.uint8)):
        assert find_faces(Image.fromarray(pixels), detector) == []


def test_a_large_photograph_is_searched_at_the_edges_too():
    """Boxes lie inside the photograph, in its pixels, not in those of the searched small copy."""
    face = Image.fromarray(drawn_faces(None)[0]).resize((900, 900), Image.Resampling.BICUBIC)
    photograph = Image.new("RGB", (4000, 2000), (128, 128, 128))
    photograph.paste(face, (3100, 1100))
    (box,) = find_faces(photograph, "haar")
    assert overlap(box, Box(3100, 1100, 900, 900)) > 0.5
    assert box.left + box.width <= 4000
    assert box.top + box.height <= 2000


@pytest.mark.parametrize(("contrast", "black"), [(0.2, 0), (0.06, 0), (0.2, 150)])
@pytest.mark.parametrize(("make_faces", "detector"), BOTH)
def test_faces_are_found_in_dark_and_pale_pictures_too(
    make_faces, detector, request, contrast, black
):
    canvas = paste(make_faces(request))
    found = find_faces(canvas.point(lambda level: black + contrast * level), detector)
    for place in PLACES:
        assert max(overlap(box, place) for box in found) > 0.5


def test_faces_are_found_in_deep_pictures():
    canvas = paste(drawn_faces(None))
    expected = find_faces(canvas, "haar")
    for levels in (np.uint16(257), np.int32(257), np.float32(1 / 255)):
        assert find_faces(Image.fromarray(np.asarray(canvas) * levels), "haar") == expected


@pytest.mark.parametrize("orientation", range(1, 9))
def test_faces_in_a_turned_picture_are_in_its_own_pixels(orientation, tmp_path):
    upright = paste(drawn_faces(None))
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow's transpositions
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = upright.transpose(back[orientation]) if orientation > 1 else upright
    turned.save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as picture:
        np.testing.assert_array_equal(open_picture(tmp_path / "a.png"), upright)
        boxes = find_faces(picture, "haar")
        expected = find_faces(upright, "haar")
        assert len(boxes) == len(expected)
        for box, square in zip(boxes, expected, strict=True):
            crop = to_grey_or_rgb(box.crop(picture))  # It keeps the orientation.
            np.testing.assert_array_equal(crop, square.crop(upright))


def test_labels_cover_no_face():
    green = (0, 255, 0)
    picture = Image.new("RGB", (640, 480), (90, 90, 90))
    boxes = [
        *(Box(0, 0, 60, 60), Box(580, 0, 60, 60), Box(0, 420, 60, 60), Box(580, 420, 60, 60)),
        *(Box(200, 100, 24, 24), Box(240, 100, 24, 24), Box(200, 124, 24, 24)),
        *(Box(300, 200, 150, 150), Box(300, 360, 90, 90)),
    ]
    for left, top, width, height in boxes:
        picture.paste(green, (left, top, left + width, top + height))
    copy = np.asarray(annotate(picture, [Mark(box, "surprise 100 %") for box in boxes]))
    # Labels beyond the edges have added a margin, so find the picture inside by its grey.
    rows, columns = np.nonzero((copy == green).all(axis=-1))
    seen = (copy == green).all(axis=-1).sum()
    within = sum((width - 8) * (height - 8) for _, _, width, height in boxes)
    assert seen >= within
    assert copy.shape > (480, 640, 3)
    assert rows.max() - rows.min() > 450
    assert columns.max() - columns.min() > 600


def test_a_small_picture_is_enlarged_under_its_label():
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (48, 48), dtype=np.uint8))
    heat = np.zeros((6, 6), np.float32)
    heat[1, 1] = 1
    plain = np.asarray(annotate(picture, [Mark(None, "happy 93 %")]))
    warm = np.asarray(annotate(picture, [Mark(None, "happy 93 %", heat)]))
    height, width, _ = plain.shape
    assert (width, height - 288) > (287, 14)
    enlarged = picture.convert("RGB").resize((288, 288), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(plain[-288:], enlarged)
    changed = (plain != warm).any(axis=-1)[-288:]
    assert changed[72, 72]
    assert not changed[170:].any()
    assert not changed[:, 170:].any()
