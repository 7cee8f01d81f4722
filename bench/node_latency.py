# SPDX-License-Identifier: Apache-2.0
"""The node's own cost: camera to objects with tracking switched off, in real processes.

A publisher, the node, and this process as listener. The node has one object and no tracker model; the
language model is loaded and idle. Measured after a warm-up: frames lost, latency from publishing an image to
receiving its objects, and the node's CPU time per frame. On a machine that others use as well, start it
with `chrt --rr 1`: else their work is measured too.

    . tools/env.sh; python bench/node_latency.py [--seconds 20] [--repeat 3] [--out FILE] [--docs]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sections import print_and_write, write_section

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

SIZES = {"640x480": (640, 480), "1920x1080": (1920, 1080)}
GOALS: dict[str, dict[str, float]] = {
    "640x480": {"frames_lost": 0, "cpu_ms_per_frame": 3.0, "latency_p50_ms": 10.0},
    "1920x1080": {"frames_lost": 0, "cpu_ms_per_frame": 6.0, "latency_p50_ms": 20.0},
}
RATE_HZ = 30.0
WARM_UP_S = 4.0
MARKS = ("<!-- node_latency: begin -->", "<!-- node_latency: end -->")


def publish(width: int, height: int, seconds: float, record: Path) -> None:
    """The camera: publish at `RATE_HZ` for so long, then write down every stamp (ns of the system clock)."""
    import numpy as np
    import rclpy
    from rclpy.qos import qos_profile_sensor_data
    from sensor_msgs.msg import Image

    rclpy.init(args=[])
    node = rclpy.create_node("camera")
    publisher = node.create_publisher(Image, "/image", qos_profile_sensor_data)
    message = Image(height=height, width=width, encoding="rgb8", step=3 * width)
    message.header.frame_id = "camera_optical"
    message.data = np.random.default_rng(0).integers(0, 255, 3 * width * height, np.uint8).tobytes()
    while not publisher.get_subscription_count():
        time.sleep(0.01)
    stamps, start = [], time.monotonic()
    for index in range(round(seconds * RATE_HZ)):
        time.sleep(max(0.0, start + index / RATE_HZ - time.monotonic()))
        stamp = time.time_ns()
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 10**9)
        publisher.publish(message)
        stamps.append(stamp)
    time.sleep(0.5)
    record.write_text(json.dumps(stamps), encoding="utf-8")
    node.destroy_node()
    rclpy.try_shutdown()


@contextlib.contextmanager
def child(argv: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is stopped with the block."""
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(5.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def cpu_s(pid: int) -> float:
    """CPU seconds of a process until now, all its threads, to the nanosecond (a tick would be 10 ms)."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            total += int((task / "schedstat").read_text(encoding="ascii").split()[0])
    return total / 1e9


class Listener:
    """Receives ~/objects, and notes when each image's objects came."""

    def __init__(self) -> None:
        """Listen from now on, on a thread of its own."""
        from pixelrefer_ros.msg import ObjectArray
        from rclpy.context import Context
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.node import Node

        from pixelrefer_ros.ros.qos import SENSOR_OUTPUT

        self.arrivals: dict[int, int] = {}
        self._context = Context()
        self._context.init([])
        self._node = Node("listener", context=self._context)
        self._node.create_subscription(ObjectArray, "/pixelrefer/objects", self._arrived, SENSOR_OUTPUT)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._closing = False
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Listen no more."""
        self._closing = True
        self._executor.create_task(lambda: None)
        self._thread.join()
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()

    def _arrived(self, message: Any) -> None:
        stamp = message.header.stamp
        self.arrivals[stamp.sec * 10**9 + stamp.nanosec] = time.time_ns()

    def _spin(self) -> None:
        while not self._closing:
            self._executor.spin_once()


def measure(size: str, seconds: float) -> dict[str, Any]:
    """One run at one image size."""
    import numpy as np

    from pixelrefer_ros.errors import NoFrame
    from pixelrefer_ros.ros import PixelReferClient
    from pixelrefer_ros.types import Box, Region

    width, height = SIZES[size]
    parameters = ["-p", "model:='tiny-random'", "-p", "tracker_model:='none'"]
    node_command = [sys.executable, "-m", "pixelrefer_ros.ros.main", "--ros-args", *parameters]
    with tempfile.TemporaryDirectory() as folder, child(node_command) as node:
        record = Path(folder) / "stamps.json"
        with PixelReferClient() as client:
            client.wait_ready(60.0)
        camera_command = [sys.executable, __file__, "--publish", size, "--record", str(record)]
        total = WARM_UP_S + seconds + 1.0
        with child([*camera_command, "--seconds", str(total)]) as camera:
            listener = Listener()
            with PixelReferClient() as client:
                client.wait_ready()
                for _attempt in range(100):
                    with contextlib.suppress(NoFrame):
                        client.add_region(Region(box=Box(width // 4, height // 4, width // 2, height // 2)))
                        break
                    time.sleep(0.05)
            time.sleep(WARM_UP_S - 1.0)
            cpu, first = cpu_s(node.pid), time.time_ns()
            time.sleep(seconds)
            cpu, last = cpu_s(node.pid) - cpu, time.time_ns()
            camera.wait(60.0)
            listener.close()
        published = [s for s in json.loads(record.read_text(encoding="utf-8")) if first <= s < last]
        memory_mb = (
            int(Path(f"/proc/{node.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
        )
    latencies = [(listener.arrivals[s] - s) / 1e6 for s in published if s in listener.arrivals]
    p50, p99 = np.percentile(latencies, (50, 99))
    return {
        "frames_published": len(published),
        "frames_lost": len(published) - len(latencies),
        "cpu_ms_per_frame": round(1e3 * cpu / len(published), 3),
        "latency_p50_ms": round(float(p50), 3),
        "latency_p99_ms": round(float(p99), 3),
        "latency_max_ms": round(max(latencies), 3),
        "node_memory_mb": round(memory_mb),
        "load_average_1min": round(os.getloadavg()[0], 2),
    }


def output_of(*command: str) -> str:
    """What a program prints; empty if it cannot."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def machine() -> dict[str, Any]:
    """What it ran on."""
    cpu = [line for line in output_of("lscpu").splitlines() if line.startswith("Model name")]
    return {
        "cpu": cpu[0].split(":", 1)[1].strip() if cpu else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "python": platform.python_version(),
        "real_time_priority": os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR),
    }


