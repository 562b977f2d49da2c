"""Opening pictures and converting their pixels: every depth, mode and format."""

import io
import os
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from data_prep.images import RejectedError, decode
from fer_jax.data.pixels import (
    UnusableError,
    describe_special,
    picture_suffixes,
    readable_formats,
    to_grey_or_rgb,
)
from fer_jax.inference.pictures import UnreadableError, open_picture

GREY = np.random.default_rng(0).integers(0, 256, (48, 48), dtype=np.uint8)
WIDE = np.random.default_rng(1).integers(0, 65536, (48, 48), dtype=np.uint16)


def test_all_sixteen_bit_levels_are_rounded_alike_in_every_file(tmp_path):
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = np.array([round(level / 257) for level in range(65536)]).reshape(256, 256)
    picture = Image.fromarray(levels)
    for kind in ("png", "tif", "pgm", "jp2"):
        picture.save(tmp_path / f"a.{kind}")
        np.testing.assert_array_equal(open_picture(tmp_path / f"a.{kind}"), expected, err_msg=kind)
    motorola = Image.frombytes("I;16B", (256, 256), levels.astype(">u2").tobytes())
    motorola.save(tmp_path / "b.tif")
    np.testing.assert_array_equal(open_picture(tmp_path / "b.tif"), expected)
    np.testing.assert_array_equal(to_grey_or_rgb(picture), expected)
    np.testing.assert_array_equal(to_grey_or_rgb(picture.convert("I")), expected)
    np.testing.assert_array_equal(decode((tmp_path / "a.png").read_bytes()), expected)


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        (GREY.astype(np.int32), GREY),
        (WIDE.astype(np.int32), np.rint(WIDE / 257)),
        (GREY.astype(np.float32), GREY),
        (GREY / np.float32(255), GREY),
        (np.zeros((48, 48), np.int32), 0 * GREY),
        (np.zeros((48, 48), np.float32), 0 * GREY),
        (np.ones((48, 48), np.float32), 0 * GREY + 255),
    ],
    ids=["int 8", "int 16", "float 255", "float 1", "int black", "float black", "float white"],
)
def test_deep_levels_of_a_clear_range_are_scaled(levels, expected, tmp_path):
    picture = Image.fromarray(levels)
    assert picture.mode in ("I", "F")
    np.testing.assert_array_equal(to_grey_or_rgb(picture), expected)
    picture.save(tmp_path / "a.tif")
    np.testing.assert_array_equal(open_picture(tmp_path / "a.tif"), expected)


@pytest.mark.parametrize(
    "levels",
    [
        GREY.astype(np.int32) - 1,
        GREY.astype(np.int32) * 1000,
        (GREY > 99).astype(np.int32),
        GREY.astype(np.float32) - 1,
        GREY.astype(np.float32) * 257,
        GREY / np.float32(200),  # as if a filter of 0 to 1 had overshot
        np.where(GREY > 200, np.nan, GREY).astype(np.float32),
        np.where(GREY > 200, np.inf, GREY).astype(np.float32),
        GREY.astype(np.uint16),  # 8 bits in a file of 16
    ],
    ids=["negative", "large", "binary", "F negative", "F large", "F 1.3", "nan", "inf", "8 of 16"],
)
def test_deep_levels_of_another_range_are_refused_never_black(levels, tmp_path):
    picture = Image.fromarray(levels)
    with pytest.raises(UnusableError, match=r"levels from .* to .*; 0 to .* can be read"):
        to_grey_or_rgb(picture)
    picture.save(tmp_path / "a.tif")
    with pytest.raises(UnreadableError, match=r"a\.tif: levels from"):
        open_picture(tmp_path / "a.tif")


