# SPDX-License-Identifier: Apache-2.0
"""Camera images out of rosbag2 recordings, with no ROS installed."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any

from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from pixelrefer_ros.errors import ImageError, InputFileError
from pixelrefer_ros.images import decode_compressed, message_to_rgb
from pixelrefer_ros.types import NANOSECONDS, Frame, RgbImage

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"

BrokenImageListener = Callable[[int, str], None]
"""Told the index of an image message that cannot be used, counted on its topic from 0, and why."""

_log = logging.getLogger(__name__)


@functools.cache
def ros_types() -> Typestore:
    """The standard messages of ROS 2 Jazzy; their images are those of every ROS 2 release."""
    return get_typestore(Stores.ROS2_JAZZY)


def log_broken_image(index: int, reason: str) -> None:
    """Say in the log that an image was skipped: the listener where no other is given."""
    _log.warning("image %d is skipped: %s", index, reason)


class ImageBag:
    """One image topic of a recording, open for reading; use it in a ``with`` statement.

    Attributes:
        count: image messages on the topic, the broken ones included.
        message_type: ``sensor_msgs/msg/Image`` or ``sensor_msgs/msg/CompressedImage``.
    """

    def __init__(self, path: Path | str, topic: str) -> None:
        """Open a rosbag2 folder, or a single ``.mcap`` or ``.db3`` file.

        Args:
            path: where it is.
            topic: an image topic in it, raw or compressed.

        Raises:
            InputFileError: it cannot be read, or has no such image topic; the message lists those it has.
        """
        self.path = Path(path)
        self._reader = _open(self.path)
        try:
            images = {c.topic: c for c in self._reader.connections if c.msgtype in _DECODE}
            if topic not in images:
                raise InputFileError(
                    f"bag {self.path} has no image topic {topic!r}; "
                    f"its image topics: {_listing(images.values())}"
                )
            self._connections = [
                c for c in self._reader.connections if c.topic == topic and c.msgtype in _DECODE
            ]
            self.message_type = images[topic].msgtype
            self.count = sum(connection.msgcount for connection in self._connections)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> ImageBag:
        """Nothing more to do: it is open."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Free the file; more calls do nothing."""
        if self._reader.is_open:
            self._reader.close()

    def raw(self) -> Iterator[tuple[int, bytes]]:
        """Every message of the topic as it was recorded, in the bag's order.

        Yields:
            Time of recording in ns, and the serialised message (CDR).

        Raises:
            InputFileError: the recording breaks off.
        """
        messages = self._reader.messages(self._connections)
        while True:
            try:
                _, time_ns, data = next(messages)
            except StopIteration:
                return
            except Exception as error:  # whatever a storage format, its compression and its index may raise
                raise InputFileError(_broken(self.path, error)) from error
            yield time_ns, bytes(data)

    def frames(self, on_broken: BrokenImageListener = log_broken_image) -> Iterator[tuple[int, Frame]]:
        """Every readable image of the topic, in the bag's order.

        A frame's stamp is its header's. Where all headers of the topic are without one, as those of a camera
        that does not stamp, it is the time of recording; where only some are, these images are left out: the
        two clocks may be years apart.

        Args:
            on_broken: told of each image message that cannot be used; it is left out.

        Yields:
            The message's index on the topic, and its frame.

        Raises:
            InputFileError: the recording breaks off.
        """
        decode, stamped = _DECODE[self.message_type], self._is_stamped()
        for index, (time_ns, data) in enumerate(self.raw()):
            try:
                message: Any = ros_types().deserialize_cdr(data, self.message_type)
                stamp_ns = message.header.stamp.sec * NANOSECONDS + message.header.stamp.nanosec
                if stamped and not stamp_ns:
                    raise ImageError("its header has no stamp, while others of the topic have one")
                frame = Frame(decode(message), stamp_ns or time_ns, message.header.frame_id)
            except ImageError as error:
                on_broken(index, str(error))
            except Exception as error:  # bytes that are no such message fail in many ways
                on_broken(index, f"not a {self.message_type}: {type(error).__name__}: {error}")
            else:
                yield index, frame

    def _is_stamped(self) -> bool:
        """Whether any image of the topic has a stamp; only a topic without one is read to its end for this.

        It is looked for in the bytes: the header comes first, and its stamp right after the four bytes in
        which CDR says its byte order.
        """
        try:
            return any(len(data) >= 12 and any(data[4:12]) for _, data in self.raw())
        except InputFileError:
            return False  # who reads the frames comes to the same place


