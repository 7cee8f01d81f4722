# SPDX-License-Identifier: Apache-2.0
"""JPEG and PNG: right colours, 16 bits, and nothing decoded that is broken or too large."""

from __future__ import annotations

import array
import io
import struct
import zlib
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rosbags.image import compressed_image_to_cvimage

from pixelrefer_ros.errors import ImageError
from pixelrefer_ros.images import MAX_PIXELS, decode_compressed, encode_jpeg


def picture(height: int = 48, width: int = 64) -> np.ndarray:
    """A smooth picture with three unlike channels."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([columns * 3, rows * 4, 200 - columns - rows], axis=2).clip(0, 255).astype(np.uint8)


def coded(image: np.ndarray, extension: str) -> bytes:
    """By OpenCV, which wants BGR."""
    return cv2.imencode(extension, image)[1].tobytes()


PNG = coded(picture()[:, :, ::-1], ".png")
JPEG = encode_jpeg(picture(), 95)


@pytest.mark.parametrize("format", ["png", "rgb8; png compressed bgr8", "bgr8; png compressed bgr8", ""])
def test_png_keeps_every_pixel(format):
    np.testing.assert_array_equal(decode_compressed(PNG, format=format), picture())


@pytest.mark.parametrize("format", ["jpeg", "jpg", "rgb8; jpeg compressed bgr8", "bgr8;jpeg compressed bgr8"])
def test_jpeg_keeps_colours(format):
    rgb = decode_compressed(JPEG, format=format)
    # Quality 95 on a smooth picture; chroma is halved in both directions.
    assert np.abs(rgb.astype(int) - picture()).max() <= 12
    assert rgb.flags.c_contiguous
    assert not rgb.flags.writeable


def test_red_stays_red_through_jpeg_and_back():
    red = np.zeros((16, 16, 3), np.uint8)
    red[:, :, 0] = 250
    rgb = decode_compressed(encode_jpeg(red), format="jpeg")
    assert np.abs(rgb.reshape(-1, 3).mean(axis=0) - [250, 0, 0]).max() < 4


def test_a_sender_that_swapped_red_and_blue_is_undone():
    swapped = coded(picture(), ".png")  # red handed to a codec that expects blue first
    np.testing.assert_array_equal(decode_compressed(swapped, format="rgb8; png compressed rgb8"), picture())


@pytest.mark.parametrize("raw", [PNG, JPEG], ids=["png", "jpeg"])
def test_pixels_equal_those_of_rosbags_image(raw):
    message = SimpleNamespace(format="jpeg", data=np.frombuffer(raw, np.uint8))
    np.testing.assert_array_equal(
        decode_compressed(raw, format="jpeg"), compressed_image_to_cvimage(message, "rgb8")
    )


def test_every_kind_of_buffer_is_read():
    for data in (bytearray(PNG), memoryview(PNG), array.array("B", PNG), np.frombuffer(PNG, np.uint8)):
        np.testing.assert_array_equal(decode_compressed(data, format="png"), picture())


@pytest.mark.parametrize("colour", [False, True])
def test_16_bit_png_is_scaled_like_mono16(colour):
    values = np.arange(64 * 64 * 3, dtype=np.uint16).reshape(64, 64, 3) * 5
    if not colour:
        values = np.ascontiguousarray(values[:, :, 0])
    rgb = decode_compressed(coded(values[..., ::-1] if colour else values, ".png"), format="mono16; png")
    expected = (values.astype(int) + 128) // 257
    np.testing.assert_array_equal(rgb, expected if colour else np.dstack([expected] * 3))


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA"])
def test_png_of_any_kind_gives_three_channels(mode):
    file = io.BytesIO()
    image = Image.fromarray(picture()).convert(mode)
    image.save(file, "png")
    expected = np.asarray(image.convert("RGBA").convert("RGB") if mode == "RGBA" else image.convert("RGB"))
    np.testing.assert_array_equal(decode_compressed(file.getvalue(), format="png"), expected)


@pytest.mark.parametrize("options", [{"progressive": True}, {"subsampling": 0}, {"optimize": True}])
def test_jpeg_of_any_kind_is_read(options):
    file = io.BytesIO()
    Image.fromarray(picture()).save(file, "jpeg", quality=95, **options)
    assert np.abs(decode_compressed(file.getvalue(), format="jpeg").astype(int) - picture()).max() <= 12


def test_grey_jpeg_gives_three_equal_channels():
    rgb = decode_compressed(coded(picture()[:, :, 0], ".jpg"), format="mono8; jpeg compressed ")
    assert (rgb == rgb[:, :, :1]).all()


def test_exif_rotation_is_not_applied():
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees to show"
    Image.fromarray(picture()).save(file, "jpeg", exif=exif)
    assert decode_compressed(file.getvalue(), format="jpeg").shape == (48, 64, 3)


def png_claiming(width: int, height: int) -> bytes:
    """A well-formed, tiny PNG whose header claims any size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def jpeg_claiming(width: int, height: int) -> bytes:
    """A JPEG whose frame header claims any size."""
    at = JPEG.index(b"\xff\xc0") + 5
    return JPEG[:at] + struct.pack(">HH", height, width) + JPEG[at + 4 :]