def test_a_tiff_of_twelve_bits_or_with_black_for_white(tmp_path):
    levels = (np.arange(48 * 48).reshape(48, 48) * 4095 // 2303).astype(np.uint16)
    high, low = levels[:, ::2], levels[:, 1::2]  # two levels in three bytes
    packed = np.stack([high >> 4, (high & 15) << 4 | low >> 8, low & 255], axis=-1)
    strip = packed.astype(np.uint8).tobytes()
    tags = {256: 48, 257: 48, 258: 12, 259: 1, 262: 1, 273: 0, 277: 1, 278: 48, 279: len(strip)}
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(
        tag.to_bytes(2, "little") + b"\4\0\1\0\0\0" + value.to_bytes(4, "little")
        for tag, value in sorted(tags.items())
    )
    head = b"II*\0\x08\0\0\0" + len(tags).to_bytes(2, "little")
    (tmp_path / "twelve.tif").write_bytes(head + entries + b"\0\0\0\0" + strip)
    picture = open_picture(tmp_path / "twelve.tif")
    np.testing.assert_array_equal(picture, np.rint(levels * (255 / 4095)))

    content = io.BytesIO()
    Image.fromarray(WIDE).save(content, "tiff")
    place = content.getvalue().index(b"\x06\x01\x03\0\1\0\0\0\1")  # photometric interpretation
    inverted = bytearray(content.getvalue())
    inverted[place + 8] = 0
    (tmp_path / "inverted.tif").write_bytes(inverted)
    expected = 255 - np.rint(WIDE / 257)
    np.testing.assert_array_equal(open_picture(tmp_path / "inverted.tif"), expected)


@pytest.mark.parametrize(
    "mode",
    [
        *("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"),
        *("LAB", "I", "F", "I;16", "I;16L", "I;16B"),
    ],
)
def test_every_mode_of_pillow_shows_the_same_face(mode):
    grey = Image.fromarray(np.kron(GREY[:6, :6] // 2 + 64, np.ones((8, 8), np.uint8)))
    ways = {"La": "LA", "RGBa": "RGBA", "LAB": "RGB", "HSV": "RGB", "YCbCr": "RGB", "CMYK": "RGB"}
    picture = grey.convert(ways.get(mode, grey.mode)).convert("I" if "I;" in mode else mode)
    if "I;" in mode:
        picture = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
        code = ">u2" if mode == "I;16B" else "<u2"
        picture = Image.frombytes(mode, (48, 48), np.asarray(picture).astype(code).tobytes())
    converted = to_grey_or_rgb(picture)
    assert converted.mode in ("L", "RGB")
    close = np.abs(np.asarray(converted.convert("L")).astype(int) - np.asarray(grey))
    assert mode == "1" or close.max() <= 3


def test_no_pixels(tmp_path):
    with pytest.raises(UnusableError, match="0x5 pixels"):
        to_grey_or_rgb(Image.new("L", (0, 5)))


@pytest.fixture
def ghostscript(tmp_path, monkeypatch) -> Path:
    """A program `gs` that only leaves a file, which is returned, when it is started."""
    started = tmp_path / "started"
    program = tmp_path / "bin/gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch '{started}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    return started


def test_an_eps_never_starts_ghostscript(tmp_path, ghostscript):
    path = tmp_path / "a.png"
    Image.fromarray(GREY).save(path, "eps")
    with pytest.raises(UnreadableError, match=r"a\.png: EPS is not supported; convert it to JPEG"):
        open_picture(path)
    with pytest.raises(RejectedError, match="not a JPEG or PNG image, but EPS"):
        decode(path.read_bytes())
    with Image.open(path) as picture, pytest.raises(UnusableError, match="EPS is not supported"):
        to_grey_or_rgb(picture)
    assert not ghostscript.exists()
    with Image.open(path) as picture, pytest.raises(OSError, match="identify"):
        picture.load()  # It starts `gs`, so the check itself works.
    assert ghostscript.exists()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.jpg", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC is not supported; convert it to J"),
        ("a.jpg", b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIC is not supported"),
        ("a.heic", bytes(100), "HEIC is not supported"),
        ("a.png", b"\xff\x0a\0\0", "JPEG XL is not supported"),
        ("a.png", b"%PDF-1.7", "PDF is not supported"),
        ("a.svg", b"<?xml version='1.0'?>\n<svg/>", "SVG is not supported"),
        ("a.nef", b"", "empty file"),
        ("a.raf", b"FUJIFILMCCD-RAW", "camera raw is not supported"),
        ("a.jpg", b"\0\0\0\x18ftypmp42\0\0\0\0isomavc1", "a video; its name should end like one"),
        ("a.avif", b"\0\0\0\x18ftypavif\0\0\0\0mif1", "not a picture, or damaged"),
        ("a.jpg", b"text", "not a picture, or damaged"),
        ("a.jpg", b"\xff\xd8\xff\xe0", "not a picture, or damaged"),
    ],
)
def test_what_cannot_be_read_is_called_by_its_name(name, content, reason, tmp_path):
    if "HEIC" in reason and "HEIF" in readable_formats():
        pytest.skip("pillow-heif reads HEIC")
    if "avif" in name and not features.check("avif"):
        pytest.skip("this Pillow does not read AVIF")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableError, match=f"{name}: {reason}"):
        open_picture(tmp_path / name)


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "fifo.png")
    with socket.socket(socket.AF_UNIX) as server:
        place = os.getcwd()
        os.chdir(tmp_path)  # The address of a socket has at most 107 bytes.
        try:
            server.bind("socket.png")
        finally:
            os.chdir(place)
    (tmp_path / "link.png").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    kinds = {"fifo": "a FIFO", "socket": "a socket", "link": "a device", "folder": "a folder"}
    for name, kind in kinds.items():
        assert describe_special(tmp_path / f"{name}.png") == kind
        with pytest.raises(UnreadableError, match=f"{name}.png: {kind}, not a file"):
            open_picture(tmp_path / f"{name}.png")


@pytest.mark.filterwarnings("ignore:.* image format is deprecated")
def test_every_format_that_pillow_writes_and_reads(tmp_path):
    """Lossless formats keep each pixel; the suffixes of all are taken from folders."""
    Image.init()
    grey = Image.fromarray(GREY)
    lossy = {"JPEG", "MPO", "AVIF", "ICNS"}
    tried = set()
    for suffix, kind in Image.registered_extensions().items():
        if kind in Image.SAVE and kind in {*readable_formats(), "MPO"} and kind not in tried:
            assert suffix in picture_suffixes()
            path = tmp_path / f"a{suffix}"
            options = {"lossless": True} if kind in ("WEBP", "JPEG2000") else {}
            for mode in ("L", "P", "RGB", "1"):
                try:
                    grey.convert(mode).save(path, kind, **options)
                except (OSError, ValueError):
                    continue  # The format cannot hold this mode.
                break
            tried.add(kind)
            seen = np.asarray(open_picture(path).convert("L").resize((48, 48)))
            if kind not in lossy and mode != "1":
                np.testing.assert_array_equal(seen, GREY, err_msg=kind)
    assert {"PNG", "JPEG", "TIFF", "BMP", "GIF", "PPM", "MPO"} <= tried
