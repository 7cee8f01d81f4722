# SPDX-License-Identifier: Apache-2.0
"""Messages and values: what goes there and back is unchanged, and constants stand for the same things."""

from __future__ import annotations

from dataclasses import field, make_dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("pixelrefer_ros.msg")
pytestmark = pytest.mark.ros

import pixelrefer_ros.msg as msg  # noqa: E402
from geometry_msgs.msg import Point, PointStamped, PoseWithCovariance  # noqa: E402
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from hypothesis.extra import numpy as hnp  # noqa: E402
from rclpy.serialization import deserialize_message, serialize_message  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image, RegionOfInterest  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

from pixelrefer_ros.errors import BadQuestion, EmptyRegion, ImageError  # noqa: E402
from pixelrefer_ros.images import encode_jpeg  # noqa: E402
from pixelrefer_ros.ros import conversions, pictures  # noqa: E402
from pixelrefer_ros.types import (  # noqa: E402
    Answer,
    AnswerStatus,
    Box,
    Description,
    Frame,
    Question,
    Region,
    Scene,
    Track,
    TrackedObject,
    TrackState,
)

U32 = st.integers(0, 2**32 - 1)
STAMPS = st.integers(0, 2**31 * 10**9 - 1)
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)
BOXES = st.builds(Box, x=U32, y=U32, width=st.integers(1, 2**32 - 1), height=U32)
# float32 holds 24 bits of mantissa: probabilities survive to 2**-24 relative.
PROBABILITIES = st.floats(0, 1, width=32)


def over_the_wire(message):
    """What a subscriber gets of a message."""
    return deserialize_message(serialize_message(message), type(message))


@pytest.mark.parametrize(("enum", "message"), [(AnswerStatus, msg.Answer), (TrackState, msg.Object)])
def test_message_constants_are_the_values_of_the_enum(enum, message):
    constants = {name: getattr(message, name) for name in enum.__members__}
    assert constants == {name: member.value for name, member in enum.__members__.items()}


@given(STAMPS)
def test_stamp_survives(stamp_ns):
    assert conversions.stamp_to_ns(conversions.ns_to_stamp(stamp_ns)) == stamp_ns


@given(st.floats(0, 1e6))
def test_duration_survives_to_the_nanosecond(seconds):
    # A duration holds whole nanoseconds; a float64 of up to 1e6 s is exact to 2**-33 s.
    assert conversions.duration_to_s(conversions.s_to_duration(seconds)) == pytest.approx(seconds, abs=1e-9)


def test_duration_too_long_becomes_the_longest():
    assert conversions.s_to_duration(1e12).sec == 2**31 - 1


@given(box=BOXES, object_id=U32, label=TEXT, stamp_ns=STAMPS)
def test_box_region_survives(box, object_id, label, stamp_ns):
    region = Region(box=box, object_id=object_id, label=label, stamp_ns=stamp_ns)
    back = conversions.to_region(over_the_wire(conversions.region_to_msg(region)))
    assert (back.box, back.object_id, back.label, back.stamp_ns) == (box, object_id, label, stamp_ns)
    assert back.points is None and back.point_labels is None and back.mask is None


@given(
    points=hnp.arrays(np.float32, st.tuples(st.integers(1, 64), st.just(2)), elements={"allow_nan": True}),
    data=st.data(),
)
def test_point_region_survives(points, data):
    labels = data.draw(hnp.arrays(np.int32, len(points), elements=st.integers(0, 1)))
    region = Region(points=points, point_labels=labels)
    back = conversions.to_region(over_the_wire(conversions.region_to_msg(region)))
    np.testing.assert_array_equal(back.points, points)
    np.testing.assert_array_equal(back.point_labels, labels)
    assert back.box is None and back.mask is None


@given(hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=20)))
def test_mask_region_survives(mask):
    back = conversions.to_region(over_the_wire(conversions.region_to_msg(Region(mask=mask))))
    np.testing.assert_array_equal(back.mask, mask)
    assert back.box is None and back.points is None


@pytest.mark.parametrize(
    ("box", "cut"),
    [(Box(-3, 10, 50, 40), Box(0, 10, 47, 40)), (Box(5, -1, 9, 2), Box(5, 0, 9, 1))],
    ids=["left", "upper"],
)
def test_box_over_an_edge_is_cut_there(box, cut):
    assert conversions.to_region(over_the_wire(conversions.region_to_msg(Region(box=box)))).box == cut


@pytest.mark.parametrize(
    ("region", "told"),
    [
        (Region(box=Box(-50, 10, 50, 40)), "x=-50 y=10 width=50 height=40 lies outside"),
        (Region(box=Box(10, -9, 50, 9)), "outside"),
        (Region(box=Box(10, 10, -5, 5)), "0 or more"),
        (Region(box=Box(1, 1, 5, 5), object_id=-1), "0 or more"),
        (Region(points=np.ones((65, 2), np.float32), point_labels=np.ones(65, np.int32)), "64 points"),
        (Region(points=np.ones((1, 2), np.float32), point_labels=np.array([300])), "numbers"),
    ],
    ids=["left of it", "above it", "negative width", "negative id", "65 points", "label 300"],
)
def test_region_no_message_can_hold_is_an_empty_region_that_says_why(region, told):
    with pytest.raises(EmptyRegion, match=told):
        conversions.region_to_msg(region)


