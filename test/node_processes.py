# SPDX-License-Identifier: Apache-2.0
"""Real processes for the node's tests: the node, and a camera (this file, run as a script)."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pixelrefer_ros.ros import PixelReferClient
    from pixelrefer_ros.types import Region

STOP_S = 2.0
"""The node's promise: it has stopped so long after SIGINT or SIGTERM."""
START_S = 90.0
"""Loading torch takes seconds; on a machine that runs much else, many."""


def stop_limit_s() -> float:
    """`STOP_S`, and longer in proportion where more runs than there are cores."""
    return STOP_S * max(1.0, os.getloadavg()[0] / len(os.sched_getaffinity(0)))


class Child:
    """A process whose output is read all the while; killed with its group when the ``with`` ends."""

    def __init__(self, argv: Sequence[str]) -> None:
        self.lines: list[str] = []
        self._news = threading.Condition()
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "RCUTILS_LOGGING_BUFFERED_STREAM": "0"}
        self.process = subprocess.Popen(
            list(argv),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_error: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_S + 1.0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join(2.0)

    @property
    def output(self) -> str:
        """Everything it printed until now."""
        return "\n".join(self.lines)

    def wait_for_line(self, text: str, timeout_s: float = START_S, *, after: int = 0) -> str:
        """The first line, from line `after` on, that contains `text`."""
        deadline = time.monotonic() + timeout_s
        with self._news:
            while True:
                for line in self.lines[after:]:
                    if text in line:
                        return line
                left = deadline - time.monotonic()
                if left <= 0 or (self.process.poll() is not None and not self._reader.is_alive()):
                    raise AssertionError(f"{text!r} was not printed:\n{self.output}")
                self._news.wait(min(left, 0.2))

    def stop(self, number: int) -> tuple[int, float]:
        """Send a signal; the exit code, and the seconds it took."""
        start = time.monotonic()
        self.process.send_signal(number)
        code = self.process.wait(30.0)
        return code, time.monotonic() - start

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()


def node_process(
    parameters: Mapping[str, object],
    *,
    remaps: Mapping[str, str] | None = None,
    command: Sequence[str] = (sys.executable, "-m", "pixelrefer_ros.ros.main"),
) -> Child:
    """Start the node.

    Args:
        parameters: by name; written as YAML would read them.
        remaps: from -> to, `__ns` and `__node` among them.
        command: what to run before the ROS arguments.
    """
    arguments = [f"{source}:={target}" for source, target in (remaps or {}).items()]
    pairs = [f"{name}:={_yaml(value)}" for name, value in parameters.items()]
    flags = [part for value in arguments for part in ("-r", value)] + [
        part for pair in pairs for part in ("-p", pair)
    ]
    return Child([*command, "--ros-args", *flags])


def camera_process(topic: str = "/image", **options: object) -> Child:
    """Start a camera; `options` as of this file's command line: width, height, rate, transport, speed."""
    flags = [f"--{name}={value}" for name, value in options.items()]
    return Child([sys.executable, str(Path(__file__).resolve()), topic, *flags])


class Peer:
    """A plain ROS node of the test: publishes, listens, and calls services."""

    def __init__(self) -> None:
        from rclpy.context import Context
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.node import Node

        self.context = Context()
        self.context.init([])
        self.node = Node(f"peer_{uuid.uuid4().hex[:8]}", context=self.context)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._closing = False
        self._clients: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_error: object) -> None:
        self._closing = True
        self._executor.create_task(lambda: None)
        self._thread.join(2.0)
        self._executor.shutdown()
        self.node.destroy_node()
        self.context.try_shutdown()

    def on_its_thread(self, work: Callable[[], Any]) -> Any:
        """Do something on the thread that spins: a reply must not overtake rclpy's note of its request."""
        done = threading.Event()
        results: list[Any] = []

        def run() -> None:
            results.append(work())
            done.set()

        self._executor.create_task(run)
        assert done.wait(20.0)
        return results[0]

    def listen(self, kind: Any, topic: str, qos: Any = None) -> Heard:
        """Collect what is published; best effort unless told otherwise, which any publisher matches."""
        from rclpy.qos import qos_profile_sensor_data

        messages: list[Any] = []
        profile = qos_profile_sensor_data if qos is None else qos
        return Heard(
            self.node, messages, self.node.create_subscription(kind, topic, messages.append, profile)
        )

    def publisher(self, kind: Any, topic: str, qos: Any = 10) -> Any:
        """A publisher whose subscriber is there already."""
        publisher = self.node.create_publisher(kind, topic, qos)
        until(publisher.get_subscription_count, what=f"a subscriber of {topic}")
        return publisher

    def send(self, kind: Any, name: str, request: Any, *, timeout_s: float = START_S) -> Any:
        """Send a request; the future of its reply."""
        if name not in self._clients:
            self._clients[name] = self.node.create_client(kind, name)
        client = self._clients[name]
        assert client.wait_for_service(timeout_s), f"no service {name}"
        return client.call_async(request)

    def call(self, kind: Any, name: str, request: Any, *, timeout_s: float = 30.0, again: bool = True) -> Any:
        """Call a service; `again`: repeat it every five seconds, as a first reply can be lost."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            future = self.send(kind, name, request)
            with contextlib.suppress(AssertionError):
                until(future.done, 5.0 if again else timeout_s)
                return future.result()
        raise AssertionError(f"no reply from {name}")

    def _spin(self) -> None:
        while self.context.ok() and not self._closing:
            self._executor.spin_once()


class Heard:
    """What a subscription has received."""

    def __init__(self, node: Any, messages: list[Any], subscription: Any) -> None:
        self._node, self._subscription = node, subscription
        self.messages = messages

    def next(self, timeout_s: float = 20.0, matching: Callable[[Any], bool] = lambda _message: True) -> Any:
        """The first message from now on that matches."""
        start = len(self.messages)
        return until(lambda: next((m for m in self.messages[start:] if matching(m)), None), timeout_s)

    def stop(self) -> None:
        """Listen no more."""
        self._node.destroy_subscription(self._subscription)


def shared_memory() -> set[str]:
    """Names of what DDS keeps in shared memory now, of every process of this machine."""
    folder = Path("/dev/shm")  # noqa: S108 - where it is, not a temporary file of ours
    return {file.name for file in folder.glob("fastrtps_*")} if folder.is_dir() else set()


def shared_memory_of(pid: int) -> set[str]:
    """Names of what DDS keeps in shared memory and this process has open."""
    maps = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8")
    return {line.rsplit("/", 1)[1] for line in maps.splitlines() if "/shm/fastrtps_" in line}


def until(condition: Callable[[], Any], timeout_s: float = 20.0, what: str = "") -> Any:
    """Wait until `condition` gives something true, and return that."""
    deadline = time.monotonic() + timeout_s
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what or condition}")
        time.sleep(0.02)
    return result


def add_when_seen(client: PixelReferClient, region: Region) -> int:
    """Add a region as soon as the node has an image; the object's id."""
    from pixelrefer_ros.errors import NoFrame

    def add() -> int | None:
        try:
            return client.add_region(region)
        except NoFrame:
            return None

    return until(add, what="the first image")


