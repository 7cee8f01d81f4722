# SPDX-License-Identifier: Apache-2.0
"""Raw images: every encoding gives the right pixels, or an error that says what is wrong."""

from __future__ import annotations

import array
import re
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray
from rosbags.image import image_to_cvimage

from pixelrefer_ros.errors import ImageError
from pixelrefer_ros.images import ENCODINGS, MAX_PIXELS, to_mask, to_rgb

WIDTH, HEIGHT = 12, 8
NAMES = sorted(ENCODINGS)
NAMED_BY_THE_INTERFACE = [
    "rgb8",
    "bgr8",
    "rgba8",
    "bgra8",
    "mono8",
    "mono16",
    "16UC1",
    "32FC1",
    "yuv422",
    "yuv422_yuy2",
    "nv12",
    "nv21",
    "bayer_rggb8",
    "bayer_bggr8",
    "bayer_gbrg8",
    "bayer_grbg8",
]


def picture(height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.uint8]:
    """A smooth colour picture, so that demosaicing and shared chroma lose little."""
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float64)
    channels = [90 + 9 * columns, 200 - 11 * rows, 60 + 5 * (rows + columns)]
    return np.stack(channels, axis=2).clip(0, 255).astype(np.uint8)


def row_bytes(name: str, width: int) -> int:
    """Bytes of one row without padding."""
    layout = ENCODINGS[name]
    return width * layout.channels * int(layout.dtype[1])


def rows_of(name: str, height: int) -> int:
    """Rows in the message's data."""
    return height * 3 // 2 if ENCODINGS[name].chroma_plane else height


def random_bytes(name: str, *, seed: int, width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.uint8]:
    """(rows, bytes per row) of arbitrary values; floats in [-0.5, 1.5]."""
    rng = np.random.default_rng(seed)
    if name == "32FC1":
        return rng.uniform(-0.5, 1.5, (height, width)).astype("<f4").view(np.uint8)
    return rng.integers(0, 256, (rows_of(name, height), row_bytes(name, width)), dtype=np.uint8)


def read(name: str, rows: NDArray[np.uint8], *, width: int = WIDTH, height: int = HEIGHT, big: bool = False):
    """`to_rgb` on rows without padding."""
    return to_rgb(
        rows.tobytes(), encoding=name, width=width, height=height, step=rows.shape[1], is_bigendian=big
    )


def test_every_encoding_of_the_interface_is_known():
    assert set(NAMED_BY_THE_INTERFACE) <= set(ENCODINGS)


@pytest.mark.parametrize(
    ("name", "order"),
    [("rgb8", [0, 1, 2]), ("bgr8", [2, 1, 0]), ("8UC3", [2, 1, 0])],
)
def test_three_channel_order(name, order):
    rgb = picture()
    rows = np.ascontiguousarray(rgb[:, :, order]).reshape(HEIGHT, -1)
    np.testing.assert_array_equal(read(name, rows), rgb)


@pytest.mark.parametrize(
    ("name", "order"), [("rgba8", [0, 1, 2, 3]), ("bgra8", [2, 1, 0, 3]), ("8UC4", [2, 1, 0, 3])]
)
def test_alpha_is_dropped(name, order):
    rgb = picture()
    rgba = np.dstack([rgb, np.full(rgb.shape[:2], 7, np.uint8)])
    rows = np.ascontiguousarray(rgba[:, :, order]).reshape(HEIGHT, -1)
    np.testing.assert_array_equal(read(name, rows), rgb)