@pytest.mark.parametrize(
    "raw", [png_claiming(60000, 60000), jpeg_claiming(65000, 65000)], ids=["png", "jpeg"]
)
def test_a_decompression_bomb_is_refused_before_decoding(raw, monkeypatch):
    def decoded(*_: object) -> None:
        raise AssertionError("the data was decoded")

    monkeypatch.setattr(cv2, "imdecode", decoded)
    with pytest.raises(ImageError, match=str(MAX_PIXELS)):
        decode_compressed(raw, format="jpeg")


@pytest.mark.parametrize("raw", [png_claiming(0, 5), jpeg_claiming(0, 5)], ids=["png", "jpeg"])
def test_an_image_without_pixels_is_refused(raw):
    with pytest.raises(ImageError, match="no pixels"):
        decode_compressed(raw, format="png")


@pytest.mark.parametrize("raw", [PNG, JPEG], ids=["png", "jpeg"])
@pytest.mark.parametrize("part", [0.02, 0.3, 0.7, 0.99])
def test_a_cut_file_is_refused(raw, part):
    with pytest.raises(ImageError):
        decode_compressed(raw[: int(len(raw) * part)], format="jpeg")


@pytest.mark.parametrize(
    ("raw", "format", "named"),
    [
        (b"", "jpeg", "0 bytes"),
        (b"GIF89a" + bytes(50), "gif", "'gif'"),
        (PNG, "16UC1; compressedDepth png", "depth"),
        (bytes(1000), "h264", "JPEG nor PNG"),
    ],
)
def test_other_formats_are_refused_by_name(raw, format, named):
    with pytest.raises(ImageError, match=named):
        decode_compressed(raw, format=format)


@settings(max_examples=200, deadline=None)
@given(
    raw=st.sampled_from([PNG, JPEG]),
    at=st.integers(0, 3000),
    value=st.integers(0, 255),
    cut=st.integers(0, 3000),
)
def test_damaged_data_gives_a_picture_or_an_image_error(raw, at, value, cut):
    damaged = bytearray(raw)
    damaged[at % len(raw)] = value
    try:
        rgb = decode_compressed(bytes(damaged[: len(raw) - cut % 50]), format="jpeg")
    except ImageError:
        return
    assert rgb.ndim == 3
    assert rgb.dtype == np.uint8


@pytest.mark.parametrize(
    ("image", "quality"),
    [
        (np.zeros((4, 4), np.uint8), 80),
        (np.zeros((4, 4, 4), np.uint8), 80),
        (np.zeros((4, 4, 3), np.float32), 80),
        (np.zeros((0, 4, 3), np.uint8), 80),
        (np.zeros((4, 4, 3), np.uint8), 0),
        (np.zeros((4, 4, 3), np.uint8), 101),
        (np.zeros((1, 65501, 3), np.uint8), 80),
    ],
)
def test_what_jpeg_cannot_hold_is_refused(image, quality):
    with pytest.raises(ImageError):
        encode_jpeg(image, quality)
