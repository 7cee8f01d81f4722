# SPDX-License-Identifier: Apache-2.0
"""The demo's camera: a process that plays a recording over DDS."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pixelrefer_ros.offline import write_image_bag
from pixelrefer_ros.types import Frame

pytest.importorskip("rclpy")
pytest.importorskip("pixelrefer_ros.msg")
pytestmark = pytest.mark.ros

CAMERA = Path(__file__).parent.parent / "demo/camera.py"
TOPIC = "/test_camera/image"
START_NS = 1_234_567_890_123_456_789


def frames(count: int = 8) -> list[Frame]:
    """Small unlike frames, 50 ms apart."""
    return [
        Frame(np.full((12, 16, 3), 20 * i, np.uint8), START_NS + i * 50_000_000, "optical")
        for i in range(count)
    ]


class Listener:
    """Keeps every image of the topic."""

    def __init__(self, context, kind: str) -> None:
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.node import Node
        from rclpy.qos import qos_profile_sensor_data
        from sensor_msgs import msg

        self.node = Node("listener", context=context)
        self.executor = SingleThreadedExecutor(context=context)
        self.executor.add_node(self.node)
        self.images: list = []
        self.node.create_subscription(getattr(msg, kind), TOPIC, self.images.append, qos_profile_sensor_data)

    def until(self, enough: int, patience_s: float = 20.0) -> list:
        """Wait for so many images."""
        deadline = time.monotonic() + patience_s
        while len(self.images) < enough and time.monotonic() < deadline:
            self.executor.spin_once(timeout_sec=0.1)
        return self.images

    def close(self) -> None:
        """Leave the graph."""
        self.executor.shutdown()
        self.node.destroy_node()


@pytest.fixture
def listen(ros_context) -> Iterator:
    """Makes listeners and closes them."""
    made: list[Listener] = []

    def make(kind: str = "Image") -> Listener:
        made.append(Listener(ros_context, kind))
        return made[-1]

    yield make
    for listener in made:
        listener.close()


def start(start_child, bag: Path, *options: str) -> subprocess.Popen:
    """The camera, waiting for the listener."""
    return start_child([sys.executable, str(CAMERA), str(bag), "--topic", TOPIC, "--wait", "15", *options])


@pytest.mark.parametrize(("encoding", "kind"), [("rgb8", "Image"), ("png", "CompressedImage")])
def test_images_arrive_as_they_were_recorded(start_child, listen, tmp_path, encoding, kind):
    bag = write_image_bag(tmp_path / "bag", frames(), TOPIC, encoding=encoding)
    listener = listen(kind)
    child = start(start_child, bag, "--keep-stamps", "--loop")
    # Best effort: the first ones may come before the two have found each other; the loop brings them again.
    images = listener.until(12)
    assert len(images) >= 12
    recorded = {frame.stamp_ns: frame for frame in frames()}
    for image in images:
        stamp_ns = image.header.stamp.sec * 10**9 + image.header.stamp.nanosec
        assert stamp_ns in recorded
        assert image.header.frame_id == "optical"
        if kind == "Image":
            assert bytes(image.data) == recorded[stamp_ns].rgb.tobytes()
    child.send_signal(signal.SIGINT)
    assert child.wait(5) == 0


def test_images_are_stamped_with_now_and_keep_their_pace(start_child, listen, tmp_path):
    bag = write_image_bag(tmp_path / "bag", frames(), TOPIC)
    listener = listen()
    child = start(start_child, bag, "--loop")
    images = listener.until(10)
    stamps = [image.header.stamp.sec + image.header.stamp.nanosec * 1e-9 for image in images]
    assert abs(stamps[-1] - time.time()) < 5
    assert all(later > earlier for earlier, later in itertools.pairwise(stamps))
    assert stamps[-1] - stamps[0] > 0.2, "10 images recorded over 0.45 s do not come all at once"
    child.send_signal(signal.SIGTERM)
    assert child.wait(5) == 0


def test_it_ends_by_itself_after_the_recording(start_child, listen, tmp_path):
    bag = write_image_bag(tmp_path / "bag", frames(3), TOPIC)
    listen()
    child = start(start_child, bag, "--rate", "2")
    output, _ = child.communicate(timeout=20)
    assert child.returncode == 0
    assert f"3 images published on {TOPIC}" in output


def test_a_bag_that_is_not_there_is_one_clear_line(start_child, tmp_path):
    child = start(start_child, tmp_path / "nothing")
    output, _ = child.communicate(timeout=20)
    assert child.returncode == 2
    assert "does not exist" in output
    assert "Traceback" not in output
