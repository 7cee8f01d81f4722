# SPDX-License-Identifier: Apache-2.0
"""What goes out by topic. Published straight from the threads that made it; costly things only if wanted."""

from __future__ import annotations

import importlib
from typing import Any

from rclpy.event_handler import PublisherEventCallbacks
from rclpy.node import Node
from rclpy.publisher import Publisher
from sensor_msgs.msg import CompressedImage, Image

import pixelrefer_ros.msg as msg
from pixelrefer_ros.ros import pictures, qos
from pixelrefer_ros.ros.conversions import answer_to_msg, scene_to_objects
from pixelrefer_ros.types import Answer, Scene


def vision_messages() -> Any | None:
    """The module ``vision_msgs.msg``; None where that package is not installed."""
    try:
        return importlib.import_module("vision_msgs.msg")
    except ImportError:
        return None


class Outputs:
    """The publishers of everything that is seen and said."""

    def __init__(self, node: Node, overlay_quality: int) -> None:
        """Create the publishers.

        Args:
            node: publishes.
            overlay_quality: jpeg quality of the overlay, 1 to 100; may be set again at any time.
        """
        self._node = node
        self.overlay_quality = overlay_quality
        self._vision_msgs = vision_messages()
        self._publishers: list[Publisher] = []
        self._closed = False
        self._objects = self._publisher(msg.ObjectArray, "~/objects")
        self._masks = self._publisher(Image, "~/masks")
        self._overlay = self._publisher(CompressedImage, "~/overlay/compressed")
        self._answers = self._publisher(msg.Answer, "~/answers", qos.ANSWERS)
        self._detections = None
        if self._vision_msgs is not None:
            self._detections = self._publisher(self._vision_msgs.Detection2DArray, "~/detections")

    def _publisher(self, message_type: Any, topic: str, profile: Any = qos.SENSOR_OUTPUT) -> Publisher:
        # Subscribers are told of incompatible QoS by their own side; watching for it here as well costs a
        # tenth of a millisecond per image.
        events = PublisherEventCallbacks(use_default_callbacks=False)
        publisher = self._node.create_publisher(message_type, topic, profile, event_callbacks=events)
        self._publishers.append(publisher)
        return publisher

    def close(self) -> None:
        """Publish no more: a worker that was left to end alone may still try to."""
        self._closed = True
        for publisher in self._publishers:
            self._node.destroy_publisher(publisher)

    def publish_scene(self, scene: Scene) -> None:
        """Publish a tracked frame: its objects always, pictures and detections to whoever listens."""
        if self._closed:
            return
        self._objects.publish(scene_to_objects(scene))
        if self._masks.get_subscription_count():
            self._masks.publish(pictures.scene_to_label_image(scene))
        if self._detections is not None and self._detections.get_subscription_count():
            self._detections.publish(pictures.scene_to_detections(scene, self._vision_msgs))
        if self._overlay.get_subscription_count():
            self._overlay.publish(pictures.scene_to_overlay(scene, self.overlay_quality))

    def publish_answer(self, answer: Answer) -> None:
        """Publish a finished answer."""
        if not self._closed:
            self._answers.publish(answer_to_msg(answer))
