# SPDX-License-Identifier: Apache-2.0
"""Camera, node and agent in processes of their own: what comes in, good and bad, and what goes out of it."""

from __future__ import annotations

import time

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("pixelrefer_ros.msg")
pytestmark = pytest.mark.ros
pytest_plugins = ["node_fixtures"]

import pixelrefer_ros.msg as msg  # noqa: E402
from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from geometry_msgs.msg import Point, PointStamped  # noqa: E402
from node_processes import Peer, add_when_seen, camera_process, node_process, until  # noqa: E402
from pixelrefer_ros.srv import AddRegion  # noqa: E402
from rcl_interfaces.msg import Parameter, ParameterDescriptor, ParameterType, ParameterValue  # noqa: E402
from rcl_interfaces.srv import DescribeParameters, GetParameters, SetParameters  # noqa: E402
from rclpy.qos import qos_profile_sensor_data  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image, RegionOfInterest  # noqa: E402
from std_srvs.srv import SetBool, Trigger  # noqa: E402

from pixelrefer_ros.errors import EmptyRegion, NoFrame, NoSuchObject, Overloaded  # noqa: E402
from pixelrefer_ros.parameters import SCHEMA  # noqa: E402
from pixelrefer_ros.ros.conversions import compressed_to_frame, region_to_msg  # noqa: E402
from pixelrefer_ros.types import AnswerStatus, Box, Region  # noqa: E402

WIDTH, HEIGHT = 160, 120
MAX_OBJECTS = 5
ANSWERED = (AnswerStatus.OK, AnswerStatus.TRUNCATED)


@pytest.fixture(scope="module")
def node(tiny_model_folder):
    parameters = {
        "model": str(tiny_model_folder),
        "tracker_model": "none",
        "max_objects": MAX_OBJECTS,
        "max_tokens": 3,
    }
    with node_process(parameters) as node, camera_process(width=WIDTH, height=HEIGHT):
        yield node


@pytest.fixture
def object_id(client):
    """One fresh object; whatever else there was is gone."""
    client.clear()
    object_id = add_when_seen(client, Region(box=Box(20, 30, 30, 30)))
    until(lambda: client.list_objects().objects)
    return object_id


def image(**fields) -> Image:
    """A good image, but for `fields`."""
    data = fields.pop("data", bytes(3 * WIDTH * HEIGHT))
    good = {"height": HEIGHT, "width": WIDTH, "step": 3 * WIDTH, "encoding": "rgb8"}
    message = Image(**{**good, **fields})
    message.data = data
    return message


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (image(data=bytes(3 * WIDTH * HEIGHT - 1)), "57599"),
        (image(encoding="rainbow"), "rainbow"),
        (image(height=0, width=0, step=0, data=b""), "0 x 0"),
    ],
    ids=["truncated", "unknown encoding", "0x0"],
)
def test_bad_image_is_refused_and_the_next_question_answered(node, client, peer, object_id, bad, told):
    publisher = peer.publisher(Image, "/image", qos_profile_sensor_data)
    diagnostics = peer.listen(DiagnosticArray, "/diagnostics")
    before, lines = refused_images(diagnostics.next()), len(node.lines)
    publisher.publish(bad)
    until(lambda: refused_images(diagnostics.next()) > before, what="the refusal to be counted")
    diagnostics.stop()
    peer.node.destroy_publisher(publisher)
    assert any("WARN" in line and "image refused" in line and told in line for line in node.lines[lines:])
    assert client.ask("What is <region>?", [object_id]).status in ANSWERED


def refused_images(message: DiagnosticArray) -> int:
    values = {pair.key: pair.value for pair in message.status[0].values}
    return int(values.get("image refused", 0))


def test_bad_images_at_camera_rate_give_one_line_with_their_count(node, client, peer, object_id):
    publisher = peer.publisher(Image, "/image", qos_profile_sensor_data)
    lines = len(node.lines)
    for _ in range(40):
        publisher.publish(image(encoding="bgr9"))
        time.sleep(0.01)
    until(lambda: "bgr9" in node.output)
    peer.node.destroy_publisher(publisher)
    assert client.ask("What is <region>?", [object_id]).status in ANSWERED
    # One line per reason and five seconds: these took less than one period.
    assert sum("bgr9" in line for line in node.lines[lines:]) == 1


