# SPDX-License-Identifier: Apache-2.0
"""What comes in by topic: camera, regions, questions. A bad message costs a log line, never the node."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from geometry_msgs.msg import PointStamped
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image, RegionOfInterest

import pixelrefer_ros.msg as msg
from pixelrefer_ros.errors import NoFrame, PixelReferError
from pixelrefer_ros.parameters import Parameters
from pixelrefer_ros.ros import conversions, qos
from pixelrefer_ros.ros.asking import ask_or_refuse
from pixelrefer_ros.ros.switch import SwitchedPerception
from pixelrefer_ros.ros.throttled_log import ThrottledLog
from pixelrefer_ros.types import Frame, Region

_RATE_WINDOW_S = 5.0


class ImageInput:
    """The camera's subscription, and how often it delivers."""

    def __init__(
        self, node: Node, work: SwitchedPerception, log: ThrottledLog, parameters: Parameters
    ) -> None:
        """Subscribe to `image`, or to `image/compressed` if the parameters say so."""
        self._node, self._work, self._log = node, work, log
        self._arrivals: deque[float] = deque(maxlen=256)
        self._conversions_s: deque[float] = deque(maxlen=256)
        self._read_at = float("-inf")
        self.received = 0
        compressed = parameters.image_transport == "compressed"
        self._subscription: Subscription = node.create_subscription(
            CompressedImage if compressed else Image,
            "image/compressed" if compressed else "image",
            self._compressed if compressed else self._raw,
            qos.image_input(parameters.image_qos),
        )

    def close(self) -> None:
        """Stop receiving."""
        self._node.destroy_subscription(self._subscription)

    @property
    def topic(self) -> str:
        """The full name of its topic."""
        return str(self._subscription.topic_name)

    def age_s(self) -> float:
        """Seconds since an image arrived; infinite before the first."""
        return time.monotonic() - self._arrivals[-1] if self._arrivals else float("inf")

    def frame_age_s(self) -> float:
        """Seconds since an image arrived that could be read; infinite before the first."""
        return time.monotonic() - self._read_at

    def rate_hz(self) -> float:
        """Images per second over the last few seconds."""
        since = time.monotonic() - _RATE_WINDOW_S
        recent = [arrival for arrival in list(self._arrivals) if arrival >= since]
        return (len(recent) - 1) / (recent[-1] - recent[0]) if len(recent) > 1 else 0.0

    def conversions_s(self) -> list[float]:
        """How long the newest images took to become RGB, seconds."""
        return list(self._conversions_s)

    def _raw(self, message: Image) -> None:
        self._take(message, conversions.image_to_frame)

    def _compressed(self, message: CompressedImage) -> None:
        self._take(message, conversions.compressed_to_frame)

    def _take(self, message: Any, to_frame: Callable[[Any], Frame]) -> None:
        self.received += 1
        arrived = time.monotonic()
        self._arrivals.append(arrived)
        try:
            frame = to_frame(message)
            self._read_at = time.monotonic()
            self._conversions_s.append(self._read_at - arrived)
        except PixelReferError as error:
            self._log.warn("image refused", str(error))
            return
        self._work.submit_frame(frame)


class CommandInputs:
    """Regions and questions by topic. Topics cannot reply: refused regions are logged, questions answered."""

    def __init__(self, node: Node, work: SwitchedPerception, log: ThrottledLog) -> None:
        """Subscribe to `~/regions`, `~/roi`, `~/point` and `~/questions`."""
        self._node, self._work, self._log = node, work, log
        topics: list[tuple[Any, str, Callable[[Any], None]]] = [
            (msg.Region, "~/regions", self._region),
            (RegionOfInterest, "~/roi", self._roi),
            (PointStamped, "~/point", self._point),
            (msg.Question, "~/questions", self._question),
        ]
        # Who publishes with an incompatible QoS is told so by its own side.
        events = SubscriptionEventCallbacks(use_default_callbacks=False)
        self._subscriptions = [
            node.create_subscription(message_type, topic, callback, qos.COMMANDS, event_callbacks=events)
            for message_type, topic, callback in topics
        ]

    def close(self) -> None:
        """Stop receiving."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)

    def _region(self, message: msg.Region) -> None:
        self._add("region on ~/regions", lambda: self._work.add_region(conversions.to_region(message)))

    def _roi(self, message: RegionOfInterest) -> None:
        self._add("box on ~/roi", lambda: self._work.add_region(conversions.roi_to_region(message)))

    def _point(self, message: PointStamped) -> None:
        region = conversions.point_to_region(message)
        self._add("click on ~/point", lambda: self._add_click(region))

    def _add_click(self, region: Region) -> int:
        try:
            return self._work.add_region(region)
        except NoFrame:  # a viewer may stamp with its own clock: then the newest frame is meant
            return self._work.add_region(replace(region, stamp_ns=0))

    def _add(self, kind: str, add: Callable[[], int]) -> None:
        try:
            add()
        except PixelReferError as error:
            self._log.warn(f"{kind} refused", str(error))

    def _question(self, message: msg.Question) -> None:
        ask_or_refuse(self._work, message)
