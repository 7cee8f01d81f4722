# SPDX-License-Identifier: Apache-2.0
"""Camera images to RGB pixels and back, without ROS.

Everything here works on plain buffers or on objects shaped like ``sensor_msgs/Image``; every failure is an
`~pixelrefer_ros.errors.ImageError` that names the value and the remedy.
"""

from pixelrefer_ros.images.bridge import ImageMessage, message_to_rgb
from pixelrefer_ros.images.compressed import decode_compressed, encode_jpeg
from pixelrefer_ros.images.encodings import ENCODINGS, MAX_PIXELS
from pixelrefer_ros.images.raw import to_mask, to_rgb

__all__ = [
    "ENCODINGS",
    "MAX_PIXELS",
    "ImageMessage",
    "decode_compressed",
    "encode_jpeg",
    "message_to_rgb",
    "to_mask",
    "to_rgb",
]