@pytest.mark.parametrize(
    ("region", "told"),
    [
        (msg.Region(), "none"),
        (msg.Region(box=RegionOfInterest(x_offset=5, y_offset=5, width=3, height=0)), "area"),
        (msg.Region(box=RegionOfInterest(x_offset=WIDTH, y_offset=0, width=9, height=9)), "outside"),
        (msg.Region(box=RegionOfInterest(x_offset=2**32 - 1, width=2**32 - 1, height=2**32 - 1)), "outside"),
        (msg.Region(points=[Point(x=-1.0, y=5.0)], point_labels=[1]), "outside"),
        (msg.Region(points=[Point(x=float("nan"), y=5.0)], point_labels=[1]), "outside"),
        (msg.Region(points=[Point(x=1e300, y=5.0)], point_labels=[1]), "outside"),
        (msg.Region(points=[Point(x=5.0, y=5.0)], point_labels=[1, 0]), "label"),
        (msg.Region(points=[Point(x=5.0, y=5.0)], point_labels=[7]), "label"),
        (region_to_msg(Region(mask=np.zeros((HEIGHT, WIDTH), bool))), "empty"),
        (region_to_msg(Region(mask=np.ones((HEIGHT, WIDTH - 1), bool))), "size"),
        (msg.Region(mask=image(encoding="mono8", step=WIDTH, data=b"\1")), "mask"),
        (
            region_to_msg(
                Region(
                    box=Box(1, 1, 5, 5), points=np.ones((1, 2), np.float32), point_labels=np.ones(1, np.int32)
                )
            ),
            "box and points",
        ),
    ],
    ids=[
        "nothing",
        "no area",
        "outside",
        "far outside",
        "point outside",
        "nan point",
        "huge point",
        "labels of another length",
        "label 7",
        "empty mask",
        "mask of another size",
        "truncated mask",
        "two kinds",
    ],
)
def test_region_that_points_at_nothing_gets_a_status_and_a_reason(client, peer, object_id, region, told):
    response = peer.call(AddRegion, "/pixelrefer/add_region", AddRegion.Request(region=region))
    assert (response.object_id, response.status) == (0, msg.Answer.EMPTY_REGION)
    assert told in response.error
    assert [seen.id for seen in client.list_objects().objects] == [object_id]


def test_region_the_tracker_refuses_is_told_to_whoever_asks(client, object_id):
    click = Region(points=np.ones((1, 2), np.float32), point_labels=np.ones(1, np.int32))
    clicked = client.add_region(click)  # without a tracker model, nobody knows what a point belongs to
    answer = client.ask("What is <region>?", [clicked])
    assert answer.status is AnswerStatus.EMPTY_REGION and "box" in answer.error


def test_correcting_or_removing_an_unknown_object_is_refused(client, object_id):
    with pytest.raises(NoSuchObject, match="4711"):
        client.add_region(Region(box=Box(1, 1, 9, 9), object_id=4711))
    with pytest.raises(NoSuchObject, match="4711"):
        client.remove_object(4711)


def test_region_on_a_forgotten_image_is_refused(client, object_id):
    with pytest.raises(NoFrame, match="stamp"):
        client.add_region(Region(box=Box(1, 1, 9, 9), stamp_ns=1))


def test_objects_are_bounded_and_removing_one_makes_room(client, object_id):
    ids = [object_id, *(client.add_region(Region(box=Box(9 * i, 9, 9, 9))) for i in range(1, MAX_OBJECTS))]
    assert len(set(ids)) == MAX_OBJECTS
    with pytest.raises(Overloaded, match=r"max_objects|5"):
        client.add_region(Region(box=Box(1, 1, 9, 9)))
    client.remove_object(ids[1])
    assert client.add_region(Region(box=Box(1, 1, 9, 9))) not in ids


def test_clear_forgets_every_object_and_their_ids_are_not_used_again(client, peer, object_id):
    assert peer.call(Trigger, "/pixelrefer/clear", Trigger.Request()).success
    assert not client.list_objects().objects
    assert client.ask("What is <region>?", [object_id]).status is AnswerStatus.NO_SUCH_OBJECT
    assert client.add_region(Region(box=Box(1, 1, 9, 9))) > object_id