@pytest.mark.parametrize(
    ("question", "told"),
    [
        (Question("What?", tuple(range(17))), "16 objects"),
        (Question("What?", (-1,)), "0 or more"),
        (Question("What?", (1,), frames=-1), "0 or more"),
        (Question("What\ud800?", (1,)), "UTF-8"),
    ],
    ids=["17 objects", "negative id", "negative frames", "a lone surrogate"],
)
def test_question_no_message_can_hold_is_a_bad_question_that_says_why(question, told):
    with pytest.raises(BadQuestion, match=told):
        conversions.question_to_msg(question)


def test_empty_region_message_is_a_region_of_nothing():
    region = conversions.to_region(msg.Region())
    assert region.box is None and region.points is None and region.mask is None


def test_labels_without_points_stay_visible_to_the_check():
    region = conversions.to_region(msg.Region(point_labels=[1, 0]))
    assert region.points.shape == (0, 2)
    assert region.point_labels.tolist() == [1, 0]


def test_point_beyond_float32_becomes_infinite_instead_of_raising():
    region = conversions.to_region(msg.Region(points=[Point(x=1e300, y=-1e300)], point_labels=[1]))
    assert np.isinf(region.points).all()


def test_unreadable_mask_is_an_empty_region_that_says_why():
    message = msg.Region(mask=Image(width=4, height=4, step=4, encoding="mono8"))
    message.mask.data = b"\1\1"
    with pytest.raises(EmptyRegion, match="mask"):
        conversions.to_region(message)


def test_roi_and_click_are_new_objects():
    roi = RegionOfInterest(x_offset=3, y_offset=4, width=5, height=6)
    assert conversions.roi_to_region(roi).box == Box(3, 4, 5, 6)
    click = PointStamped(point=Point(x=7.5, y=8.0, z=2.0))
    click.header.stamp = conversions.ns_to_stamp(5)
    region = conversions.point_to_region(click)
    assert region.points.tolist() == [[7.5, 8.0]] and region.point_labels.tolist() == [1]
    assert region.stamp_ns == 5 and region.object_id == 0


@given(
    text=TEXT,
    object_ids=st.lists(U32, max_size=16).map(tuple),
    id=TEXT,
    frames=st.integers(1, 2**32 - 1),
    history_s=st.floats(0, 1e4),
    max_tokens=U32,
)
def test_question_survives(text, object_ids, id, frames, history_s, max_tokens):
    question = Question(text, object_ids, id, frames, history_s, max_tokens)
    back = conversions.to_question(over_the_wire(conversions.question_to_msg(question)))
    assert back.history_s == pytest.approx(history_s, abs=1e-9)  # nanoseconds on the wire
    assert (back.text, back.object_ids, back.id) == (text, object_ids, id)
    assert (back.frames, back.max_tokens) == (frames, max_tokens)


def test_question_of_no_frames_means_the_newest():
    assert conversions.to_question(msg.Question(frames=0)).frames == 1


def test_negative_history_is_a_bad_question():
    message = msg.Question()
    message.history.sec = -1
    with pytest.raises(BadQuestion, match="history"):
        conversions.to_question(message)


@given(
    status=st.sampled_from(AnswerStatus),
    text=TEXT,
    error=TEXT,
    confidence=PROBABILITIES,
    stamps=st.lists(STAMPS, max_size=4).map(tuple),
    tokens=U32,
    total_s=st.floats(0, 1e4),
)
def test_answer_survives(status, text, error, confidence, stamps, tokens, total_s):
    question = Question("what?", (1, 2), "q", frames=max(1, len(stamps)))
    stamp = stamps[-1] if stamps else 0
    answer = Answer(
        question, status, text, confidence, stamp, "cam", stamps, tokens, 0.5, total_s, "m@1", error
    )
    back = conversions.to_answer(over_the_wire(conversions.answer_to_msg(answer)))
    assert back.total_time_s == pytest.approx(total_s, abs=1e-9)  # nanoseconds on the wire
    for name in ("question", "status", "text", "stamp_ns", "frame_id", "frame_stamps_ns", "tokens", "model"):
        assert getattr(back, name) == getattr(answer, name), name
    assert (back.confidence, back.error) == (confidence, error)


def scene(height: int = 12, width: int = 16) -> Scene:
    """Two objects whose boxes overlap, and a lost one."""
    frame = Frame(np.zeros((height, width, 3), np.uint8), 7_000_000_123, "cam")

    def track(object_id: int, box: Box) -> Track:
        mask = np.zeros((height, width), bool)
        mask[box.y : box.y + box.height, box.x : box.x + box.width] = True
        return Track(object_id, TrackState.TRACKED, 0.75, mask, box, int(mask.sum()))

    lost = Track(9, TrackState.LOST, 0.0, np.zeros((height, width), bool), None, 0)
    said = Description("a cup", 6_000_000_000, 0.5)
    return Scene(
        frame,
        (
            TrackedObject(track(2, Box(4, 4, 6, 6)), "second", 5, 6),
            TrackedObject(track(1, Box(1, 2, 6, 5)), "first", 1, 2, said),
            TrackedObject(lost, "", 3, 4),
        ),
    )


