# SPDX-License-Identifier: Apache-2.0
"""The agent's side by itself."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("pixelrefer_ros.msg")
pytestmark = pytest.mark.ros

from pixelrefer_ros.ros import PixelReferClient  # noqa: E402


def test_the_ros_arguments_of_a_client_hold_for_its_node():
    remaps = ["-r", "/pixelrefer/clear:=/eyes/forget", "-r", "__node:=agent"]
    with PixelReferClient(args=["--ros-args", *remaps]) as client:
        assert client._node.get_name() == "agent"
        assert client._node.resolve_service_name("/pixelrefer/clear") == "/eyes/forget"
    with PixelReferClient() as other:  # they are no other client's
        assert other._node.resolve_service_name("/pixelrefer/clear") == "/pixelrefer/clear"
