"""Every bad file is named with its reason; all others are converted pixel for pixel."""

import os
import re
import zipfile

import numpy as np
import pytest
from PIL import Image
from small_releases import (
    assert_one_line_error,
    csv_row,
    encode,
    noise,
    raw_png,
    write_folders,
)

GREY = noise(1000)
PNG = encode(GREY)
JPEG = encode(GREY, "jpeg", quality=95)
FRAMES = [Image.fromarray(noise(seed)) for seed in range(3)]


def flip(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :]


# The content, and the split and reason to be reported, by path.
DAMAGED = {
    "train/happy/empty.png": (b"", "train: empty file"),
    "train/happy/text.png": (b"no image at all", "train: not a JPEG or PNG image"),
    "train/happy/zeros.jpg": (bytes(2000), "train: not a JPEG or PNG image"),
    "train/happy/gif.png": (encode(GREY, "gif"), "train: not a JPEG or PNG image"),
    "train/happy/webp.jpg": (encode(GREY, "webp"), "train: not a JPEG or PNG image"),
    "train/happy/heic.jpg": (b"\0\0\0\x18ftypheic", "train: not a JPEG or PNG image, but HEIC"),
    "train/happy/start.jpg": (JPEG[:2], "train: not a JPEG or PNG image"),
    "train/happy/signature.png": (PNG[:8], "train: "),
    "train/happy/half.jpg": (JPEG[: len(JPEG) // 2], "train: damaged or truncated: .*truncated"),
    "train/happy/nearly.jpg": (JPEG[:-2], "train: damaged or truncated"),
    "train/happy/half.png": (PNG[: len(PNG) // 2], "train: damaged or truncated: "),
    "train/happy/nearly.png": (PNG[:-12], "train: damaged or truncated: "),
    "train/happy/flipped.png": (flip(PNG, len(PNG) // 2), "train: damaged or truncated: "),
    "train/happy/header.png": (flip(PNG, 20), "train: "),
    "train/happy/narrow.png": (encode(noise(1, (48, 47))), r"train: 47x48 pixels, not 48x48 "),
    "train/happy/large.jpg": (encode(noise(1, (96, 96)), "jpeg"), "train: 96x96 pixels, not 48x48"),
    "train/happy/dot.png": (encode(noise(1, (1, 1))), "train: 1x1 pixels, not 48x48"),
    "train/happy/animated.png": (
        encode(FRAMES[0], save_all=True, append_images=FRAMES[1:]),
        "train: animated: 3 frames",
    ),
    "train/happy/bomb.png": (raw_png(60_000, 60_000, 8, 0, b""), "train: .*exceeds limit"),
    "train/happy/bomb2.png": (raw_png(10_000, 10_000, 8, 0, b""), "train: 10000x10000 pixels"),
    "train/happy/old.bmp": (encode(GREY, "bmp"), "train: not one of .jpg .jpeg .png"),
    "train/happy/1.gif": (encode(GREY, "gif"), "train: not one of .jpg .jpeg .png"),
    "train/happy/notes.txt": (b"hello", "train: not one of .jpg .jpeg .png"),
    "train/happy/good.png.bak": (PNG, "train: not one of .jpg .jpeg .png"),
    "train/happy/nameless": (PNG, "train: not one of .jpg .jpeg .png"),
    "train/happy/.DS_Store": (b"\0\0\0\1Bud1", "train: hidden file"),
    "train/happy/._Training_1.png": (PNG, "train: hidden file"),
    "train/.thumbnails/1.png": (PNG, "train: hidden file"),
    "__MACOSX/train/happy/1.png": (PNG, ": hidden file"),
    "train/happy/more/1.png": (PNG, "train: not directly inside"),
    "train/stray.png": (PNG, "train: not directly inside"),
    "train/happy/PrivateTest_9.png": (PNG, "train: an image of private_test in train/"),
    "test/happy/Training_9.png": (PNG, ": an image of train in test/"),
    "test/happy/9.png": (PNG, ": neither PublicTest_ nor PrivateTest_"),
    "test/happy/PublicTest_9.jpg": (JPEG[:99], "public_test: "),
    "README.md": (b"# FER", ": outside the release"),
    "more/1.png": (PNG, ": outside the release"),
}


def test_every_damaged_file_is_named_with_its_reason(tmp_path, convert):
    root = tmp_path / "fer"
    expected = write_folders(root)
    for path, (content, _) in DAMAGED.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    reasons = {path: reason for path, (_, reason) in DAMAGED.items()}
    os.mkfifo(root / "train/sad/pipe.png")
    (root / "train/sad/broken.png").symlink_to("nowhere")
    with open(root / "train/sad/huge.jpg", "wb") as huge:
        huge.truncate(100 << 20)
    with open(os.fsencode(root / "train/sad") + b"/\xff.png", "wb") as file:
        file.write(PNG)
    reasons |= {
        "train/sad/pipe.png": "train: not a regular file",
        "train/sad/broken.png": "train: not a regular file, or a broken link",
        "train/sad/huge.jpg": "train: larger than 67,108,864 bytes",
        "train/sad/\\xff.png": "train: file name is not UTF-8",
    }
    run = convert(root, "--allow_bad")
    assert run.status == 0, run.err
    assert run.records == expected
    assert run.quarantine.keys() == reasons.keys()
    for path, reason in reasons.items():
        assert re.match(reason, run.quarantine[path]), (path, run.quarantine[path])
    assert f"{len(reasons)} of {len(reasons) + len(expected)} files or rows are quarant" in run.out
    assert run.metadata["quarantined"] == len(reasons)


def luma(colour: np.ndarray) -> np.ndarray:
    """Returns the ITU-R 601 luma of uint8[..., 3], unrounded."""
    return colour @ np.array([0.299, 0.587, 0.114])


def test_other_kinds_of_pixels_become_8_bit_grey(tmp_path, convert):
    root = tmp_path / "fer"
    write_folders(root, 1)
    wide, colour = noise(1, dtype=np.uint16), noise(2, (48, 48, 3))
    alpha, bits = noise(3), noise(4) > 127
    palette = Image.fromarray(noise(5)).convert("P")
    palette.putpalette(noise(6, (256, 3)).tobytes())
    deep = noise(7, (48, 48, 3), np.uint16)
    deep_rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)
    turned = Image.Exif()
    turned[0x112] = 6  # The orientation: turn by 90 degrees clockwise.
    files = {
        "grey16.png": (encode(wide), wide / 257),
        "replicated16.PNG": (encode(GREY.astype(np.uint16) * 257), GREY),
        "colour.png": (encode(colour), luma(colour)),
        "alpha.png": (encode(np.dstack([colour, alpha])), luma(colour)),
        "grey_alpha.png": (encode(np.dstack([GREY, alpha])), GREY),
        "one_bit.png": (encode(bits), bits * 255),
        "palette.png": (encode(palette), luma(noise(6, (256, 3)))[noise(5)]),
        "see_through.png": (
            encode(palette, transparency=bytes(range(256))),
            luma(noise(6, (256, 3)))[noise(5)],
        ),
        "colour16.png": (raw_png(48, 48, 16, 2, deep_rows), luma(deep >> 8)),
        "turned.png": (encode(GREY, exif=turned), np.rot90(GREY, -1)),
    }
    for name, (content, _) in files.items():
        (root / "train/fear" / name).write_bytes(content)
    # A camera's JPEG with a second picture behind it.
    first, second = (Image.fromarray(noise(seed)) for seed in (8, 9))
    mpo = encode(first, "mpo", save_all=True, append_images=[second], quality=95)
    (root / "train/fear/camera.jpg").write_bytes(mpo)
    (root / "train/fear/saved.jfif").write_bytes(encode(first, "jpeg", quality=95))
    # JPEG loses detail, so the reference is Pillow's own decoding.
    (root / "train/fear/colour.JPEG").write_bytes(encode(colour, "jpeg", quality=95))
    (root / "train/fear/print.jpg").write_bytes(
        encode(Image.fromarray(colour).convert("CMYK"), "jpeg", quality=100, subsampling=0)
    )
    run = convert(root)
    assert run.quarantine == {}
    records = run.records
    for name, (_, expected) in files.items():
        split, label, pixels = records[f"train/fear/{name}"]
        assert (split, label) == ("train", 2)
        actual = np.frombuffer(pixels, np.uint8).reshape(48, 48)
        np.testing.assert_allclose(actual, expected, atol=0.51, err_msg=name)
    for name in ("replicated16.PNG", "grey_alpha.png", "one_bit.png", "turned.png"):
        assert records[f"train/fear/{name}"][2] == files[name][1].astype(np.uint8).tobytes()
    with Image.open(root / "train/fear/saved.jfif") as image:
        for name in ("camera.jpg", "saved.jfif"):
            assert records[f"train/fear/{name}"][2] == image.tobytes()
    with Image.open(root / "train/fear/colour.JPEG") as image:
        assert records["train/fear/colour.JPEG"][2] == image.convert("L").tobytes()
    printed = np.frombuffer(records["train/fear/print.jpg"][2], np.uint8).reshape(48, 48)
    assert np.corrcoef(printed.ravel(), luma(colour).ravel())[0, 1] > 0.9


def test_resize_scales_without_aliasing(tmp_path, convert):
    root = tmp_path / "fer"
    expected = write_folders(root, 1)
    chequered = np.indices((480, 480)).sum(0) % 2 * 255
    ramp = np.tile(np.linspace(0, 255, 480), (240, 1))
    (root / "train/fear/chequered.png").write_bytes(encode(chequered.astype(np.uint8)))
    (root / "train/fear/ramp.png").write_bytes(encode(ramp.astype(np.uint8)))
    assert_one_line_error(convert(root), "2 of 23", "more than 1%")
    run = convert(root, "--resize")
    assert run.status == 0, run.err
    records = run.records
    assert {name: records[name] for name in expected} == expected
    scaled = np.frombuffer(records["train/fear/chequered.png"][2], np.uint8)
    assert scaled.min() > 120
    assert scaled.max() < 135
    scaled = np.frombuffer(records["train/fear/ramp.png"][2], np.uint8).reshape(48, 48)
    np.testing.assert_allclose(scaled, np.tile(np.linspace(2, 253, 48), (48, 1)), atol=2)
    assert run.metadata["resized"] is True


@pytest.mark.parametrize(("bad", "allowed"), [(1, True), (2, False)])
def test_more_than_one_percent_fails(tmp_path, convert, bad, allowed):
    lines = ["emotion,pixels,Usage"] + [csv_row(n % 7, noise(n)) for n in range(100 - bad)]
    (tmp_path / "fer2013.csv").write_text("\n".join(lines + ["9,1 2 3,Training"] * bad))
    run = convert(tmp_path / "fer2013.csv")
    assert len(run.quarantine) == bad
    if allowed:
        assert run.status == 0, run.err
        return
    assert_one_line_error(run, "2 of 100", str(run.data_dir / "quarantine.csv"), "--allow_bad")
    assert os.listdir(run.data_dir) == ["quarantine.csv"]
    assert convert(tmp_path / "fer2013.csv", "--allow_bad").status == 0
    assert len(run.records) == 98


def test_nothing_usable_fails_even_if_bad_is_allowed(tmp_path, convert):
    (tmp_path / "fer/train/sad").mkdir(parents=True)
    (tmp_path / "fer/train/sad/1.png").write_bytes(b"")
    run = convert(tmp_path / "fer", "--allow_bad")
    assert_one_line_error(run, "no image is usable", "quarantine.csv")
    assert not run.wrote_records


PIXELS = " ".join(["7"] * 2304)
BAD_ROWS = {
    f"0,{PIXELS} 7,Training": "train: 2305 pixels, not 2304",
    f"0,{PIXELS[:-2]},Training": "train: 2303 pixels, not 2304",
    "0,,Training": "train: 0 pixels, not 2304",
    f"0,256{PIXELS[1:]},Training": "train: pixel 1 is '256', not a whole number from 0 to 255",
    f"0,{PIXELS[:-1]}-1,PublicTest": "public_test: pixel 2304 is '-1', not a whole number",
    f"0,7 x{PIXELS[3:]},PrivateTest": "private_test: pixel 2 is 'x', not a whole number",
    f"0,7 7.5{PIXELS[3:]},Training": "train: pixel 2 is '7.5', not a whole number",
    f"0,7 nan{PIXELS[3:]},Training": "train: pixel 2 is 'nan', not a whole number",
    f"7,{PIXELS},Training": "train: emotion '7' is not a whole number from 0 to 6",
    f"-1,{PIXELS},Training": "train: emotion '-1' is not a whole number from 0 to 6",
    f"3.0,{PIXELS},Training": "train: emotion '3.0' is not a whole number from 0 to 6",
    f",{PIXELS},Training": "train: emotion '' is not a whole number from 0 to 6",
    f"happy,{PIXELS},Training": "train: emotion 'happy' is not a whole number from 0 to 6",
    f"0,{PIXELS},Validation": ": Usage 'Validation' is not Training, PublicTest or PrivateTest",
    f"0,{PIXELS},": ": Usage '' is not Training, PublicTest or PrivateTest",
    f"0,{PIXELS}": ": 2 columns, not 3",
    f"0,{PIXELS},Training,1": ": 4 columns, not 3",
    f'0,"{PIXELS},Training': ": 2 columns, not 3",
    "\0\x01\ufffd": ": 1 columns, not 3",
    f"0,{'7 ' * 100_000},Training": ": not a csv row: field larger than field limit",
}


def test_every_bad_row_is_named_with_its_reason(tmp_path, convert):
    lines = ["emotion,pixels,Usage"]
    expected = {}
    reasons = {}
    for number, (row, reason) in enumerate(BAD_ROWS.items()):
        lines.append(row)
        reasons[f"fer2013.csv:{len(lines)}"] = reason
        lines.append(csv_row(number % 7, noise(number)))
        expected[f"fer2013.csv:{len(lines)}"] = ("train", number % 7, noise(number).tobytes())
    (tmp_path / "fer2013.csv").write_text("\n".join(lines))
    run = convert(tmp_path / "fer2013.csv", "--allow_bad")
    assert run.status == 0, run.err
    assert run.records == expected
    assert run.quarantine.keys() == reasons.keys()
    for name, reason in reasons.items():
        assert run.quarantine[name].startswith(reason), run.quarantine[name]


def test_zip_slip_writes_nothing_outside(tmp_path, convert):
    expected = write_folders(tmp_path / "fer", 1)
    outside = ("../../train/sad/slip.png", "/train/sad/abs.png", "train/../../x.png", "C:/x.png")
    with zipfile.ZipFile(tmp_path / "fer.zip", "w") as archive:
        for name in expected:
            archive.write(tmp_path / "fer" / name, name)
        for name in outside:
            archive.writestr(name, PNG)
    before = set(tmp_path.rglob("*"))
    run = convert(tmp_path / "fer.zip", "--allow_bad", to="new/data")
    assert run.records == expected
    assert run.quarantine.keys() == set(outside)
    new = set(tmp_path.rglob("*")) - before
    assert all(path.is_relative_to(tmp_path / "new") for path in new)


def test_damaged_members_of_a_zip_are_named(tmp_path, convert):
    expected = write_folders(tmp_path / "fer", 1)
    with zipfile.ZipFile(tmp_path / "fer.zip", "w") as archive:
        for name in expected:
            archive.write(tmp_path / "fer" / name, name)
        archive.writestr("train/sad/flipped.png", PNG)
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("train/sad/Training_0.png", PNG)
    content = (tmp_path / "fer.zip").read_bytes()
    place = content.index(PNG) + len(PNG) // 2
    (tmp_path / "fer.zip").write_bytes(flip(content, place))
    run = convert(tmp_path / "fer.zip", "--allow_bad")
    assert run.records == expected
    assert run.quarantine.keys() == {"train/sad/flipped.png", "train/sad/Training_0.png"}
    assert "cannot be read: Bad CRC-32" in run.quarantine["train/sad/flipped.png"]
    assert "holds this name twice" in run.quarantine["train/sad/Training_0.png"]


def test_a_zip_bomb_is_not_unpacked(tmp_path, convert):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train/sad/1.png", PNG)
        archive.writestr("train/sad/2.png", bytes(40 << 20))
    run = convert(tmp_path / "bomb.zip")
    assert_one_line_error(run, "zip bomb")
    assert not run.wrote_records


def test_a_zip_of_too_many_files_is_refused(tmp_path, convert, monkeypatch):
    monkeypatch.setattr("data_prep.files.MAX_ENTRIES", 20)
    write_folders(tmp_path / "fer", 1)
    with zipfile.ZipFile(tmp_path / "fer.zip", "w") as archive:
        for path in (tmp_path / "fer").rglob("*.png"):
            archive.write(path, path.relative_to(tmp_path / "fer"))
    assert_one_line_error(convert(tmp_path / "fer.zip"), "zip bomb", "21 files")