def test_objects_are_started_by_box_topics(client, peer, object_id):
    objects = peer.listen(msg.ObjectArray, "/pixelrefer/objects")
    roi = peer.publisher(RegionOfInterest, "/pixelrefer/roi")
    regions = peer.publisher(msg.Region, "/pixelrefer/regions")
    roi.publish(RegionOfInterest(x_offset=1, y_offset=2, width=3, height=4))
    regions.publish(msg.Region(label="cup", box=RegionOfInterest(x_offset=5, y_offset=6, width=7, height=8)))
    found = objects.next(matching=lambda message: len(message.objects) == 3).objects
    objects.stop()
    boxes = {(o.box.x_offset, o.box.y_offset, o.box.width, o.box.height): o.label for o in found}
    assert boxes.keys() >= {(1, 2, 3, 4), (5, 6, 7, 8)} and boxes[5, 6, 7, 8] == "cup"


def test_refused_regions_from_topics_are_logged_with_the_reason(node, client, peer, object_id):
    roi = peer.publisher(RegionOfInterest, "/pixelrefer/roi")
    clicks = peer.publisher(PointStamped, "/pixelrefer/point")
    roi.publish(RegionOfInterest(x_offset=5000, y_offset=2, width=3, height=4))
    node.wait_for_line("box on ~/roi refused", 10.0)
    clicks.publish(PointStamped(point=Point(x=5000.0, y=1.0, z=3.0)))
    line = node.wait_for_line("click on ~/point refused", 10.0)
    assert "outside" in line and "5000" in line
    assert client.ask("What is <region>?", [object_id]).status in ANSWERED


def test_masks_are_published_to_subscribers_only_and_hold_object_ids(client, peer, object_id):
    assert peer.node.count_publishers("/pixelrefer/masks") == 1
    masks = peer.listen(Image, "/pixelrefer/masks")
    message = masks.next()
    masks.stop()
    labels = np.frombuffer(message.data, "<u2").reshape(message.height, message.width)
    assert (message.encoding, message.header.frame_id) == ("16UC1", "camera_optical")
    assert set(np.unique(labels)) == {0, object_id}
    assert (labels == object_id).sum() == 900 and labels[30, 20] == object_id


def test_overlay_is_a_picture_of_the_image(peer, object_id):
    overlay = peer.listen(CompressedImage, "/pixelrefer/overlay/compressed")
    message = overlay.next()
    overlay.stop()
    assert compressed_to_frame(message).rgb.shape == (HEIGHT, WIDTH, 3)
    assert message.header.frame_id == "camera_optical"


def test_diagnostics_tell_rates_latencies_queue_memory_and_model(client, peer, object_id):
    client.ask("What is <region>?", [object_id])
    heard = peer.listen(DiagnosticArray, "/diagnostics")

    def measured(message: DiagnosticArray) -> bool:
        values = {pair.key: pair.value for pair in message.status[0].values}
        return "answer_p50_ms" in values and min(float(values[k]) for k in ("input_fps", "tracked_fps")) > 0

    status = heard.next(matching=measured).status[0]
    heard.stop()
    values = {pair.key: pair.value for pair in status.values}
    assert status.name.startswith("/pixelrefer")
    for key in (
        "convert_p50_ms",
        "track_p50_ms",
        "track_p99_ms",
        "frames_dropped",
        "questions_waiting",
        "memory_mb",
    ):
        assert float(values[key]) >= 0, key
    assert "pixelrefer-tiny" in values["model"]
    assert values["backend"] == "torch cpu float32", "what was chosen, where `auto` was asked for"


def test_switched_off_node_refuses_and_switched_on_again_keeps_its_objects(client, peer, object_id):
    reply = peer.call(SetBool, "/pixelrefer/set_enabled", SetBool.Request(data=False))
    assert reply.success
    refusal = client.ask("What is <region>?", [object_id])
    assert refusal.status is AnswerStatus.NO_FRAME and "set_enabled" in refusal.error
    with pytest.raises(NoFrame, match="set_enabled"):
        client.add_region(Region(box=Box(1, 1, 9, 9)))
    client.set_enabled(True)
    assert client.ask("What is <region>?", [object_id]).status in ANSWERED
    objects = peer.listen(msg.ObjectArray, "/pixelrefer/objects")
    assert [seen.id for seen in objects.next().objects] == [object_id]
    objects.stop()


