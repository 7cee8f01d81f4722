# SPDX-License-Identifier: Apache-2.0
"""The agent's side by itself."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("pixelrefer_ros.msg")
pytestmark = pytest.mark.ros

from pixelrefer_ros.srv import AddRegion  # noqa: E402

from pixelrefer_ros.ros import PixelReferClient  # noqa: E402
from pixelrefer_ros.types import Box, Region  # noqa: E402


def test_the_ros_arguments_of_a_client_hold_for_its_node():
    remaps = ["-r", "/pixelrefer/clear:=/eyes/forget", "-r", "__node:=agent"]
    with PixelReferClient(args=["--ros-args", *remaps]) as client:
        assert client._node.get_name() == "agent"
        assert client._node.resolve_service_name("/pixelrefer/clear") == "/eyes/forget"
    with PixelReferClient() as other:  # they are no other client's
        assert other._node.resolve_service_name("/pixelrefer/clear") == "/pixelrefer/clear"


@pytest.mark.parametrize(
    ("object_id", "stamp_ns", "again"),
    [(3, 5, True), (3, 0, False), (0, 5, False)],
    ids=["a correction on its picture", "a correction on the newest picture", "a new object"],
)
def test_a_region_is_sent_again_only_where_it_means_the_same_then(object_id, stamp_ns, again, monkeypatch):
    repeated = []

    def call(name, request, timeout_s, *, retry):
        repeated.append(retry)
        return AddRegion.Response()

    with PixelReferClient() as client:
        monkeypatch.setattr(client, "_call", call)
        client.add_region(Region(box=Box(1, 2, 3, 4), object_id=object_id, stamp_ns=stamp_ns))
    assert repeated == [again]
