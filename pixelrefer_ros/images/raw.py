# SPDX-License-Identifier: Apache-2.0
"""Raw images (``sensor_msgs/Image``) to RGB pixels and masks."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pixelrefer_ros.errors import ImageError
from pixelrefer_ros.images.encodings import ImageData, find_encoding, pixel_view
from pixelrefer_ros.types import Mask, RgbImage


def to_rgb(
    data: ImageData, *, encoding: str, width: int, height: int, step: int, is_bigendian: bool = False
) -> RgbImage:
    """A raw image as RGB.

    Colour is OpenCV's own conversion, as in cv_bridge: BT.601 video range for the YUV encodings, bilinear
    demosaicing for Bayer. Alpha is dropped. 8UC3 and 8UC4 are taken as BGR and BGRA, as RViz does. Values
    wider than a byte are scaled over their whole range, never stretched to what one image happens to hold, so
    that brightness stays comparable from frame to frame:

    - mono16, 16UC1: 65535 becomes 255 (value * 255 / 65535, rounded), grey. A depth image in millimetres
      comes out nearly black: this is for cameras.
    - 32FC1: 1.0 becomes 255 (rounded), grey; below 0 becomes 0 and above 1 becomes 255; NaN and infinity
      become 0.

    Args:
        data: the message's bytes.
        encoding: one of `~pixelrefer_ros.images.ENCODINGS`.
        width: pixels per row.
        height: rows. nv12 and nv21 carry height / 2 further rows of chroma, with the same step.
        step: bytes from one row to the next, padding included.
        is_bigendian: byte order of 16-bit and float values.

    Returns:
        (height, width, 3) uint8 RGB, contiguous and read-only. For rgb8 without padding it is a view of
        ``data``.

    Raises:
        ImageError: unknown encoding, impossible size or step, too little data, or more than ``MAX_PIXELS``
            pixels.
    """
    values = pixel_view(data, encoding, width=width, height=height, step=step, is_bigendian=is_bigendian)
    if values.dtype != np.uint8:
        values = scale_to_byte(values)
    color = find_encoding(encoding).color
    rgb = np.ascontiguousarray(values if color is None else cv2.cvtColor(values, color), np.uint8)
    rgb.flags.writeable = False
    return rgb


def to_mask(data: ImageData, *, encoding: str, width: int, height: int, step: int) -> Mask:
    """A raw one-channel image as a mask.

    Args:
        data: the message's bytes.
        encoding: mono8 or 8UC1.
        width: pixels per row.
        height: rows.
        step: bytes from one row to the next, padding included.

    Returns:
        (height, width) bool, True where the value is not 0.

    Raises:
        ImageError: another encoding, impossible size or step, or too little data.
    """
    if encoding not in ("mono8", "8UC1"):
        raise ImageError(
            f"mask encoding {str(encoding)[:40]!r} is not supported; send mono8 or 8UC1, 0 off the object"
        )
    return pixel_view(data, encoding, width=width, height=height, step=step) != 0


def scale_to_byte(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Scale values over the whole range of their type to [0, 255].

    Args:
        values: any shape; uint16, or float32 in [0, 1].

    Returns:
        The same shape, uint8, rounded to nearest. Not-a-number and infinite values become 0.
    """
    if values.dtype == np.uint16:
        return np.asarray(cv2.convertScaleAbs(values, alpha=255 / 65535), np.uint8).reshape(values.shape)
    finite = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    return np.rint(np.clip(finite, 0, 1) * 255).astype(np.uint8)