def test_objects_carry_the_header_of_their_image_and_everything_known():
    message = over_the_wire(conversions.scene_to_objects(scene()))
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (7, 123)
    assert message.header.frame_id == "cam"
    second, first, lost = message.objects
    assert (first.id, first.label, first.state, first.score) == (1, "first", msg.Object.TRACKED, 0.75)
    assert (first.box.x_offset, first.box.y_offset, first.box.width, first.box.height) == (1, 2, 6, 5)
    assert (first.area_px, first.description, first.description_stamp.sec) == (30, "a cup", 6)
    assert (first.first_seen.nanosec, first.last_seen.nanosec, second.id) == (1, 2, 2)
    assert (lost.state, lost.box.width, lost.area_px, lost.description) == (msg.Object.LOST, 0, 0, "")


def test_label_image_holds_ids_with_the_newest_object_on_top():
    message = over_the_wire(pictures.scene_to_label_image(scene()))
    labels = np.frombuffer(message.data, "<u2").reshape(message.height, message.step // 2)
    assert (message.encoding, message.width, message.header.stamp.sec) == ("16UC1", 16, 7)
    assert labels[3, 2] == 1 and labels[5, 5] == 2 and labels[0, 0] == 0
    assert set(np.unique(labels)) == {0, 1, 2}


def vision_messages() -> SimpleNamespace:
    """The fields of vision_msgs 4, which is not installable here: other names cannot be set."""

    def message(name: str, **fields: Any) -> type:
        made = [(f, Any, field(default_factory=default)) for f, default in fields.items()]
        return make_dataclass(name, made, slots=True)

    point = message("Point2D", x=float, y=float)
    pose = message("Pose2D", position=point, theta=float)
    box = message("BoundingBox2D", center=pose, size_x=float, size_y=float)
    hypothesis = message("ObjectHypothesis", class_id=str, score=float)
    return SimpleNamespace(
        Detection2DArray=message("Detection2DArray", header=Header, detections=list),
        Detection2D=message("Detection2D", header=Header, results=list, bbox=box, id=str),
        ObjectHypothesisWithPose=message(
            "ObjectHypothesisWithPose", hypothesis=hypothesis, pose=PoseWithCovariance
        ),
    )


def test_detections_are_the_objects_seen_by_label_with_the_centre_of_their_box():
    message = pictures.scene_to_detections(scene(), vision_messages())
    assert (message.header.stamp.sec, message.header.frame_id) == (7, "cam")
    second, first = message.detections  # the lost one is not there
    assert (second.id, first.id, first.header) == ("2", "1", message.header)
    centre = first.bbox.center.position
    assert (centre.x, centre.y, first.bbox.size_x, first.bbox.size_y) == (4.0, 4.5, 6.0, 5.0)
    (said,) = first.results
    assert (said.hypothesis.class_id, said.hypothesis.score) == ("first", 0.75)


def test_overlay_is_a_jpeg_of_the_image():
    message = pictures.scene_to_overlay(scene(64, 96), 70)
    assert (message.format, message.header.frame_id) == ("jpeg", "cam")
    assert conversions.compressed_to_frame(message).rgb.shape == (64, 96, 3)


def test_rgb_image_is_viewed_not_copied_and_outlives_its_message():
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    message = Image(height=4, width=6, step=18, encoding="rgb8")
    message.data = pixels.tobytes()
    message.header.frame_id = "cam"
    frame = conversions.image_to_frame(message)
    assert np.shares_memory(frame.rgb, np.frombuffer(message.data, np.uint8))
    del message
    np.testing.assert_array_equal(frame.rgb, pixels)
    assert frame.frame_id == "cam"


@pytest.mark.parametrize(
    ("fields", "data"),
    [
        ({"height": 4, "width": 4, "step": 12, "encoding": "rgb8"}, bytes(47)),
        ({"height": 4, "width": 4, "step": 12, "encoding": "rainbow"}, bytes(48)),
        ({"height": 0, "width": 0, "step": 0, "encoding": "rgb8"}, b""),
    ],
    ids=["truncated", "unknown encoding", "0x0"],
)
def test_bad_image_is_an_image_error(fields, data):
    message = Image(**fields)
    message.data = data
    with pytest.raises(ImageError):
        conversions.image_to_frame(message)


def test_compressed_image_becomes_a_frame():
    message = CompressedImage(format="jpeg", data=encode_jpeg(np.full((8, 16, 3), 200, np.uint8)))
    message.header.stamp = conversions.ns_to_stamp(42)
    frame = conversions.compressed_to_frame(message)
    assert frame.rgb.shape == (8, 16, 3) and frame.stamp_ns == 42
