# SPDX-License-Identifier: Apache-2.0
"""A camera in a process of its own: plays the images of a recording over DDS at their recorded pace."""

from __future__ import annotations

import argparse
import importlib
import signal
import struct
import sys
import threading
import time
from collections.abc import Iterator

import rclpy
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions

from pixelrefer_ros.errors import PixelReferError
from pixelrefer_ros.offline import ImageBag, image_topics

_NANOSECONDS = 1_000_000_000
_POLL_S = 0.02


def restamp(message: bytes, stamp_ns: int) -> bytes:
    """A serialised image message with another stamp.

    An image's first field is its header, and the header's first field its stamp: seconds and nanoseconds
    stand right after the four bytes in which CDR says its byte order. So nothing has to be deserialised.

    Args:
        message: CDR of a ``sensor_msgs`` Image or CompressedImage.
        stamp_ns: the stamp to write.

    Returns:
        The same message with that stamp.
    """
    changed = bytearray(message)
    order = "<" if changed[1] & 1 else ">"
    struct.pack_into(f"{order}iI", changed, 4, *divmod(stamp_ns, _NANOSECONDS))
    return bytes(changed)


def paced(bag: ImageBag, rate: float, loop: bool, stopping: threading.Event) -> Iterator[bytes]:
    """The recorded messages, each when it is due; ends early when told to stop.

    Args:
        bag: the recording.
        rate: 2 plays twice as fast.
        loop: begin again at the end, after as long as lies between two images on average.
        stopping: set to end.
    """
    began_s = time.monotonic()
    while True:
        times: list[int] = []
        for time_ns, message in bag.raw():
            times.append(time_ns)
            due_s = began_s + (time_ns - times[0]) / _NANOSECONDS / rate
            if stopping.wait(max(0.0, due_s - time.monotonic())):
                return
            yield message
        if not loop or not times:
            return
        length_ns = times[-1] - times[0]
        period_ns = length_ns / (len(times) - 1) if len(times) > 1 else _NANOSECONDS / 10
        began_s += (length_ns + period_ns) / _NANOSECONDS / rate


def publisher_of(node: Node, bag: ImageBag, topic: str) -> Publisher:
    """A publisher of the recording's message type, as cameras have it: best effort."""
    kind = bag.message_type.rpartition("/")[2]
    return node.create_publisher(
        getattr(importlib.import_module("sensor_msgs.msg"), kind), topic, qos_profile_sensor_data
    )


def wait_for_subscriber(publisher: Publisher, patience_s: float, stopping: threading.Event) -> None:
    """Wait until somebody listens, so that the first images are not lost; goes on anyway in the end."""
    deadline = time.monotonic() + patience_s
    while publisher.get_subscription_count() == 0 and time.monotonic() < deadline:
        if stopping.wait(_POLL_S):
            return


def play(args: argparse.Namespace, stopping: threading.Event) -> int:
    """Publish until the recording, the duration or the user ends it.

    Returns:
        How many images were published.
    """
    from_topic = args.bag_topic or next(iter(image_topics(args.bag)), "")
    node = Node("camera")
    published = 0
    try:
        with ImageBag(args.bag, from_topic) as bag:
            publisher = publisher_of(node, bag, args.topic)
            wait_for_subscriber(publisher, args.wait, stopping)
            ends_s = time.monotonic() + args.duration if args.duration else float("inf")
            for message in paced(bag, args.rate, args.loop, stopping):
                if time.monotonic() >= ends_s:
                    break
                publisher.publish(message if args.keep_stamps else restamp(message, time.time_ns()))
                published += 1
    finally:
        node.destroy_node()
    return published


def positive(text: str) -> float:
    """A number above 0."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def main() -> int:
    """Play a recording; exit status 0, or 2 if it cannot be read."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bag", help="a rosbag2 folder, or a .mcap or .db3 file")
    parser.add_argument("--topic", default="/camera/image", help="where to publish")
    parser.add_argument("--bag-topic", help="which topic of the recording; default: its first image topic")
    parser.add_argument("--duration", type=positive, help="stop after so many seconds")
    parser.add_argument("--rate", type=positive, default=1.0, help="2 plays twice as fast")
    parser.add_argument("--loop", action="store_true", help="begin again at the end")
    parser.add_argument("--keep-stamps", action="store_true", help="leave the recorded stamps; else: now")
    parser.add_argument(
        "--wait", type=float, default=0.0, help="wait so many seconds at most for a subscriber"
    )
    args = parser.parse_args()

    # rclpy's own handling of SIGTERM may hang at exit.
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _stack: stopping.set())
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    try:
        published = play(args, stopping)
    except PixelReferError as error:
        print(f"camera: {error}", file=sys.stderr)
        return 2
    finally:
        rclpy.try_shutdown()
    print(f"camera: {published} images published on {args.topic}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
