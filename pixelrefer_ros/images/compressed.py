# SPDX-License-Identifier: Apache-2.0
"""Compressed images (``sensor_msgs/CompressedImage``): JPEG and PNG to RGB, and RGB to JPEG."""

from __future__ import annotations

import re

import cv2
import numpy as np

from pixelrefer_ros.errors import ImageError
from pixelrefer_ros.images.encodings import ImageData, byte_buffer, check_size
from pixelrefer_ros.images.raw import scale_to_byte
from pixelrefer_ros.types import RgbImage

_JPEG_START = b"\xff\xd8\xff"
_JPEG_END = b"\xff\xd9"
_PNG_START = b"\x89PNG\r\n\x1a\n"
# Markers that open a frame and carry its size: SOF0..SOF15 without DHT (C4), JPG (C8) and DAC (CC).
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_SCAN = 0xDA
_TO_RGB = {1: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGB}


def decode_compressed(data: ImageData, *, format: str) -> RgbImage:
    """A JPEG or PNG as RGB.

    What the data is, its first bytes say; ``format`` follows compressed_image_transport ("jpeg", "png",
    "rgb8; jpeg compressed bgr8") and matters in one case: "compressed rgb8" or "compressed rgb16" says that
    the sender put red where the codec expects blue, which is undone. The size is read from the header and
    checked before anything is decoded. The pixels stay as the sensor gave them: an EXIF rotation is not
    applied. 16-bit PNG is scaled as mono16 is (65535 becomes 255), alpha is dropped.

    Args:
        data: the whole file.
        format: ``CompressedImage.format``.

    Returns:
        (H, W, 3) uint8 RGB, contiguous and read-only.

    Raises:
        ImageError: neither JPEG nor PNG, cut short or broken, no pixels, or more than ``MAX_PIXELS`` pixels.
    """
    raw = byte_buffer(data)
    if "compressedDepth" in format:
        raise ImageError(
            f"compressed image format {format[:60]!r} is a depth image; use the camera's colour topic"
        )
    head = raw[:16].tobytes()
    if head.startswith(_JPEG_START):
        width, height = _jpeg_size(raw.tobytes())
    elif head.startswith(_PNG_START):
        width, height = _png_size(raw.tobytes())
    else:
        raise ImageError(
            f"compressed image with format {format[:60]!r} ({raw.size} bytes) is neither JPEG nor PNG; "
            "set the camera's image_transport to one of them"
        )
    check_size(width, height)
    try:
        decoded = cv2.imdecode(raw, cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ImageError(
            f"compressed image of {width} x {height}: the data is broken ({error.err})"
        ) from error
    if decoded is None or decoded.shape[:2] != (height, width):
        raise ImageError(
            f"compressed image of {width} x {height}: the data is broken; check the camera's encoder"
        )
    if decoded.dtype != np.uint8:
        decoded = scale_to_byte(decoded)
    channels = 1 if decoded.ndim == 2 else decoded.shape[2]
    swapped = channels == 3 and re.search(r"compressed\s+rgb", format) is not None
    rgb = np.asarray(decoded if swapped else cv2.cvtColor(decoded, _TO_RGB[channels]), np.uint8)
    rgb.flags.writeable = False
    return rgb


def encode_jpeg(rgb: RgbImage, quality: int = 80) -> bytes:
    """A picture as JPEG.

    Args:
        rgb: (H, W, 3) uint8 RGB.
        quality: 1 (smallest) to 100.

    Returns:
        The file's bytes; their ``CompressedImage.format`` is "rgb8; jpeg compressed bgr8".

    Raises:
        ImageError: not an RGB picture, or a quality outside its range.
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.size == 0:
        raise ImageError(f"picture of shape {rgb.shape}, {rgb.dtype}: give (height, width, 3) uint8 RGB")
    if not 1 <= quality <= 100:
        raise ImageError(f"JPEG quality {quality} is outside 1..100; 80 is usual")
    if max(rgb.shape) > 65500:
        raise ImageError(
            f"picture of shape {rgb.shape}: JPEG holds at most 65500 pixels a side; make it smaller"
        )
    _, coded = cv2.imencode(
        ".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, int(quality)]
    )
    return coded.tobytes()


def _png_size(raw: bytes) -> tuple[int, int]:
    """Width and height from IHDR, which PNG requires as the first chunk."""
    if len(raw) < 33 or raw[12:16] != b"IHDR" or b"IEND" not in raw[33:]:
        raise ImageError(f"PNG of {len(raw)} bytes was cut short; check the connection to the camera")
    return int.from_bytes(raw[16:20], "big"), int.from_bytes(raw[20:24], "big")


def _jpeg_size(raw: bytes) -> tuple[int, int]:
    """Width and height from the frame header; walks the segments, so an embedded thumbnail is passed over."""
    size: tuple[int, int] | None = None
    at = 2
    while at + 4 <= len(raw) and raw[at] == 0xFF:
        marker = raw[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        length = int.from_bytes(raw[at + 2 : at + 4], "big")
        if marker in _JPEG_FRAMES and size is None and at + 9 <= len(raw):
            size = (int.from_bytes(raw[at + 7 : at + 9], "big"), int.from_bytes(raw[at + 5 : at + 7], "big"))
        at += 2 + max(length, 2)
        if marker == _JPEG_SCAN:
            break
    # Within a scan 0xFF is never followed by 0xD9, so this is the end of the picture. Decoders differ on a
    # JPEG # without it (some fill the rest with grey): here it is always an error.
    if size is None or _JPEG_END not in raw[at:]:
        raise ImageError(f"JPEG of {len(raw)} bytes was cut short; check the connection to the camera")
    return size