def set_parameter(peer: Peer, name: str, value: object):
    """The node's own result of setting one parameter."""
    kind = {
        int: ("integer_value", ParameterType.PARAMETER_INTEGER),
        float: ("double_value", ParameterType.PARAMETER_DOUBLE),
        str: ("string_value", ParameterType.PARAMETER_STRING),
        bool: ("bool_value", ParameterType.PARAMETER_BOOL),
    }[type(value)]
    given = Parameter(name=name, value=ParameterValue(type=kind[1], **{kind[0]: value}))
    request = SetParameters.Request(parameters=[given])
    return peer.call(SetParameters, "/pixelrefer/set_parameters", request).results[0]


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("max_tokens", 0, "max_tokens"),
        ("max_tokens", "many", "type"),
        ("track_rate", -1.0, "track_rate"),
        ("find_again_score", 0.3, "0.0, or from 0.5 to 1.0"),
        ("describe_new_objects", "x" * 2001, "2000"),
        ("model", "another", "configured"),
        ("max_objects", 3, "configured"),
        ("autostart", False, "read-only"),
    ],
)
def test_bad_parameter_is_rejected_with_the_reason_and_changes_nothing(peer, node, name, value, told):
    request = GetParameters.Request(names=[name])
    before = peer.call(GetParameters, "/pixelrefer/get_parameters", request).values
    result = set_parameter(peer, name, value)
    assert not result.successful and told in result.reason
    assert peer.call(GetParameters, "/pixelrefer/get_parameters", request).values == before


def test_changed_parameters_take_effect_at_once(client, peer, object_id):
    assert set_parameter(peer, "max_tokens", 1).successful
    assert client.ask("What is <region>?", [object_id]).tokens <= 1
    assert set_parameter(peer, "max_tokens", 3).successful
    assert set_parameter(peer, "track_rate", 1).successful  # a whole number is taken for a float
    assert set_parameter(peer, "track_rate", 0.0).successful


def test_new_objects_are_described_once_the_question_is_set(client, peer, object_id):
    answers = peer.listen(msg.Answer, "/pixelrefer/answers", 50)
    until(lambda: peer.node.count_publishers("/pixelrefer/answers"))
    assert set_parameter(peer, "describe_new_objects", "What is <region>?").successful
    described = until(lambda: [o for o in client.list_objects().objects if o.description])
    assert set_parameter(peer, "describe_new_objects", "").successful
    assert described[0].id == object_id and described[0].description_stamp.sec > 0
    until(lambda: [a for a in answers.messages if list(a.object_ids) == [object_id]])
    answers.stop()


def test_descriptors_tell_bounds_and_meaning_of_every_parameter(peer, node):
    names = [parameter.name for parameter in SCHEMA]
    request = DescribeParameters.Request(names=names)
    described = peer.call(DescribeParameters, "/pixelrefer/describe_parameters", request).descriptors
    by_name: dict[str, ParameterDescriptor] = {descriptor.name: descriptor for descriptor in described}
    for parameter in SCHEMA:
        descriptor = by_name[parameter.name]
        assert descriptor.description.startswith(parameter.description)
        assert descriptor.read_only is parameter.read_only
        if parameter.minimum is not None:
            (bounds,) = descriptor.integer_range or descriptor.floating_point_range
            least = parameter.minimum if parameter.off is None else parameter.off
            assert (bounds.from_value, bounds.to_value) == (least, parameter.maximum)


def test_garbage_on_the_wire_does_not_end_the_node(client, peer, object_id):
    questions = peer.publisher(msg.Question, "/pixelrefer/questions")
    images = peer.publisher(Image, "/image", qos_profile_sensor_data)
    for garbage in (b"\x00\x01\x00\x00" + b"\xff" * 64, b"\x00\x01\x00\x00"):
        questions.publish(garbage)
        images.publish(garbage)
    peer.node.destroy_publisher(images)
    assert client.ask("What is <region>?", [object_id]).status in ANSWERED
    answers = peer.listen(msg.Answer, "/pixelrefer/answers", 50)
    until(lambda: peer.node.count_publishers("/pixelrefer/answers"))
    questions.publish(msg.Question(id="after", text="What?", object_ids=[object_id]))
    until(lambda: [a for a in answers.messages if a.question_id == "after"])
    answers.stop()


def test_nothing_failed_inside_the_node(node, client):
    client.list_objects()
    assert "Traceback" not in node.output and "a callback failed" not in node.output


def test_empty_region_error_reaches_the_agent_as_an_exception(client, object_id):
    with pytest.raises(EmptyRegion, match="outside"):
        client.add_region(Region(box=Box(WIDTH + 10, 5, 9, 9)))
