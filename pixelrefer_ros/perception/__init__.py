# SPDX-License-Identifier: Apache-2.0
"""The whole job with no ROS: frames and regions in, tracks and answers out.

`Perception` is synchronous and deterministic (replay, tests); `LivePerception` runs it beside a camera.
"""

from pixelrefer_ros.perception.answering import Asked
from pixelrefer_ros.perception.core import Perception
from pixelrefer_ros.perception.live import LivePerception
from pixelrefer_ros.perception.looking import RegionLanguage
from pixelrefer_ros.perception.settings import MAX_ANSWER_TOKENS, PerceptionSettings
from pixelrefer_ros.perception.ticket import Ticket

__all__ = [
    "MAX_ANSWER_TOKENS",
    "Asked",
    "LivePerception",
    "Perception",
    "PerceptionSettings",
    "RegionLanguage",
    "Ticket",
]
