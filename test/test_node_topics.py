# SPDX-License-Identifier: Apache-2.0
"""The page of topics, services and the action against what a node of its own process offers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("pixelrefer_ros.msg")
pytestmark = pytest.mark.ros
pytest_plugins = ["node_fixtures"]

from node_processes import node_process, until  # noqa: E402
from rclpy.action.graph import get_action_server_names_and_types_by_node  # noqa: E402
from rclpy.node import Node  # noqa: E402
from rclpy.qos import ReliabilityPolicy  # noqa: E402

from pixelrefer_ros.ros import qos  # noqa: E402
from pixelrefer_ros.ros.inputs import CommandInputs  # noqa: E402
from pixelrefer_ros.ros.outputs import Outputs, vision_messages  # noqa: E402

PAGE = Path(__file__).resolve().parent.parent / "docs" / "topics.md"
ROS_OWN = re.compile(r"/(rosout|parameter_events|clock)|.*/(transition_event|_action/.*|.*parameter.*)")
LIFECYCLE = re.compile(r".*/(change_state|get_state|get_available_\w+|get_transition_graph|get_type_desc\w+)")


@pytest.fixture(scope="module")
def node(tiny_model_folder):
    with node_process({"model": str(tiny_model_folder), "tracker_model": "none"}) as node:
        yield node


@pytest.fixture
def graph(client, peer):
    """A node that knows of the other by its name: discovery tells of services first."""
    until(lambda: ("pixelrefer", "/") in peer.node.get_node_names_and_namespaces())
    return peer.node


def page(title: str) -> dict[str, list[str]]:
    """The table under a title: full name to the other cells, with the code's ticks taken off."""
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {title}\n")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    table = {full_name(cells[0].strip("`")): [cell.strip("` ") for cell in cells[1:]] for cells in rows}
    if vision_messages() is None:
        table.pop("/pixelrefer/detections", None)
    return table


def full_name(name: str) -> str:
    return re.sub(r"^~/", "/pixelrefer/", name if name[0] in "~/" else f"/{name}")


def offered(names_and_types) -> dict[str, str]:
    found = {name: kinds[0] for name, kinds in names_and_types}
    return {name: kind for name, kind in found.items() if not ROS_OWN.fullmatch(name)}


@pytest.mark.parametrize(
    ("title", "names", "endpoints"),
    [
        ("In", "get_subscriber_names_and_types_by_node", "get_subscriptions_info_by_topic"),
        ("Out", "get_publisher_names_and_types_by_node", "get_publishers_info_by_topic"),
    ],
)
def test_the_page_tells_every_topic_with_its_type_and_quality_of_service(graph, title, names, endpoints):
    told = page(title)
    until(lambda: offered(getattr(graph, names)("pixelrefer", "/")) == {n: c[0] for n, c in told.items()})
    for name, (_, reliability, _, _) in told.items():
        (info,) = [info for info in getattr(graph, endpoints)(name) if info.node_name == "pixelrefer"]
        reliable = info.qos_profile.reliability == ReliabilityPolicy.RELIABLE
        assert (name, reliable) == (name, reliability == "reliable")


def test_the_page_tells_every_service_and_the_action(graph):
    services = {name: cells[0] for name, cells in page("Services").items()}

    def found() -> dict[str, str]:
        seen = offered(graph.get_service_names_and_types_by_node("pixelrefer", "/"))
        return {name: kind for name, kind in seen.items() if not LIFECYCLE.fullmatch(name)}

    until(lambda: found() == services, what=f"{services}, but there are {found()}")
    actions = get_action_server_names_and_types_by_node(graph, "pixelrefer", "/")
    assert {name: kinds[0] for name, kinds in actions} == {n: c[0] for n, c in page("Action").items()}


def test_the_page_tells_the_depth_of_every_queue(ros_context):
    """Of the very classes that make them: a depth is not told to other nodes."""
    node = Node("pixelrefer", context=ros_context)
    made = [*Outputs(node, 80)._publishers, *CommandInputs(node, None, None)._subscriptions]
    depths = {each.topic_name: each.qos_profile.depth for each in made}
    depths |= {
        "/image": qos.image_input("sensor_data").depth,
        "/diagnostics": qos.DIAGNOSTICS.depth,
    }
    assert {name: int(cells[2]) for name, cells in (page("In") | page("Out")).items()} == depths
    node.destroy_node()
