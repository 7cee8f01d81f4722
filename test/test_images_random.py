# SPDX-License-Identifier: Apache-2.0
"""Random messages: the right pixels or an `ImageError`, never anything else."""

from __future__ import annotations

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pixelrefer_ros.errors import ImageError
from pixelrefer_ros.images import ENCODINGS, to_rgb

NAMES = sorted(ENCODINGS)


def row_bytes(name: str, width: int) -> int:
    """Bytes of one row without padding."""
    layout = ENCODINGS[name]
    return width * layout.channels * int(layout.dtype[1])


def rows_of(name: str, height: int) -> int:
    """Rows in the message's data."""
    return height * 3 // 2 if ENCODINGS[name].chroma_plane else height


@settings(max_examples=300, deadline=None)
@given(
    name=st.sampled_from([*NAMES, "rgb16", "", "RGB8", "8UC2"]),
    width=st.integers(-1, 40),
    height=st.integers(-1, 40),
    padding=st.integers(-3, 9),
    missing=st.integers(-4, 4),
    big=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_message_gives_its_pixels_or_an_image_error(name, width, height, padding, missing, big, seed):
    layout = ENCODINGS.get(name)
    step = (row_bytes(name, max(width, 0)) if layout else 3 * max(width, 0)) + padding
    needed = max(0, step) * (rows_of(name, max(height, 0)) if layout else max(height, 0))
    data = np.random.default_rng(seed).integers(0, 256, max(0, needed - missing), dtype=np.uint8).tobytes()
    sound = (
        layout is not None
        and min(width, height) >= layout.smallest_side
        and padding >= 0
        and missing <= 0
        and not (layout.even_width and width % 2)
        and not (layout.even_height and height % 2)
    )
    try:
        rgb = to_rgb(data, encoding=name, width=width, height=height, step=step, is_bigendian=big)
    except ImageError as error:
        assert not sound, error
        return
    assert sound
    rows = np.frombuffer(data, np.uint8)[: step * rows_of(name, height)].reshape(-1, step)
    tight = np.ascontiguousarray(rows[:, : row_bytes(name, width)])
    np.testing.assert_array_equal(rgb, reference(name, tight, width, big))


def reference(name: str, rows: NDArray[np.uint8], width: int, big: bool) -> NDArray[np.uint8]:
    """The same conversion, spelled out without strides or views."""
    layout = ENCODINGS[name]
    if layout.dtype != "u1":
        with np.errstate(invalid="ignore"):  # random bits make signalling NaNs
            values = np.frombuffer(rows.tobytes(), (">" if big else "<") + layout.dtype).astype(np.float64)
        values = values.reshape(len(rows), width)
        scaled = (
            values / 257
            if layout.dtype == "u2"
            else np.where(np.isfinite(values), values, 0).clip(0, 1) * 255
        )
        # to_rgb works in float32, so a product within 1e-4 of a half may round the other way.
        grey = np.rint(scaled.astype(np.float32)).astype(np.uint8)
        return np.dstack([grey] * 3)
    shape = (len(rows), width) if layout.channels == 1 else (len(rows), width, layout.channels)
    pixels = rows.reshape(shape)
    return pixels if layout.color is None else cv2.cvtColor(pixels, layout.color)
