"""Faces that are cut out of photographs."""

import numpy as np
from PIL import Image
from small_sets import faces, save

SIDE = 128


def photograph(*corners, turn=0):
    """Returns a picture with a drawn face of 128 pixels at each corner, turned clockwise."""
    picture = Image.new("RGB", (480, 260), (120, 130, 140))
    (face,) = faces(["happy"], SIDE, seed=11)
    for corner in corners:
        turned = face.rotate(-turn, Image.Resampling.BICUBIC, fillcolor=(120, 130, 140))
        picture.paste(turned, corner)
    return picture


def test_faces_are_cut_out_and_what_has_not_one_is_quarantined(tmp_path, convert_own):
    root = tmp_path / "photos"
    for number in range(2):
        save(photograph((60 + 20 * number, 50)), root / "happy" / f"{number}.png")
        save(photograph((200, 80), turn=25), root / "turned" / f"{number}.png")
    save(photograph(), root / "happy/empty.png")
    save(photograph((20, 50), (280, 60)), root / "turned/two.png")
    flags = ("--detect_faces", "--channels=3", "--image_size=64", "--name=photos")
    run = convert_own(root, *flags, "--allow_bad")
    assert run.status == 0, run.err
    assert run.quarantine == {
        "happy/empty.png": "train: no face",
        "turned/two.png": "train: 2 faces",
    }
    for name, example in run.examples.items():
        file, place = example["original"].rsplit(" ", 1)
        left, top, width, height, tilt = map(int, place.split(","))
        assert file == name
        assert width == height
        assert 0.6 * SIDE < width < 1.1 * SIDE
        if name.startswith("turned"):
            assert abs(tilt - 25) < 12
        else:
            number = int(name[-5])
            middle = np.array([left + width / 2, top + height / 2])
            np.testing.assert_allclose(middle, [124 + 20 * number, 114], atol=20)
            with Image.open(root / name) as picture:
                face = picture.crop((left, top, left + width, top + height))
            expected = face.resize((64, 64), Image.Resampling.LANCZOS)
            np.testing.assert_array_equal(example["image"], expected)
    # A face that was turned looks as it does upright.
    upright, turned = (run.examples[f"{name}/0.png"]["image"] for name in ("happy", "turned"))
    assert np.corrcoef(upright.ravel(), turned.ravel())[0, 1] > 0.7
