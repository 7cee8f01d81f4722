# SPDX-License-Identifier: Apache-2.0
"""Recordings: what is written is read again; what is broken is named and never passed over in silence."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag2 import Writer
from rosbags.typesys import Stores, get_typestore

from pixelrefer_ros.errors import InputFileError
from pixelrefer_ros.offline import ImageBag, image_topics, read_frames, write_image_bag
from pixelrefer_ros.types import Frame

TOPIC = "/camera/image"
START_NS = 1_700_000_000_000_000_123
STORAGES = ["mcap", "sqlite3"]


def frames(count: int = 4) -> list[Frame]:
    """Unlike frames of an odd size, 100 ms apart."""
    rows, columns = np.mgrid[0:31, 0:47]
    return [
        Frame(
            np.stack([columns * 5, rows * 7, np.full_like(rows, 40 * i)], axis=2).astype(np.uint8),
            START_NS + i * 100_000_000,
            "camera_optical",
        )
        for i in range(count)
    ]


def assert_same(got: list[Frame], expected: list[Frame], tolerance: int = 0) -> None:
    """Stamps, optical frames and pixels."""
    assert [f.stamp_ns for f in got] == [f.stamp_ns for f in expected]
    assert [f.frame_id for f in got] == [f.frame_id for f in expected]
    for one, other in zip(got, expected, strict=True):
        assert np.abs(one.rgb.astype(int) - other.rgb.astype(int)).max() <= tolerance


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "png"])
def test_frames_come_back_as_they_were_written(tmp_path, storage, encoding):
    folder = write_image_bag(tmp_path / "bag", frames(), TOPIC, storage, encoding)
    assert_same(list(read_frames(folder, TOPIC)), frames())


def test_jpeg_frames_come_back_nearly_as_they_were_written(tmp_path):
    smooth = [Frame(np.full((32, 48, 3), (200, 90, 30), np.uint8), START_NS, "c")]
    folder = write_image_bag(tmp_path / "bag", smooth, TOPIC, encoding="jpeg")
    assert_same(list(read_frames(folder, TOPIC)), smooth, tolerance=2)  # rounding in and out of YCbCr


def test_grey_frames_come_back_grey(tmp_path):
    folder = write_image_bag(tmp_path / "bag", frames(1), TOPIC, encoding="mono8")
    (frame,) = read_frames(folder, TOPIC)
    assert (frame.rgb == frame.rgb[:, :, :1]).all()


@pytest.mark.parametrize("storage", STORAGES)
def test_the_file_alone_is_enough(tmp_path, storage):
    folder = write_image_bag(tmp_path / "bag", frames(), TOPIC, storage)
    (file,) = [*folder.glob("*.mcap"), *folder.glob("*.db3")]
    assert_same(list(read_frames(file, TOPIC)), frames())


class Recording:
    """A bag with whatever messages a test wants in it."""

    def __init__(self, folder: Path) -> None:
        self.types = get_typestore(Stores.ROS2_JAZZY)
        self.writer = Writer(folder, version=9)
        self.writer.open()
        self.folder = folder
        self.topics: dict[str, object] = {}

    def raw(self, topic: str, msgtype: str, time_ns: int, data: bytes) -> None:
        """Bytes as they are."""
        if topic not in self.topics:
            self.topics[topic] = self.writer.add_connection(topic, msgtype, typestore=self.types)
        self.writer.write(self.topics[topic], time_ns, data)

    def image(self, time_ns: int, stamp_ns: int, **change: object) -> None:
        """A 4 x 2 rgb8 image on the topic."""
        t = self.types.types
        header = t["std_msgs/msg/Header"](t["builtin_interfaces/msg/Time"](*divmod(stamp_ns, 10**9)), "c")
        fields = {"height": 2, "width": 4, "encoding": "rgb8", "is_bigendian": 0, "step": 12}
        fields["data"] = np.arange(24, dtype=np.uint8)
        message = t["sensor_msgs/msg/Image"](header=header, **{**fields, **change})
        data = self.types.serialize_cdr(message, "sensor_msgs/msg/Image")
        self.raw(TOPIC, "sensor_msgs/msg/Image", time_ns, bytes(data))


def test_images_of_a_topic_without_stamps_get_the_time_of_recording(tmp_path):
    recording = Recording(tmp_path / "bag")
    for time_ns in (5_000, 6_000):
        recording.image(time_ns, 0)
    recording.writer.close()
    assert [f.stamp_ns for f in read_frames(tmp_path / "bag", TOPIC)] == [5_000, 6_000]


def test_two_clocks_are_never_mixed_an_unstamped_image_among_stamped_ones_is_left_out(tmp_path):
    recording = Recording(tmp_path / "bag")
    for place, stamp_ns in enumerate((0, 0, 77, 88, 0, 99)):  # a simulation's clock begins at 0
        recording.image(START_NS + place, stamp_ns)
    recording.writer.close()
    left_out: dict[int, str] = {}
    stamps = [f.stamp_ns for f in read_frames(tmp_path / "bag", TOPIC, on_broken=left_out.__setitem__)]
    assert stamps == [77, 88, 99] and sorted(left_out) == [0, 1, 4]
    assert "no stamp, while others of the topic have one" in left_out[0]


def test_broken_images_are_named_and_left_out(tmp_path):
    recording = Recording(tmp_path / "bag")
    recording.image(1, 1)
    recording.image(2, 2, data=np.zeros(23, np.uint8))
    recording.image(3, 3, encoding="rgb9")
    recording.raw(TOPIC, "sensor_msgs/msg/Image", 4, b"\x00\x01\x00\x00\x05")
    recording.image(5, 5, width=0, height=0, step=0, data=np.zeros(0, np.uint8))
    recording.image(6, 6)
    recording.writer.close()
    broken: dict[int, str] = {}
    with ImageBag(tmp_path / "bag", TOPIC) as bag:
        good = [(index, frame.stamp_ns) for index, frame in bag.frames(broken.__setitem__)]
        assert bag.count == 6
    assert good == [(0, 1), (5, 6)]
    assert sorted(broken) == [1, 2, 3, 4]
    for index, part in {1: "23 bytes", 2: "'rgb9'", 3: "sensor_msgs/msg/Image", 4: "0 x 0"}.items():
        assert part in broken[index]


def test_a_broken_image_is_logged_when_nobody_listens(tmp_path, caplog):
    recording = Recording(tmp_path / "bag")
    recording.image(2, 2, encoding="rgb9")
    recording.writer.close()
    assert list(read_frames(tmp_path / "bag", TOPIC)) == []
    assert "image 0 is skipped" in caplog.text
    assert "rgb9" in caplog.text


def test_a_missing_topic_is_answered_with_those_there_are(tmp_path):
    recording = Recording(tmp_path / "bag")
    recording.image(1, 1)
    text = recording.types.serialize_cdr(
        recording.types.types["std_msgs/msg/String"]("hi"), "std_msgs/msg/String"
    )
    recording.raw("/chatter", "std_msgs/msg/String", 2, bytes(text))
    recording.writer.close()
    for wrong in ("/nothing", "/chatter", "camera/image"):
        with pytest.raises(InputFileError) as caught:
            list(read_frames(tmp_path / "bag", wrong))
        assert repr(wrong) in str(caught.value)
        assert f"{TOPIC} (sensor_msgs/msg/Image, 1 messages)" in str(caught.value)
        assert "/chatter (" not in str(caught.value)
    assert image_topics(tmp_path / "bag") == {TOPIC: "sensor_msgs/msg/Image"}


def cut(path: Path, share: float) -> None:
    """Keep the first part of a file."""
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * share)])


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.6])
def test_a_recording_cut_short_is_one_clear_error(tmp_path, storage, share):
    folder = write_image_bag(tmp_path / "bag", frames(20), TOPIC, storage)
    (file,) = [*folder.glob("*.mcap"), *folder.glob("*.db3")]
    cut(file, share)
    for path in (folder, file):
        with pytest.raises(InputFileError, match=r"cannot be read|no image topic") as caught:
            list(read_frames(path, TOPIC))
        if "cannot be read" in str(caught.value):
            assert {"mcap": f"`mcap recover {file} -o", "sqlite3": f"`sqlite3 {file} .recover |"}[
                storage
            ] in str(caught.value), "what helps"


def test_messages_that_a_killed_recorder_left_in_the_log_are_not_missing_in_silence(tmp_path):
    folder = write_image_bag(tmp_path / "bag", frames(6), TOPIC, "sqlite3")
    file, killed = folder / "bag.db3", tmp_path / "killed.db3"
    with closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute(
            "INSERT INTO messages SELECT 7, topic_id, timestamp + 1, data FROM messages WHERE id = 6"
        )
        database.commit()
        for ending in ("", "-wal"):  # as they lie there while the recorder runs
            shutil.copy(f"{file}{ending}", f"{killed}{ending}")
    with pytest.raises(
        InputFileError, match=f"newest messages in {killed}-wal.*`sqlite3 {killed} 'PRAGMA wal"
    ):
        list(read_frames(killed, TOPIC))
    with closing(sqlite3.connect(killed)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert_same(list(read_frames(killed, TOPIC)), [*frames(6), frames(6)[-1]])


@pytest.mark.parametrize("name", ["a.mcap", "a.db3", "a.bag", "a.txt"])
def test_a_file_that_is_no_bag_is_one_clear_error(tmp_path, name):
    (tmp_path / name).write_bytes(b"this is not a recording" * 50)
    with pytest.raises(InputFileError, match="cannot be read"):
        list(read_frames(tmp_path / name, TOPIC))


def test_a_path_that_does_not_exist_is_one_clear_error(tmp_path):
    with pytest.raises(InputFileError, match=r"does not exist; give a rosbag2 folder"):
        list(read_frames(tmp_path / "nothing", TOPIC))


def test_a_folder_without_metadata_is_one_clear_error(tmp_path):
    with pytest.raises(InputFileError, match=r"metadata"):
        list(read_frames(tmp_path, TOPIC))


def test_a_folder_whose_recorder_was_killed_names_the_file_to_give(tmp_path):
    folder = write_image_bag(tmp_path / "bag", frames(), TOPIC)
    (folder / "metadata.yaml").unlink()
    file = folder / "bag.mcap"
    with pytest.raises(InputFileError, match=f"metadata.*give a file in it, such as {file}, or .* reindex"):
        list(read_frames(folder, TOPIC))
    assert_same(list(read_frames(file, TOPIC)), frames())


def test_a_database_of_something_else_is_one_clear_error(tmp_path):
    with sqlite3.connect(tmp_path / "a.db3") as database:
        database.execute("CREATE TABLE other (id INTEGER)")
    with pytest.raises(InputFileError, match="cannot be read"):
        list(read_frames(tmp_path / "a.db3", TOPIC))


@pytest.mark.parametrize(
    ("change", "named"),
    [({"storage": "zip"}, "'zip'.*mcap, sqlite3"), ({"encoding": "yuv422"}, "'yuv422'.*rgb8, bgr8")],
)
def test_what_cannot_be_written_is_refused_by_name(tmp_path, change, named):
    with pytest.raises(InputFileError, match=named):
        write_image_bag(tmp_path / "bag", frames(), TOPIC, **change)
    assert not (tmp_path / "bag").exists()


def test_an_older_recording_is_never_overwritten(tmp_path):
    write_image_bag(tmp_path / "bag", frames(), TOPIC)
    with pytest.raises(InputFileError, match="exists already"):
        write_image_bag(tmp_path / "bag", frames(), TOPIC)
    assert len(list(read_frames(tmp_path / "bag", TOPIC))) == 4