@pytest.mark.parametrize("name", ["mono8", "8UC1"])
def test_grey_is_repeated_in_each_channel(name):
    grey = picture()[:, :, 0]
    np.testing.assert_array_equal(read(name, grey), np.dstack([grey] * 3))


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("name", ["mono16", "16UC1"])
def test_every_16_bit_value_is_scaled_by_255_over_65535(name, big):
    values = np.arange(65536, dtype=">u2" if big else "<u2").reshape(256, 256)
    rgb = read(name, values.view(np.uint8), width=256, height=256, big=big)
    # 65535 / 255 = 257, odd: no value lies halfway, so rounding has one reading.
    expected = ((np.arange(65536) + 128) // 257).reshape(256, 256)
    np.testing.assert_array_equal(rgb, np.dstack([expected] * 3))


@pytest.mark.parametrize("big", [False, True])
def test_float_image_is_scaled_from_unit_range_and_holes_are_black(big):
    values = np.array([[0.0, 1.0, 0.5, -2.0, 3.0, np.nan, np.inf, -np.inf]], dtype=">f4" if big else "<f4")
    rgb = read("32FC1", values.view(np.uint8), width=8, height=1, big=big)
    assert rgb[0, :, 0].tolist() == [0, 255, 128, 0, 255, 0, 0, 0]


def bayer_mosaic(rgb: NDArray[np.uint8], pattern: str) -> NDArray[np.uint8]:
    """What a sensor behind this colour filter would read."""
    mosaic = np.empty(rgb.shape[:2], np.uint8)
    for place, colour in enumerate(pattern):
        y, x = divmod(place, 2)
        mosaic[y::2, x::2] = rgb[y::2, x::2, "rgb".index(colour)]
    return mosaic


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_pattern_gives_the_colours_that_went_in(pattern):
    rgb = picture(16, 20)
    got = read(f"bayer_{pattern}8", bayer_mosaic(rgb, pattern), width=20, height=16)
    # Bilinear demosaicing of a linear ramp is exact inside up to rounding; the border repeats a neighbour.
    assert np.abs(got[2:-2, 2:-2].astype(int) - rgb[2:-2, 2:-2]).max() <= 2


def yuv(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """BT.601 video range, from its definition."""
    r, g, b = np.moveaxis(rgb.astype(np.float64) / 255, 2, 0)
    luma = 0.299 * r + 0.587 * g + 0.114 * b
    return np.stack([16 + 219 * luma, 128 + 224 * (b - luma) / 1.772, 128 + 224 * (r - luma) / 1.402], axis=2)


def packed(name: str, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture in one of the YUV layouts, chroma averaged over the pixels that share it."""
    full = yuv(rgb)
    luma = full[:, :, 0].round().astype(np.uint8)
    height, width = luma.shape
    if name in ("nv12", "nv21"):
        chroma = (
            full[:, :, 1:]
            .reshape(height // 2, 2, width // 2, 2, 2)
            .mean(axis=(1, 3))
            .round()
            .astype(np.uint8)
        )
        if name == "nv21":
            chroma = chroma[:, :, ::-1]
        return np.vstack([luma, chroma.reshape(height // 2, width)])
    chroma = full[:, :, 1:].reshape(height, width // 2, 2, 2).mean(axis=2).round().astype(np.uint8)
    pairs = luma.reshape(height, width // 2, 2)
    u, v = chroma[:, :, 0], chroma[:, :, 1]
    if name in ("yuv422", "uyvy"):
        columns = [u, pairs[:, :, 0], v, pairs[:, :, 1]]
    else:
        columns = [pairs[:, :, 0], u, pairs[:, :, 1], v]
    return np.stack(columns, axis=2).reshape(height, 2 * width)


@pytest.mark.parametrize("name", ["yuv422", "uyvy", "yuv422_yuy2", "yuyv", "nv12", "nv21"])
def test_yuv_gives_the_colours_that_went_in(name):
    rgb = picture()
    got = read(name, packed(name, rgb))
    # Chroma is shared by two (4:2:2) or four (4:2:0) pixels of a ramp of at most 11 per pixel, and rounded to
    # 8 bits.
    assert np.abs(got.astype(int) - rgb).max() <= 16
    assert np.abs(got.astype(int) - rgb).mean() < 4


REFERENCE_TOLERANCE = {
    "mono16": 1
}  # rosbags-image cuts the fraction off where cv_bridge and this codec round


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("16UC1", "32FC1", "8UC1", "8UC3", "8UC4")])
def test_pixels_equal_those_of_rosbags_image(name):
    rows = random_bytes(name, seed=5)
    # rosbags-image takes the chroma rows of nv12 and nv21 as part of the height.
    message = SimpleNamespace(
        encoding=name,
        width=WIDTH,
        height=rows.shape[0],
        step=rows.shape[1],
        is_bigendian=False,
        data=rows.reshape(-1),
    )
    expected = image_to_cvimage(message, "rgb8")
    difference = np.abs(read(name, rows).astype(int) - expected.astype(int))
    assert difference.max() <= REFERENCE_TOLERANCE.get(name, 0)


@pytest.mark.parametrize("name", NAMES)
def test_row_padding_is_passed_over(name):
    rows = random_bytes(name, seed=1)
    padded = np.concatenate([rows, np.full((len(rows), 5), 0xAA, np.uint8)], axis=1)
    np.testing.assert_array_equal(read(name, padded), read(name, rows))


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_of_buffer_gives_the_same_pixels(name):
    rows = random_bytes(name, seed=2)
    raw = rows.tobytes()
    expected = read(name, rows)
    for data in (raw, bytearray(raw), memoryview(raw), array.array("B", raw), rows, rows.reshape(-1)):
        got = to_rgb(data, encoding=name, width=WIDTH, height=HEIGHT, step=rows.shape[1])
        np.testing.assert_array_equal(got, expected)
        assert got.shape == (HEIGHT, WIDTH, 3)
        assert got.dtype == np.uint8
        assert got.flags.c_contiguous
        assert not got.flags.writeable


def test_rgb8_without_padding_is_a_view_of_the_message():
    data = array.array("B", bytes(WIDTH * HEIGHT * 3))
    rgb = to_rgb(data, encoding="rgb8", width=WIDTH, height=HEIGHT, step=WIDTH * 3)
    data[0] = 77
    assert rgb[0, 0, 0] == 77


def test_rgb8_costs_no_memory_of_its_own():
    import tracemalloc

    data = np.zeros(1920 * 1080 * 3, np.uint8)
    tracemalloc.start()
    to_rgb(data, encoding="rgb8", width=1920, height=1080, step=1920 * 3)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"encoding": "rgb9"}, ["'rgb9'", "bayer_rggb8"]),
        ({"encoding": ""}, ["''", "rgb8"]),
        ({"width": 0, "height": 0}, ["0 x 0", "at least 1"]),
        ({"height": -1}, ["-1"]),
        ({"step": WIDTH * 3 - 1}, ["step is 35", "36"]),
        ({"data": bytes(WIDTH * HEIGHT * 3 - 1)}, ["287 bytes", "288"]),
        ({"data": b""}, ["0 bytes"]),
        ({"width": 10**6, "height": 10**6}, [str(MAX_PIXELS)]),
        ({"data": [1, 2, 3]}, ["list", "bytes"]),
        ({"encoding": "nv12", "height": 7}, ["12 x 7", "even"]),
        ({"encoding": "yuv422", "width": 7}, ["7 x 8", "width must be even"]),
        ({"encoding": "bayer_rggb8", "width": 2}, ["2 x 8"]),
        ({"encoding": "nv21", "data": bytes(WIDTH * 3 * HEIGHT)}, ["288 bytes", "432"]),
    ],
)
def test_a_broken_image_is_refused_with_value_and_remedy(change, named):
    good = {
        "data": bytes(WIDTH * HEIGHT * 3),
        "encoding": "rgb8",
        "width": WIDTH,
        "height": HEIGHT,
        "step": WIDTH * 3,
    }
    message = {**good, **change}
    with pytest.raises(ImageError) as caught:
        to_rgb(message.pop("data"), **message)
    for part in named:
        assert part in str(caught.value)


def test_a_mask_is_what_is_not_zero():
    rows = np.array([[0, 1, 255, 9], [0, 0, 3, 9]], np.uint8)
    for name in ("mono8", "8UC1"):
        mask = to_mask(rows.tobytes(), encoding=name, width=3, height=2, step=4)
        assert mask.dtype == np.bool_
        assert mask.tolist() == [[False, True, True], [False, False, True]]


@pytest.mark.parametrize(
    "change", [{"encoding": "rgb8"}, {"width": 0}, {"step": 1}, {"height": 3}, {"encoding": "mono16"}]
)
def test_a_broken_mask_is_refused(change):
    with pytest.raises(ImageError):
        to_mask(bytes(8), **{"encoding": "mono8", "width": 4, "height": 2, "step": 4, **change})


def test_the_unknown_encoding_message_lists_every_encoding():
    with pytest.raises(ImageError, match=re.escape(", ".join(ENCODINGS))):
        to_rgb(b"", encoding="h264", width=1, height=1, step=3)
