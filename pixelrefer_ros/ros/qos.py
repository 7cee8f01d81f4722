# SPDX-License-Identifier: Apache-2.0
"""The quality of service of every topic, in one place."""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy


def _keep_last(depth: int, reliability: ReliabilityPolicy) -> QoSProfile:
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=reliability,
        durability=DurabilityPolicy.VOLATILE,
    )


SENSOR_OUTPUT = _keep_last(5, ReliabilityPolicy.BEST_EFFORT)
"""Objects, masks, overlay, detections: sensor data, late ones are of no use."""
COMMANDS = _keep_last(10, ReliabilityPolicy.RELIABLE)
"""Regions and questions: none may be lost."""
ANSWERS = _keep_last(50, ReliabilityPolicy.RELIABLE)
"""Answers: a slow reader still gets the last fifty."""
REQUESTS = _keep_last(100, ReliabilityPolicy.RELIABLE)
"""Of services and the action; ROS's own depth of 10 silently loses the eleventh request of a burst."""
DIAGNOSTICS = _keep_last(10, ReliabilityPolicy.RELIABLE)
"""As diagnostic aggregators subscribe."""


def image_input(image_qos: str) -> QoSProfile:
    """Of the camera subscription; depth 1, as only the newest image is of use.

    Args:
        image_qos: the parameter of that name, ``sensor_data`` or ``reliable``.
    """
    reliable = image_qos == "reliable"
    return _keep_last(1, ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT)
