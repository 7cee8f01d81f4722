# SPDX-License-Identifier: Apache-2.0
"""How each ``sensor_msgs/Image`` encoding lies in memory, and the checks every image must pass."""

from __future__ import annotations

import array
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Union

import cv2
import numpy as np
from numpy.typing import NDArray

from pixelrefer_ros.errors import ImageError

MAX_PIXELS = 2 * 4096 * 4096
"""Larger images are refused: 33.5 million pixels, 100 MB as RGB."""

ImageData = Union[bytes, bytearray, memoryview, "array.array[int]", NDArray[np.uint8]]
"""What holds pixel bytes: rclpy gives ``array.array``, rosbags a NumPy array."""

PixelValues = NDArray[np.uint8 | np.uint16 | np.float32]
"""The values of an image, as they lie in the message."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """One encoding's layout.

    Attributes:
        dtype: NumPy kind and size of one value: "u1", "u2" or "f4".
        channels: values per pixel in a row of the message.
        color: the OpenCV conversion to RGB; None where the values are taken as they are.
        even_width, even_height: whether chroma is shared by neighbouring columns, rows.
        chroma_plane: whether height / 2 further rows of chroma follow the rows of luma (4:2:0).
        smallest_side: fewer rows or columns than this cannot be converted.
    """

    dtype: str = "u1"
    channels: int = 1
    color: int | None = None
    even_width: bool = False
    even_height: bool = False
    chroma_plane: bool = False
    smallest_side: int = 1


# OpenCV names a Bayer pattern by the second row's second and third pixel, ROS by the first two rows' first
# pixels: bayer_rggb8 is OpenCV's BayerBG. OpenCV leaves images under 3 x 3 black.
_UYVY = Encoding(channels=2, color=cv2.COLOR_YUV2RGB_UYVY, even_width=True)
_YUYV = Encoding(channels=2, color=cv2.COLOR_YUV2RGB_YUY2, even_width=True)
_NV12 = Encoding(color=cv2.COLOR_YUV2RGB_NV12, even_width=True, even_height=True, chroma_plane=True)
_NV21 = Encoding(color=cv2.COLOR_YUV2RGB_NV21, even_width=True, even_height=True, chroma_plane=True)
_GRAY = Encoding(color=cv2.COLOR_GRAY2RGB)
_GRAY16 = Encoding(dtype="u2", color=cv2.COLOR_GRAY2RGB)
_BGR = Encoding(channels=3, color=cv2.COLOR_BGR2RGB)
_BGRA = Encoding(channels=4, color=cv2.COLOR_BGRA2RGB)

ENCODINGS: Mapping[str, Encoding] = MappingProxyType(
    {
        "rgb8": Encoding(channels=3),
        "bgr8": _BGR,
        "rgba8": Encoding(channels=4, color=cv2.COLOR_RGBA2RGB),
        "bgra8": _BGRA,
        "mono8": _GRAY,
        "mono16": _GRAY16,
        "8UC1": _GRAY,
        "8UC3": _BGR,
        "8UC4": _BGRA,
        "16UC1": _GRAY16,
        "32FC1": Encoding(dtype="f4", color=cv2.COLOR_GRAY2RGB),
        "yuv422": _UYVY,
        "uyvy": _UYVY,
        "yuv422_yuy2": _YUYV,
        "yuyv": _YUYV,
        "nv12": _NV12,
        "nv21": _NV21,
        "bayer_rggb8": Encoding(color=cv2.COLOR_BayerBG2RGB, smallest_side=3),
        "bayer_bggr8": Encoding(color=cv2.COLOR_BayerRG2RGB, smallest_side=3),
        "bayer_gbrg8": Encoding(color=cv2.COLOR_BayerGR2RGB, smallest_side=3),
        "bayer_grbg8": Encoding(color=cv2.COLOR_BayerGB2RGB, smallest_side=3),
    }
)
"""Every encoding that can be read, by its name in ``sensor_msgs/image_encodings.hpp``."""


def check_size(width: int, height: int) -> None:
    """Refuse an image without pixels or with too many.

    Args:
        width: pixels per row.
        height: rows.

    Raises:
        ImageError: width or height below 1, or more than `MAX_PIXELS` pixels.
    """
    if width < 1 or height < 1:
        raise ImageError(
            f"image of {width} x {height}: it has no pixels; send width and height of at least 1"
        )
    if int(width) * int(height) > MAX_PIXELS:
        raise ImageError(
            f"image of {width} x {height}: more than {MAX_PIXELS} pixels; lower the camera's resolution"
        )


def find_encoding(name: str) -> Encoding:
    """The layout of an encoding.

    Args:
        name: as in ``sensor_msgs/Image.encoding``.

    Returns:
        Its layout.

    Raises:
        ImageError: the name is unknown; the message lists those known.
    """
    found = ENCODINGS.get(name)
    if found is None:
        raise ImageError(f"image encoding {str(name)[:40]!r} is unknown; use one of: {', '.join(ENCODINGS)}")
    return found


def pixel_view(
    data: ImageData, name: str, *, width: int, height: int, step: int, is_bigendian: bool = False
) -> PixelValues:
    """The values of an image without its row padding, in place where the machine allows it.

    Args:
        data: the message's bytes, at least ``step`` for each row.
        name: the encoding.
        width: pixels per row.
        height: rows of the picture; nv12 and nv21 carry half as many rows of chroma after them.
        step: bytes from one row to the next.
        is_bigendian: byte order of 16-bit and float values.

    Returns:
        (rows, width, channels), or (rows, width) for one channel, in the machine's byte order and read-only;
        a view of ``data`` unless values had to be byte-swapped.

    Raises:
        ImageError: unknown encoding, impossible size or step, too little data, or data that is no buffer.
    """
    encoding = find_encoding(name)
    check_size(width, height)
    if min(width, height) < encoding.smallest_side:
        raise ImageError(
            f"{name} image of {width} x {height}: at least {encoding.smallest_side} x 3 are needed"
        )
    if (encoding.even_width and width % 2) or (encoding.even_height and height % 2):
        sides = "width and height" if encoding.even_height else "width"
        raise ImageError(f"{name} image of {width} x {height}: neighbours share colour; {sides} must be even")
    row_bytes = width * encoding.channels * int(encoding.dtype[1])
    if step < row_bytes:
        raise ImageError(
            f"{name} image: step is {step}, a row of {width} pixels needs {row_bytes} bytes; set step"
        )
    rows = height * 3 // 2 if encoding.chroma_plane else height
    buffer = byte_buffer(data)
    if buffer.size < step * rows:
        raise ImageError(
            f"{name} image of {width} x {height} with step {step}: data has {buffer.size} bytes, "
            f"{step * rows} are needed; the message was cut short"
        )
    values = buffer[: step * rows].reshape(rows, step)[:, :row_bytes]
    if encoding.dtype != "u1":
        order = ">" if is_bigendian else "<"
        values = values.view(order + encoding.dtype).astype(encoding.dtype, copy=False)
        if not values.flags.aligned:  # a step that is no whole number of values; OpenCV refuses it
            values = values.copy()
    if encoding.channels > 1:
        values = values.reshape(rows, width, encoding.channels)
    values.flags.writeable = False
    return values


def byte_buffer(data: ImageData) -> NDArray[np.uint8]:
    """A message's data as bytes, without a copy.

    Args:
        data: any object that lends its memory.

    Returns:
        (N,) uint8, a view.

    Raises:
        ImageError: ``data`` lends no contiguous memory.
    """
    try:
        if len(data) == 0:
            return np.empty(0, np.uint8)
        return np.frombuffer(data, np.uint8)
    except (TypeError, ValueError, BufferError) as error:
        kind = type(data).__name__
        raise ImageError(
            f"image data is a {kind} ({error}); give bytes, array.array or a uint8 array"
        ) from error
