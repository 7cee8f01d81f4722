# SPDX-License-Identifier: Apache-2.0
"""Recordings in, answers out: what works on files, with no ROS.

`bags` reads recordings, `recording` writes them, `replay` and `verify` are verbs of the command line.
"""

from pixelrefer_ros.offline.bags import ImageBag, image_topics, read_frames
from pixelrefer_ros.offline.files import QuestionEntry, RegionEntry, When, read_questions, read_regions
from pixelrefer_ros.offline.recording import write_image_bag
from pixelrefer_ros.offline.video import VideoWriter

__all__ = [
    "ImageBag",
    "QuestionEntry",
    "RegionEntry",
    "VideoWriter",
    "When",
    "image_topics",
    "read_frames",
    "read_questions",
    "read_regions",
    "write_image_bag",
]
