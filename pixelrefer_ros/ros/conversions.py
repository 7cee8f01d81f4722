# SPDX-License-Identifier: Apache-2.0
"""Messages to the package's values and back: pure functions, without a node."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import Point, PointStamped
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage, Image, RegionOfInterest
from std_msgs.msg import Header

import pixelrefer_ros.msg as msg
from pixelrefer_ros.errors import BadQuestion, EmptyRegion, ImageError, PixelReferError
from pixelrefer_ros.images import decode_compressed, message_to_rgb, to_mask
from pixelrefer_ros.types import (
    MAX_OBJECTS_PER_QUESTION,
    MAX_POINTS,
    NANOSECONDS,
    Answer,
    AnswerStatus,
    Box,
    Frame,
    Question,
    Region,
    Scene,
    TrackedObject,
)

_INT32_MAX = 2**31 - 1


def stamp_to_ns(stamp: Time) -> int:
    """A stamp as integer nanoseconds."""
    return int(stamp.sec) * NANOSECONDS + int(stamp.nanosec)


def ns_to_stamp(stamp_ns: int) -> Time:
    """Integer nanoseconds as a stamp."""
    seconds, nanoseconds = divmod(stamp_ns, NANOSECONDS)
    return Time(sec=seconds, nanosec=nanoseconds)


def duration_to_s(duration: Duration) -> float:
    """A duration in seconds; negative if the message is."""
    return int(duration.sec) + int(duration.nanosec) / NANOSECONDS


def s_to_duration(seconds: float) -> Duration:
    """Seconds as a duration, rounded to nanoseconds; what does not fit becomes the longest one there is."""
    whole, nanoseconds = divmod(round(seconds * NANOSECONDS), NANOSECONDS)
    if whole > _INT32_MAX:
        return Duration(sec=_INT32_MAX, nanosec=NANOSECONDS - 1)
    return Duration(sec=whole, nanosec=nanoseconds)


def header_of(frame: Frame) -> Header:
    """The header of the image that `frame` was made of."""
    return Header(stamp=ns_to_stamp(frame.stamp_ns), frame_id=frame.frame_id)


def image_to_frame(message: Image) -> Frame:
    """A camera image as a frame; its pixels are viewed, not copied, where the encoding allows it.

    Raises:
        ImageError: unknown encoding, too little data, no pixels, or too many.
    """
    return Frame(message_to_rgb(message), stamp_to_ns(message.header.stamp), message.header.frame_id)


def compressed_to_frame(message: CompressedImage) -> Frame:
    """A jpeg or png image as a frame.

    Raises:
        ImageError: another format, or data that does not decode.
    """
    rgb = decode_compressed(message.data, format=message.format)
    return Frame(rgb, stamp_to_ns(message.header.stamp), message.header.frame_id)


def roi_to_region(roi: RegionOfInterest) -> Region:
    """A box on the newest frame, starting a new object."""
    return Region(box=_box(roi))


def point_to_region(message: PointStamped) -> Region:
    """A click: one point on a new object, in the frame with the message's stamp (z is not used)."""
    points = _points([message.point])
    return Region(
        points=points, point_labels=np.ones(1, np.int32), stamp_ns=stamp_to_ns(message.header.stamp)
    )


def to_region(message: msg.Region) -> Region:
    """A region as a value; what a message marks as absent is None.

    Whether it points at something is for perception to say, which knows the image.

    Raises:
        EmptyRegion: its mask image cannot be read.
    """
    mask = None
    if message.mask.width or message.mask.height or len(message.mask.data):
        image = message.mask
        try:
            mask = to_mask(
                image.data, encoding=image.encoding, width=image.width, height=image.height, step=image.step
            )
        except ImageError as error:
            raise EmptyRegion(f"the region's mask: {error}") from error
    has_points = len(message.points) > 0 or len(message.point_labels) > 0
    return Region(
        box=_box(message.box) if message.box.width else None,
        points=_points(message.points) if has_points else None,
        point_labels=np.array(message.point_labels, np.int32) if has_points else None,
        mask=mask,
        object_id=message.object_id,
        label=message.label,
        stamp_ns=stamp_to_ns(message.header.stamp),
    )


def region_to_msg(region: Region, frame_id: str = "") -> msg.Region:
    """A region as a message; the other way round from `to_region`.

    Raises:
        EmptyRegion: no message can hold it, or its box lies left of or above every image.
    """
    with _fitting(EmptyRegion, f"region: give at most {MAX_POINTS} points"):
        message = msg.Region(object_id=region.object_id, label=region.label)
        message.header = Header(stamp=ns_to_stamp(region.stamp_ns), frame_id=frame_id)
        if region.box is not None:
            message.box = _roi(region.box)
        if region.points is not None:
            message.points = [Point(x=float(x), y=float(y)) for x, y in region.points]
        if region.point_labels is not None:
            message.point_labels = [int(label) for label in region.point_labels]
        if region.mask is not None:
            height, width = region.mask.shape
            message.mask = Image(height=height, width=width, step=width, encoding="mono8")
            message.mask.data = np.where(region.mask, np.uint8(255), np.uint8(0)).tobytes()
        serialize_message(message)
    return message