def _yaml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"'{value}'" if isinstance(value, str) else str(value)


def main() -> None:
    """Publish a picture with a bright square that wanders, stamped with the time of publishing."""
    parser = argparse.ArgumentParser()
    parser.add_argument("topic")
    parser.add_argument("--width", type=int, default=160)
    parser.add_argument("--height", type=int, default=120)
    parser.add_argument("--rate", type=float, default=10.0)
    parser.add_argument("--transport", choices=("raw", "compressed"), default="raw")
    parser.add_argument("--speed", type=int, default=1, help="pixels the square moves from image to image")
    options = parser.parse_args()

    import numpy as np
    import rclpy
    from rclpy.qos import qos_profile_sensor_data
    from rclpy.signals import SignalHandlerOptions
    from sensor_msgs.msg import CompressedImage, Image

    from pixelrefer_ros.images import encode_jpeg

    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("camera")
    compressed = options.transport == "compressed"
    publisher = node.create_publisher(
        CompressedImage if compressed else Image, options.topic, qos_profile_sensor_data
    )
    width, height = options.width, options.height
    rows, columns = np.mgrid[:height, :width]
    colours = [columns * 255 // width, rows * 255 // height, (rows + columns) % 256]
    ground = np.stack(colours, -1).astype(np.uint8)
    index = 0
    while not stopping.wait(1.0 / options.rate):
        picture = ground.copy()
        x = 20 + options.speed * index % 20
        picture[30:60, x : x + 30] = 250
        message: Any
        if compressed:
            message = CompressedImage(format="rgb8; jpeg compressed bgr8", data=encode_jpeg(picture))
        else:
            message = Image(
                height=height, width=width, encoding="rgb8", step=3 * width, data=picture.tobytes()
            )
        message.header.stamp = node.get_clock().now().to_msg()
        message.header.frame_id = "camera_optical"
        publisher.publish(message)
        index += 1
    node.destroy_node()
    rclpy.try_shutdown()


if __name__ == "__main__":
    main()
