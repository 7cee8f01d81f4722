# SPDX-License-Identifier: Apache-2.0
"""A process that records the node's overlay as a video until it is told to stop."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path

import cv2
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CompressedImage

from pixelrefer_ros.images import decode_compressed
from pixelrefer_ros.offline import VideoWriter
from pixelrefer_ros.types import RgbImage


def main() -> int:
    """Record until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("video", help="the .mp4 or .gif to write")
    parser.add_argument("--picture", type=Path, help="a .png or .jpg for the last picture")
    parser.add_argument("--topic", default="/pixelrefer/overlay/compressed")
    args = parser.parse_args()

    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _stack: stopping.set())
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = Node("demo_recorder")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    last: list[RgbImage] = []
    with VideoWriter(args.video) as video:

        def write(message: CompressedImage) -> None:
            rgb = decode_compressed(message.data, format=message.format)
            stamp = message.header.stamp
            last[:] = [rgb]
            video.write(rgb, stamp.sec * 1_000_000_000 + stamp.nanosec)

        node.create_subscription(CompressedImage, args.topic, write, qos_profile_sensor_data)
        print("recorder: ready", flush=True)
        while not stopping.is_set():
            executor.spin_once(timeout_sec=0.1)
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()
    if args.picture and last:
        cv2.imwrite(str(args.picture), cv2.cvtColor(last[0], cv2.COLOR_RGB2BGR))
    return 0


if __name__ == "__main__":
    sys.exit(main())