def to_question(message: msg.Question) -> Question:
    """A question as a value.

    Raises:
        BadQuestion: its history is negative.
    """
    history_s = duration_to_s(message.history)
    if history_s < 0:
        raise BadQuestion(f"history is {history_s:g} s; give 0 or more seconds to look back")
    return Question(
        text=message.text,
        object_ids=tuple(int(i) for i in message.object_ids),
        id=message.id,
        frames=max(1, message.frames),
        history_s=history_s,
        max_tokens=message.max_tokens,
    )


def question_to_msg(question: Question) -> msg.Question:
    """A question as a message.

    Raises:
        BadQuestion: no message can hold it.
    """
    with _fitting(BadQuestion, f"question: name at most {MAX_OBJECTS_PER_QUESTION} objects"):
        message = msg.Question(
            id=question.id,
            object_ids=list(question.object_ids),
            text=question.text,
            frames=question.frames,
            history=s_to_duration(question.history_s),
            max_tokens=question.max_tokens,
        )
        serialize_message(message)
    return message


def answer_to_msg(answer: Answer) -> msg.Answer:
    """An answer as a message."""
    return msg.Answer(
        header=Header(stamp=ns_to_stamp(answer.stamp_ns), frame_id=answer.frame_id),
        question_id=answer.question.id,
        object_ids=list(answer.question.object_ids),
        question=answer.question.text,
        text=answer.text,
        confidence=float(answer.confidence),
        frame_stamps=[ns_to_stamp(stamp) for stamp in answer.frame_stamps_ns],
        tokens=answer.tokens,
        time_to_first_token=s_to_duration(answer.time_to_first_token_s),
        total_time=s_to_duration(answer.total_time_s),
        model=answer.model,
        status=int(answer.status),
        error=answer.error,
    )


def to_answer(message: msg.Answer) -> Answer:
    """An answer as a value; of its question only what the message repeats is known."""
    question = Question(
        text=message.question,
        object_ids=tuple(int(i) for i in message.object_ids),
        id=message.question_id,
        frames=max(1, len(message.frame_stamps)),
    )
    return Answer(
        question=question,
        status=AnswerStatus(message.status),
        text=message.text,
        confidence=message.confidence,
        stamp_ns=stamp_to_ns(message.header.stamp),
        frame_id=message.header.frame_id,
        frame_stamps_ns=tuple(stamp_to_ns(stamp) for stamp in message.frame_stamps),
        tokens=message.tokens,
        time_to_first_token_s=duration_to_s(message.time_to_first_token),
        total_time_s=duration_to_s(message.total_time),
        model=message.model,
        error=message.error,
    )


def scene_to_objects(scene: Scene) -> msg.ObjectArray:
    """Every object of a scene, under the header of its image."""
    return msg.ObjectArray(header=header_of(scene.frame), objects=[_object(seen) for seen in scene.objects])


def _object(seen: TrackedObject) -> msg.Object:
    track = seen.track
    message = msg.Object(
        id=track.object_id,
        label=seen.label,
        state=int(track.state),
        score=float(track.score),
        area_px=int(track.area_px),
        first_seen=ns_to_stamp(seen.first_seen_ns),
        last_seen=ns_to_stamp(seen.last_seen_ns),
    )
    if track.box is not None:
        message.box = _roi(track.box)
    if seen.description is not None:
        message.description = seen.description.text
        message.description_stamp = ns_to_stamp(seen.description.stamp_ns)
        message.description_confidence = float(seen.description.confidence)
    return message


def _box(roi: RegionOfInterest) -> Box:
    return Box(int(roi.x_offset), int(roi.y_offset), int(roi.width), int(roi.height))


def _roi(box: Box) -> RegionOfInterest:
    """The box, cut at the image's left and upper edge: the message has no negative numbers."""
    x, y, width, height = int(box.x), int(box.y), int(box.width), int(box.height)
    left, top = max(x, 0), max(y, 0)
    right, bottom = x + width, y + height
    if (x < 0 and right <= 0) or (y < 0 and bottom <= 0):
        raise EmptyRegion(
            f"box x={x} y={y} width={width} height={height} lies outside of every image: give pixels of one"
        )
    return RegionOfInterest(x_offset=left, y_offset=top, width=right - left, height=bottom - top)


@contextlib.contextmanager
def _fitting(kind: type[PixelReferError], remedy: str) -> Iterator[None]:
    """Turn what cannot be sent into an error of the domain: else rclpy raises much later, each time another.

    What does not fit is found by Python's fields, by their conversion to C, or only by the serialiser.
    """
    try:
        yield
    except PixelReferError:
        raise
    except Exception as error:
        reason = error.__cause__ or error
        raise kind(
            f"no message can hold this {remedy}, whole numbers of 0 or more, and text in UTF-8 ({reason})"
        ) from error


def _points(points: list[Point]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    with np.errstate(over="ignore"):  # too large for a float32 is outside of every image: perception says so
        return np.array([(p.x, p.y) for p in points], np.float32).reshape(len(points), 2)
