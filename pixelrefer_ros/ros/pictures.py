# SPDX-License-Identifier: Apache-2.0
"""A scene as pictures and as detections of the ecosystem's own message."""

from __future__ import annotations

from typing import Any

import numpy as np
from sensor_msgs.msg import CompressedImage, Image

from pixelrefer_ros.images import encode_jpeg
from pixelrefer_ros.overlay import draw_overlay
from pixelrefer_ros.ros.conversions import header_of
from pixelrefer_ros.types import Scene, TrackState

MAX_LABEL = 65535
"""A 16UC1 image cannot hold a larger object id; such objects are left out of it."""


def scene_to_label_image(scene: Scene) -> Image:
    """16UC1 of the image's size: pixel value = object id, 0 background; the newest object lies on top."""
    height, width = scene.frame.rgb.shape[:2]
    labels = np.zeros((height, width), "<u2")
    for seen in sorted(scene.objects, key=lambda seen: seen.track.object_id):
        box = seen.track.box
        if box is None or seen.track.object_id > MAX_LABEL:
            continue
        part = np.s_[box.y : box.y + box.height, box.x : box.x + box.width]
        labels[part][seen.track.mask[part]] = seen.track.object_id
    message = Image(
        header=header_of(scene.frame), height=height, width=width, encoding="16UC1", step=2 * width
    )
    message.data = labels.tobytes()  # bytes: assigning an array to `data` costs a thousand times more
    return message


def scene_to_overlay(scene: Scene, quality: int) -> CompressedImage:
    """The picture for people, as jpeg of that quality (1 to 100)."""
    message = CompressedImage(header=header_of(scene.frame), format="jpeg")
    message.data = encode_jpeg(draw_overlay(scene), quality)
    return message


def scene_to_detections(scene: Scene, vision_msgs: Any) -> Any:
    """A ``vision_msgs/Detection2DArray`` of the objects seen in this image.

    Args:
        scene: one frame's objects.
        vision_msgs: the module ``vision_msgs.msg``, which is not installed everywhere.
    """
    header = header_of(scene.frame)
    message = vision_msgs.Detection2DArray(header=header)
    for seen in scene.objects:
        box = seen.track.box
        if seen.track.state is not TrackState.TRACKED or box is None:
            continue
        detection = vision_msgs.Detection2D(header=header, id=str(seen.track.object_id))
        detection.bbox.center.position.x = box.x + box.width / 2
        detection.bbox.center.position.y = box.y + box.height / 2
        detection.bbox.size_x = float(box.width)
        detection.bbox.size_y = float(box.height)
        hypothesis = vision_msgs.ObjectHypothesisWithPose()
        hypothesis.hypothesis.class_id = seen.label or (seen.description.text if seen.description else "")
        hypothesis.hypothesis.score = float(seen.track.score)
        detection.results = [hypothesis]
        message.detections.append(detection)
    return message
