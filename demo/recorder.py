# SPDX-License-Identifier: Apache-2.0
"""A process that records the node's overlay as a video, with the newest answer below, until told to stop."""

from __future__ import annotations

import argparse
import signal
import sys
import textwrap
import threading
from pathlib import Path

import cv2
import numpy as np
import rclpy
from pixelrefer_ros.msg import Answer
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CompressedImage

from pixelrefer_ros.images import decode_compressed
from pixelrefer_ros.offline import VideoWriter
from pixelrefer_ros.ros import qos
from pixelrefer_ros.types import RgbImage

_LINES, _LINE_PX, _LETTER_PX = 4, 20, 9


def lines_of(answer: Answer) -> list[str]:
    """Question and answer, the objects by their ids."""
    question = answer.question
    for object_id in answer.object_ids:
        question = question.replace("<region>", f"#{object_id}", 1)
    return [question, answer.text or answer.error]


def with_text(rgb: RgbImage, lines: list[str]) -> RgbImage:
    """The picture with a panel of fixed height below it; lines too long are wrapped, then cut."""
    letters = rgb.shape[1] // _LETTER_PX
    wrapped = [part for line in lines for part in textwrap.wrap(line, letters)][:_LINES]
    panel = np.zeros((_LINES * _LINE_PX + 8, rgb.shape[1], 3), np.uint8)
    for place, line in enumerate(wrapped):
        ascii_line = line.encode("ascii", "replace").decode()  # OpenCV's font has no other letters
        at = (6, (place + 1) * _LINE_PX)
        cv2.putText(panel, ascii_line, at, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
    return np.concatenate((rgb, panel))


def main() -> int:
    """Record until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("video", help="the .mp4 or .gif to write")
    parser.add_argument("--picture", type=Path, help="a .png or .jpg for the last picture")
    parser.add_argument("--node", default="/pixelrefer")
    args = parser.parse_args()

    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _stack: stopping.set())
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = Node("demo_recorder")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    last: list[RgbImage] = []
    said: list[str] = []
    with VideoWriter(args.video) as video:

        def write(message: CompressedImage) -> None:
            rgb = with_text(decode_compressed(message.data, format=message.format), said)
            stamp = message.header.stamp
            last[:] = [rgb]
            video.write(rgb, stamp.sec * 1_000_000_000 + stamp.nanosec)

        def hear(answer: Answer) -> None:
            said[:] = lines_of(answer)

        overlay = f"{args.node}/overlay/compressed"
        node.create_subscription(CompressedImage, overlay, write, qos_profile_sensor_data)
        node.create_subscription(Answer, f"{args.node}/answers", hear, qos.ANSWERS)
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
