# SPDX-License-Identifier: Apache-2.0
"""The one place where cv_bridge is used: a message's pixels through it where it is installed and able."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from pixelrefer_ros.images.encodings import ENCODINGS, ImageData, pixel_view
from pixelrefer_ros.images.raw import to_rgb
from pixelrefer_ros.types import RgbImage

_log = logging.getLogger(__name__)
_TRIAL_S = 20.0

# Those cv_bridge converts to rgb8. Not rgb8 itself: cv_bridge copies, a view costs nothing. Not those it has
# no # conversion for (nv12, nv21, 16UC1, 32FC1, 8UC*): the project's own codec has them everywhere.
_BRIDGED = frozenset(
    [
        "bgr8",
        "rgba8",
        "bgra8",
        "mono8",
        "mono16",
        "yuv422",
        "yuv422_yuy2",
        "bayer_rggb8",
        "bayer_bggr8",
        "bayer_gbrg8",
        "bayer_grbg8",
    ]
)


class ImageMessage(Protocol):
    """Anything with the fields of ``sensor_msgs/Image``: rclpy's message, rosbags', or a stand-in."""

    encoding: str
    width: int
    height: int
    step: int
    is_bigendian: int
    data: ImageData


def message_to_rgb(message: ImageMessage) -> RgbImage:
    """A ``sensor_msgs/Image`` as RGB: by cv_bridge where it is installed and able, else by `to_rgb`.

    Both give the same pixels. cv_bridge is asked only for encodings it converts, and no more after its first
    failure with an encoding (its Python module does not work with NumPy 2, for example); that is logged once.
    The message is checked before either sees it.

    Args:
        message: the image; its data is not copied before conversion and never written to.

    Returns:
        (height, width, 3) uint8 RGB, contiguous and read-only.

    Raises:
        ImageError: as `to_rgb`.
    """
    encoding = message.encoding
    big = bool(message.is_bigendian)
    bridge = _cv_bridge() if _suits_cv_bridge(message) else None
    if bridge is not None:
        pixel_view(message.data, encoding, width=message.width, height=message.height, step=message.step)
        rgb = _bridged(bridge, message)
        if rgb is not None:
            return rgb
    return to_rgb(
        message.data,
        encoding=encoding,
        width=message.width,
        height=message.height,
        step=message.step,
        is_bigendian=big,
    )


_failed: set[str] = set()


def _suits_cv_bridge(message: ImageMessage) -> bool:
    """Whether cv_bridge reads this layout rightly.

    Its Python module takes a row for step / (bytes per pixel) pixels, rounded down, which skews images whose
    padding is no whole number of pixels; and it leaves big-endian values in an order its C++ part does not
    expect.
    """
    encoding = message.encoding
    if encoding not in _BRIDGED or encoding in _failed:
        return False
    layout = ENCODINGS[encoding]
    value_bytes = int(layout.dtype[1])
    return message.step % (layout.channels * value_bytes) == 0 and not (
        message.is_bigendian and value_bytes > 1
    )


@functools.cache
def _cv_bridge() -> Callable[..., Any] | None:
    """``CvBridge().imgmsg_to_cv2``, or None where cv_bridge is absent or does not work."""
    if importlib.util.find_spec("cv_bridge") is None:
        return None
    try:
        if int(np.__version__.split(".")[0]) >= 2:
            _try_in_a_child()
        convert: Callable[..., Any] = importlib.import_module("cv_bridge").CvBridge().imgmsg_to_cv2
    except Exception as error:  # built against another NumPy or OpenCV, it fails in ways of its own
        _log.warning("cv_bridge is installed but does not work (%s); using the built-in image codec", error)
        return None
    return convert


_TRIAL = """
from types import SimpleNamespace
from cv_bridge import CvBridge
image = SimpleNamespace(encoding="bgr8", width=2, height=1, step=6, is_bigendian=0, data=bytes(range(6)))
assert CvBridge().imgmsg_to_cv2(image, desired_encoding="rgb8").tolist() == [[[2, 1, 0], [5, 4, 3]]]
"""


def _try_in_a_child() -> None:
    """Convert one image in a process of its own.

    A cv_bridge built for NumPy 1 can be imported under NumPy 2 and crashes the process when it is used.

    Raises:
        RuntimeError: it crashed, hung or gave wrong pixels.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", _TRIAL]
    try:
        done = subprocess.run(  # noqa: S603 - this interpreter, on the text above
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TRIAL_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(f"trying it under NumPy {np.__version__} failed: {error}") from error
    if done.returncode:
        raise RuntimeError(f"under NumPy {np.__version__} a trial ended with status {done.returncode}")


def _bridged(convert: Callable[..., Any], message: ImageMessage) -> RgbImage | None:
    """cv_bridge's RGB, or None (from now on, for this encoding) when it fails."""
    try:
        rgb = np.ascontiguousarray(convert(message, desired_encoding="rgb8"))
        if rgb.dtype != np.uint8 or rgb.shape != (message.height, message.width, 3):
            raise ValueError(f"it gave {rgb.shape} {rgb.dtype}")
    except Exception as error:  # cv_bridge raises its own, Boost's, OpenCV's and NumPy's errors
        _failed.add(message.encoding)
        _log.warning(
            "cv_bridge cannot convert %s (%s); using the built-in image codec", message.encoding, error
        )
        return None
    rgb.flags.writeable = False
    return rgb
