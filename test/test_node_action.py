# SPDX-License-Identifier: Apache-2.0
"""The action server beside a stand-in for perception: when a goal counts as abandoned."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("pixelrefer_ros.msg")
pytestmark = pytest.mark.ros

from node_processes import until  # noqa: E402
from pixelrefer_ros.action import Ask  # noqa: E402
from rclpy.action import ActionClient  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.node import Node  # noqa: E402

from pixelrefer_ros.ros.ask_action import AskAction  # noqa: E402


@pytest.mark.parametrize("name", ["~/ask", "~/ask/_action/feedback"])
def test_a_goal_lasts_while_its_client_listens_under_whatever_name(ros_context, name):
    cancelled = []
    work = SimpleNamespace(ask=lambda *_args, **_options: lambda: cancelled.append(True))
    # Client and server share the node, and so its remapping.
    node = Node("eyes", context=ros_context, cli_args=["--ros-args", "-r", f"{name}:=/agent/renamed"])
    action = AskAction(node)
    action.accept(work)
    client = ActionClient(node, Ask, "~/ask")
    executor = SingleThreadedExecutor(context=ros_context)
    executor.add_node(node)
    until(client.server_is_ready)
    sent = client.send_goal_async(Ask.Goal())
    executor.spin_until_future_complete(sent, 20.0)
    assert sent.result().accepted and action.running == 1

    for _ in range(3):
        action.cancel_abandoned()
    assert not cancelled

    client.destroy()
    executor.spin_once(0.1)  # it held the client until now
    until(lambda: action.cancel_abandoned() or cancelled, what="the goal nobody listens to to be cancelled")
    action.close()
    executor.shutdown()
    node.destroy_node()
