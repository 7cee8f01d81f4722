# SPDX-License-Identifier: Apache-2.0
"""Frames into a new rosbag2 recording, with no ROS installed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer

from pixelrefer_ros.errors import InputFileError
from pixelrefer_ros.images import encode_jpeg
from pixelrefer_ros.offline.bags import COMPRESSED_IMAGE, IMAGE, ros_types
from pixelrefer_ros.types import NANOSECONDS, Frame, RgbImage

_STORAGE = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}


def write_image_bag(
    folder: Path | str, frames: Iterable[Frame], topic: str, storage: str = "mcap", encoding: str = "rgb8"
) -> Path:
    """Record frames as a rosbag2 folder.

    Args:
        folder: must not exist yet.
        frames: written one by one, each at its own stamp.
        topic: where they are said to have come from.
        storage: "mcap" or "sqlite3".
        encoding: "rgb8", "bgr8" or "mono8" for raw images, "jpeg" or "png" for compressed ones.

    Returns:
        The folder.

    Raises:
        InputFileError: the folder exists, or storage or encoding is none of these.
    """
    folder = Path(folder)
    if storage not in _STORAGE:
        raise InputFileError(f"bag storage {storage!r} is unknown; use one of: {', '.join(_STORAGE)}")
    if encoding not in _ENCODE:
        raise InputFileError(f"bag image encoding {encoding!r} is unknown; use one of: {', '.join(_ENCODE)}")
    if folder.exists():
        raise InputFileError(f"bag folder {folder} exists already; choose another name or remove it")
    message_type = COMPRESSED_IMAGE if encoding in ("jpeg", "png") else IMAGE
    with Writer(folder, version=9, storage_plugin=_STORAGE[storage]) as writer:
        connection = writer.add_connection(topic, message_type, typestore=ros_types())
        for frame in frames:
            message = _message(frame, message_type, encoding)
            writer.write(connection, frame.stamp_ns, ros_types().serialize_cdr(message, message_type))
    return folder


def _png(rgb: RgbImage) -> bytes:
    return cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1].tobytes()


_ENCODE: dict[str, Callable[[RgbImage], Any]] = {
    "rgb8": lambda rgb: rgb,
    "bgr8": lambda rgb: rgb[:, :, ::-1],
    "mono8": lambda rgb: cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY),
    "jpeg": lambda rgb: encode_jpeg(rgb, 95),
    "png": _png,
}


def _message(frame: Frame, message_type: str, encoding: str) -> Any:
    types = ros_types().types
    stamp = types["builtin_interfaces/msg/Time"](*divmod(frame.stamp_ns, NANOSECONDS))
    header = types["std_msgs/msg/Header"](stamp, frame.frame_id)
    coded = _ENCODE[encoding](frame.rgb)
    if message_type == COMPRESSED_IMAGE:
        data = np.frombuffer(coded, np.uint8)
        return types[message_type](header=header, format=f"rgb8; {encoding} compressed bgr8", data=data)
    height, width = frame.rgb.shape[:2]
    data = np.ascontiguousarray(coded).reshape(-1)
    return types[message_type](
        header=header,
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=data.size // height,
        data=data,
    )