def read_frames(
    path: Path | str, topic: str, *, on_broken: BrokenImageListener = log_broken_image
) -> Iterator[Frame]:
    """The frames of an image topic, in the bag's order.

    Args:
        path: a rosbag2 folder, or a single ``.mcap`` or ``.db3`` file.
        topic: an image topic in it, raw or compressed.
        on_broken: told of each image message that cannot be used; it is left out.

    Yields:
        Frames with their stamp, see `ImageBag.frames`, and frame id.

    Raises:
        InputFileError: the bag cannot be read, or has no such image topic.
    """
    with ImageBag(path, topic) as bag:
        for _, frame in bag.frames(on_broken):
            yield frame


def image_topics(path: Path | str) -> dict[str, str]:
    """The image topics of a recording.

    Args:
        path: a rosbag2 folder, or a single ``.mcap`` or ``.db3`` file.

    Returns:
        Message type by topic name.

    Raises:
        InputFileError: it cannot be read.
    """
    with closing(_open(Path(path))) as reader:
        return {c.topic: c.msgtype for c in reader.connections if c.msgtype in _DECODE}


def _open(path: Path) -> Reader:
    if not path.exists():
        raise InputFileError(f"bag {path} does not exist; give a rosbag2 folder, or a .mcap or .db3 file")
    for file in sorted(path.glob("*.db3")) if path.is_dir() else [path]:
        # rosbags reads the .db3 alone: what a killed recorder left in the log would be missing in silence.
        log = file.with_name(f"{file.name}-wal")
        if log.is_file() and log.stat().st_size:
            raise InputFileError(
                f"bag {path} has its newest messages in {log}, which is not read; bring them into the .db3 "
                f"with `sqlite3 {file} 'PRAGMA wal_checkpoint(TRUNCATE)'`"
            )
    try:
        reader = Reader(path)
        reader.open()
    except Exception as error:  # whatever a storage format, its compression and its index may raise
        raise InputFileError(_broken(path, error)) from error
    return reader


def _broken(path: Path, error: Exception) -> str:
    return f"bag {path} cannot be read ({type(error).__name__}: {error}); {_remedy(path)}"


def _remedy(path: Path) -> str:
    """What helps with a recording whose recorder was killed, or of which only a part was copied."""
    files = [path]
    if path.is_dir():
        files = sorted(file for ending in _RECOVER for file in path.glob(f"*{ending}"))
        if files and not (path / "metadata.yaml").exists():
            return f"give a file in it, such as {files[0]}, or let `ros2 bag reindex {path}` write that file"
    ending = files[0].suffix if files else ""
    if ending not in _RECOVER:
        return "give a rosbag2 folder, or a .mcap or .db3 file"
    command = _RECOVER[ending].format(files[0] if len(files) == 1 else f"FILE{ending}")
    return f"if it was cut short, `{command}` may save most of it into a file to give instead"


def _listing(images: Iterable[Connection]) -> str:
    return ", ".join(sorted(f"{c.topic} ({c.msgtype}, {c.msgcount} messages)" for c in images)) or "none"


def _decode_compressed_message(message: Any) -> RgbImage:
    return decode_compressed(message.data, format=message.format)


_RECOVER = {
    ".mcap": "mcap recover {} -o recovered.mcap",
    ".db3": "sqlite3 {} .recover | sqlite3 recovered.db3",
}

_DECODE: dict[str, Callable[[Any], RgbImage]] = {
    IMAGE: message_to_rgb,
    COMPRESSED_IMAGE: _decode_compressed_message,
}