def section(result: dict[str, Any]) -> str:
    """The result as a part of docs/benchmarks.md."""
    lines = [
        MARKS[0],
        "## The node's own cost",
        "",
        f"From publishing an image to receiving its objects, {RATE_HZ:g} Hz, tracking switched off, one "
        "object, the language model loaded and idle; publisher, node and listener are processes of their "
        "own, joined by Fast DDS with `config/fastdds_images.xml`. Goals in brackets.",
        "",
        "| images | frames lost | node's CPU per frame | latency p50 | p99 | max |",
        "|---|---|---|---|---|---|",
    ]
    for size, runs in result["runs"].items():
        for run in runs:
            goal = GOALS[size]
            lines.append(
                f"| {size} rgb8 "
                f"| {run['frames_lost']} of {run['frames_published']} ({goal['frames_lost']:g}) "
                f"| {run['cpu_ms_per_frame']:.2f} ms ({goal['cpu_ms_per_frame']:g}) "
                f"| {run['latency_p50_ms']:.2f} ms ({goal['latency_p50_ms']:g}) "
                f"| {run['latency_p99_ms']:.2f} ms | {run['latency_max_ms']:.2f} ms |"
            )
    where = result["machine"]
    loads = [run["load_average_1min"] for runs in result["runs"].values() for run in runs]
    busy = f"Others used the machine too (load average {min(loads):.1f} to {max(loads):.1f}"
    busy += "; measured at real-time priority). " if where["real_time_priority"] else "). "
    busy = busy if max(loads) > where["cores"] else ""
    lines += [
        "",
        f"`{result['command']}` at commit {result['commit']}; {where['cpu']}, {where['cores']} cores, "
        f"{where['system']}, Python {where['python']}. {busy}One line per run.",
        MARKS[1],
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure every size, print the result, and return 0 if every goal is met."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="measured time of a run")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each size")
    parser.add_argument("--size", choices=sorted(SIZES), action="append", help="only this size")
    parser.add_argument("--out", type=Path, help="write the result here, as JSON")
    parser.add_argument("--docs", action="store_true", help="write the section of docs/benchmarks.md")
    parser.add_argument("--publish", choices=sorted(SIZES), help=argparse.SUPPRESS)
    parser.add_argument("--record", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.publish:
        publish(*SIZES[options.publish], options.seconds, options.record)
        return 0

    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 101))
    sizes = options.size or list(SIZES)
    runs = {size: [measure(size, options.seconds) for _ in range(options.repeat)] for size in sizes}
    result = {
        "benchmark": "node_latency",
        "command": f"python bench/node_latency.py --seconds {options.seconds:g} --repeat {options.repeat}",
        "commit": output_of("git", "describe", "--always", "--dirty", "--abbrev=12"),
        "machine": machine(),
        "rate_hz": RATE_HZ,
        "goals": {size: GOALS[size] for size in sizes},
        "runs": runs,
    }
    print_and_write(result, options.out)
    if options.docs:
        write_section(ROOT / "docs" / "benchmarks.md", section(result))
    met = all(run[name] <= goal for size in sizes for run in runs[size] for name, goal in GOALS[size].items())
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
