# SPDX-License-Identifier: Apache-2.0
"""Perception without threads: what it tracks, what it looks at, and how it refuses."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref

import numpy as np
import pytest
from perception_parts import HEIGHT, PERIOD_NS, WIDTH, CountingLanguage, box_region, frame, question

from pixelrefer_ros.errors import EmptyRegion, NoFrame, NoSuchObject, Overloaded
from pixelrefer_ros.perception import Perception, PerceptionSettings
from pixelrefer_ros.tracking import StaticTracker
from pixelrefer_ros.types import AnswerStatus, Frame, Region, Track, TrackState


class Vanishing(StaticTracker):
    """Tracks like StaticTracker until told that an object is hidden or lost."""

    def __init__(self) -> None:
        super().__init__()
        self.states: dict[int, TrackState] = {}

    def track(self, frame: Frame) -> list[Track]:
        gone = np.zeros(frame.rgb.shape[:2], bool)
        return [
            Track(t.object_id, self.states[t.object_id], 0.0, gone, None, 0)
            if t.object_id in self.states
            else t
            for t in super().track(frame)
        ]


@pytest.fixture
def language(tiny_model_folder):
    return CountingLanguage(tiny_model_folder)


@pytest.fixture
def tracker():
    return Vanishing()


@pytest.fixture
def perception(language, tracker):
    return Perception(language, tracker, PerceptionSettings(max_objects=3, history_frames=8))


def seen_in(perception, frames):
    """An object that so many frames show."""
    perception.observe(frame(0))
    object_id = perception.add_region(box_region())
    for index in range(1, frames):
        perception.observe(frame(index))
    return object_id


def test_core_and_perception_import_without_ros_or_torch():
    code = (
        "import sys; sys.modules['rclpy'] = None; sys.modules['rosidl_parser'] = None;"
        "import pixelrefer_ros.perception; assert 'rclpy.node' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_answer_carries_the_stamp_frame_and_object_asked_for(perception):
    perception.observe(frame(0))
    first, second = perception.add_region(box_region()), perception.add_region(box_region(40))
    newest = frame(1)
    scene = perception.observe(newest)
    assert [o.track.object_id for o in scene.objects] == [first, second] and first != second
    heard = []
    answer = perception.answer(question(second, id="q7"), on_text=lambda text, n: heard.append((text, n)))
    assert answer.status in (AnswerStatus.OK, AnswerStatus.TRUNCATED), answer.error
    assert (answer.question.id, answer.question.object_ids) == ("q7", (second,))
    assert (answer.stamp_ns, answer.frame_id) == (newest.stamp_ns, newest.frame_id)
    assert 1 <= answer.tokens <= 3 and 0 < answer.confidence <= 1
    assert 0 < answer.time_to_first_token_s <= answer.total_time_s
    assert answer.model.endswith("@" + perception._model.content_hash[:12])
    if answer.text:
        assert heard[-1][0].strip() == answer.text and heard[-1][1] <= answer.tokens


def test_a_question_straight_after_a_region_needs_no_new_frame(perception):
    perception.observe(frame(0))
    object_id = perception.add_region(box_region())
    answer = perception.answer(question(object_id))
    assert answer.status in (AnswerStatus.OK, AnswerStatus.TRUNCATED), answer.error
    assert [o.track.object_id for o in perception.scene().objects] == [object_id]


def test_global_features_are_computed_once_a_frame_and_tokens_once_an_object(perception, language):
    perception.observe(frame(0))
    ids = [perception.add_region(box_region(x)) for x in (0, 30, 60)]
    perception.observe(frame(1))
    for object_id in ids * 2:
        perception.answer(question(object_id))
    perception.answer(question(*ids))
    assert language.calls == {"global": 1, "object": 3}
    perception.observe(frame(2))
    perception.answer(question(ids[0]))
    assert language.calls == {"global": 2, "object": 4}


def test_a_correction_on_the_same_frame_replaces_the_tokens(perception, language):
    perception.observe(frame(0))
    object_id = perception.add_region(box_region())
    perception.answer(question(object_id))
    perception.add_region(box_region(50, object_id=object_id))
    perception.answer(question(object_id))
    assert language.calls["object"] == 2
    assert language.masks[1][30, 60] and not language.masks[1][30, 10]


def test_after_a_correction_questions_look_at_nothing_from_before_it(perception, language):
    perception.observe(frame(0))
    object_id = perception.add_region(box_region())
    for i in range(5):
        perception.observe(frame(i + 1))
    perception.add_region(box_region(50, object_id=object_id, stamp_ns=frame(4).stamp_ns))
    answer = perception.answer(question(object_id))
    assert answer.frame_stamps_ns == (frame(4).stamp_ns,), "where it was corrected, not the frame after"
    perception.observe(frame(6))
    answer = perception.answer(question(object_id, frames=6))
    assert answer.frame_stamps_ns == tuple(frame(i).stamp_ns for i in (4, 6))
    assert all(mask[30, 60] and not mask[30, 10] for mask in language.masks)


def test_an_object_is_found_where_it_was_corrected_while_that_frame_is_still_tracked(perception, tracker):
    perception.observe(frame(0))
    object_id = perception.add_region(box_region())
    perception.observe(frame(1))
    prompt, track, answers = tracker.prompt, tracker.track, []

    def corrected_while_regions_are_taken_in(*asked):
        tracker.prompt = prompt
        perception.add_region(box_region(50, object_id=object_id))
        return prompt(*asked)

    def asked_while_tracked(now):
        answers.append(perception.answer(question(object_id)))
        return track(now)

    tracker.prompt, tracker.track = corrected_while_regions_are_taken_in, asked_while_tracked
    perception.add_region(box_region(30))
    perception.observe(frame(2))
    assert answers[0].frame_stamps_ns == (frame(2).stamp_ns,), answers[0].error


def test_frames_are_spread_over_the_history_with_times_from_the_first(perception, language):
    perception.observe(frame(0))
    object_id = perception.add_region(box_region())
    for i in range(1, 7):
        perception.observe(frame(i))
    answer = perception.answer(question(object_id, frames=3, history_s=0.4))
    assert answer.frame_stamps_ns == tuple(frame(i).stamp_ns for i in (2, 4, 6))
    assert language.times == [[0.0, pytest.approx(0.2), pytest.approx(0.4)]]


def test_a_hidden_object_is_looked_at_where_it_was_seen_last(perception, tracker):
    perception.observe(frame(0))
    object_id = perception.add_region(box_region())
    perception.observe(frame(1))
    tracker.states[object_id] = TrackState.OCCLUDED
    perception.observe(frame(2))
    answer = perception.answer(question(object_id))
    assert answer.stamp_ns == frame(1).stamp_ns and answer.tokens > 0


def test_a_lost_object_is_refused_with_what_to_do(perception, tracker):
    perception.observe(frame(0))
    object_id = perception.add_region(box_region())
    perception.observe(frame(1))
    tracker.states[object_id] = TrackState.LOST
    perception.observe(frame(2))
    answer = perception.answer(question(object_id))
    assert answer.status is AnswerStatus.OBJECT_LOST and f"object {object_id}" in answer.error
    assert "correct it" in answer.error and answer.tokens == 0


def test_a_comparison_looks_at_a_frame_that_shows_both(perception, tracker):
    perception.observe(frame(0))
    a, b = perception.add_region(box_region()), perception.add_region(box_region(50))
    perception.observe(frame(1))
    tracker.states[b] = TrackState.OCCLUDED
    perception.observe(frame(2))
    answer = perception.answer(question(a, b, text="Is <region> left of <region>?"))
    assert answer.frame_stamps_ns == (frame(1).stamp_ns,)


@pytest.mark.parametrize(
    ("asked", "status", "said"),
    [
        (question(99), AnswerStatus.NO_SUCH_OBJECT, "99"),
        (question(), AnswerStatus.BAD_QUESTION, "0 objects"),
        (question(*[1] * 17), AnswerStatus.BAD_QUESTION, "17 objects"),
        (question(1, text="x" * 2001), AnswerStatus.BAD_QUESTION, "2001 characters"),
        (question(1, text=" "), AnswerStatus.BAD_QUESTION, "no words"),
        (question(1, text="Is <region> above <region>?"), AnswerStatus.BAD_QUESTION, "2 <region> for 1"),
        (question(1, frames=9), AnswerStatus.BAD_QUESTION, "9 frames"),
        (question(1, history_s=float("nan")), AnswerStatus.BAD_QUESTION, "history"),
        (question(1, max_tokens=5000), AnswerStatus.BAD_QUESTION, "5000"),
    ],
)
def test_a_question_that_cannot_be_asked_gets_a_status_that_says_why(perception, asked, status, said):
    perception.observe(frame(0))
    perception.add_region(box_region())
    answer = perception.answer(asked)
    assert (answer.status, answer.text, answer.tokens) == (status, "", 0)
    assert said in answer.error
    assert perception.answer(question(1)).tokens > 0, "the next good question is answered"


def test_before_the_first_image_everything_says_so(perception):
    assert perception.scene() is None
    assert perception.answer(question(1)).status is AnswerStatus.NO_FRAME
    with pytest.raises(NoFrame, match="no image has arrived"):
        perception.add_region(box_region())


def test_a_fault_of_the_model_is_an_answer_and_the_next_question_is_answered(
    perception, language, monkeypatch
):
    perception.observe(frame(0))
    object_id = perception.add_region(box_region())

    def broken(*_: object) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(language, "encode_object", broken)
        answer = perception.answer(question(object_id))
    assert answer.status is AnswerStatus.INTERNAL_ERROR and "out of memory" in answer.error
    assert perception.answer(question(object_id)).tokens > 0


def mask_region(*size: int, on: bool = True) -> Region:
    return Region(mask=np.full(size, on))


@pytest.mark.parametrize(
    ("region", "said"),
    [
        (Region(), "none of them"),
        (Region(box=box_region().box, mask=np.ones((HEIGHT, WIDTH), bool)), "box and mask"),
        (box_region(size=0), "no area"),
        (box_region(WIDTH), "outside"),
        (box_region(-30), "outside"),
        (mask_region(HEIGHT, WIDTH, on=False), "empty"),
        (mask_region(HEIGHT + 1, WIDTH), "size"),
        (Region(points=np.array([[WIDTH, 3]], np.float32), point_labels=np.array([1])), "outside"),
        (Region(points=np.array([[np.nan, 3]], np.float32), point_labels=np.array([1])), "outside"),
        (Region(points=np.array([[1, 3]], np.float32), point_labels=np.array([0])), "on the object"),
        (Region(points=np.array([[1, 3]], np.float32), point_labels=np.array([1, 0])), "2 labels"),
        (Region(points=np.array([[1, 3]], np.float32), point_labels=np.array([2])), "[2]"),
    ],
)
def test_a_region_that_points_at_nothing_is_refused_at_once(perception, region, said):
    perception.observe(frame(0))
    with pytest.raises(EmptyRegion) as refused:
        perception.add_region(region)
    assert said in str(refused.value)
    assert perception.observe(frame(1)).objects == ()


def test_a_question_that_nobody_wants_any_more_is_looked_at_no_further(perception, language):
    object_id = seen_in(perception, frames=4)
    answer = perception.answer(question(object_id, frames=4), cancelled=lambda: language.calls["object"] == 2)
    assert answer.status is AnswerStatus.CANCELLED
    assert language.calls == {"global": 2, "object": 2}


def test_a_region_only_the_tracker_can_refuse_is_explained_to_who_asks(perception):
    perception.observe(frame(0))
    points = Region(points=np.array([[10, 30]], np.float32), point_labels=np.array([1], np.int32))
    object_id = perception.add_region(points)  # StaticTracker takes no points
    refused = []
    perception.on_refused = lambda *told: refused.append(told)
    good = perception.add_region(box_region())
    assert [o.track.object_id for o in perception.observe(frame(1)).objects] == [good]
    answer = perception.answer(question(object_id))
    assert answer.status is AnswerStatus.EMPTY_REGION and answer.error
    ((refused_id, error),) = refused
    assert refused_id == object_id
    assert answer.error == (
        f"{error}; object {object_id} never began: give its region as that of a new one (object_id 0)"
    )


def test_a_refusal_keeps_no_picture_and_is_told_anew_to_everyone_who_asks(perception):
    perception.on_refused = lambda *_: None  # the test's log would keep the error
    perception.observe(frame(0))
    drawn_on = frame(1)
    points = Region(points=np.array([[10, 30]], np.float32), point_labels=np.array([1], np.int32))
    object_id = perception.add_region(points, drawn_on)
    perception.apply_regions()
    picture = weakref.ref(drawn_on.rgb)
    del drawn_on
    gc.collect()
    assert picture() is None
    told = []
    for _ in range(3):
        with pytest.raises(EmptyRegion) as refused:
            perception.add_region(box_region(object_id=object_id))
        told.append(len(refused.traceback))
    assert len(set(told)) == 1, "its traceback does not grow"


def test_a_correction_the_tracker_refuses_is_told_and_leaves_the_object_as_it_was(perception):
    perception.observe(frame(0))
    object_id = perception.add_region(box_region())
    perception.observe(frame(1))
    refused = []
    perception.on_refused = lambda *told: refused.append(told)
    points = np.array([[60, 30]], np.float32)
    perception.add_region(Region(points=points, point_labels=np.array([1], np.int32), object_id=object_id))
    scene = perception.observe(frame(2))
    assert [told[0] for told in refused] == [object_id]
    assert scene.objects[0].track.box == box_region().box


def test_a_fault_while_a_region_is_taken_in_is_told_and_spoils_nothing_else(language):
    class Full(StaticTracker):
        def prompt(self, frame, regions):
            if regions[0].label == "too much":
                raise RuntimeError("out of memory")
            return super().prompt(frame, regions)

    perception = Perception(language, Full(), PerceptionSettings(max_objects=2))
    refused = []
    perception.on_refused = lambda *told: refused.append(told[0])
    perception.observe(frame(0))
    good = perception.add_region(box_region())
    bad = perception.add_region(box_region(40, label="too much"))
    correction = box_region(40, object_id=good, label="too much")
    perception.add_region(correction)
    assert [o.track.object_id for o in perception.observe(frame(1)).objects] == [good]
    assert refused == [bad, good]
    answer = perception.answer(question(bad))
    assert answer.status is AnswerStatus.INTERNAL_ERROR
    assert "out of memory" in answer.error and "send it again" in answer.error
    assert perception.answer(question(good)).tokens > 0, "nothing of it waits any more"
    assert perception.add_region(box_region(60)), "its place is free"
    with pytest.raises(NoSuchObject, match=f"object {bad}"):
        perception.remove_object(bad)


def test_objects_added_and_removed_without_a_camera_leave_nothing_behind(perception, tracker):
    perception.observe(frame(0))
    for _ in range(50):
        perception.remove_object(perception.add_region(box_region()))
    assert not perception._waiting
    kept = perception.add_region(box_region())
    assert [o.track.object_id for o in perception.observe(frame(1)).objects] == [kept]
    assert tracker.object_ids == (kept,)


def test_more_objects_than_allowed_are_refused_until_one_is_removed(perception):
    perception.observe(frame(0))
    ids = [perception.add_region(box_region(x)) for x in (0, 20, 40)]
    with pytest.raises(Overloaded, match="max_objects"):
        perception.add_region(box_region(60))
    perception.remove_object(ids[0])
    replacement = perception.add_region(box_region(60))
    assert replacement not in ids, "ids are never used again"
    assert [o.track.object_id for o in perception.observe(frame(1)).objects] == [*ids[1:], replacement]


def test_ids_go_on_where_another_perception_ended(perception):
    perception.next_object_id = 7
    perception.observe(frame(0))
    assert perception.add_region(box_region()) == 7
    perception.next_object_id = 2  # never back
    assert perception.next_object_id == 8


def test_a_removed_object_is_gone_at_once(perception, tracker):
    perception.observe(frame(0))
    object_id = perception.add_region(box_region())
    perception.observe(frame(1))
    perception.remove_object(object_id)
    assert perception.scene().objects == ()
    assert perception.answer(question(object_id)).status is AnswerStatus.NO_SUCH_OBJECT
    perception.observe(frame(2))
    assert tracker.object_ids == ()
    with pytest.raises(NoSuchObject):
        perception.remove_object(object_id)


def test_clear_forgets_objects_and_the_regions_that_wait(perception):
    perception.observe(frame(0))
    perception.add_region(box_region())
    perception.observe(frame(1))
    perception.add_region(box_region(40))
    perception.clear()
    assert perception.observe(frame(2)).objects == ()


def test_a_late_region_is_drawn_on_the_frame_it_names(perception, language):
    for i in range(5):
        perception.observe(frame(i))
    object_id = perception.add_region(box_region(stamp_ns=frame(2).stamp_ns))
    answer = perception.answer(question(object_id))
    assert answer.stamp_ns == frame(2).stamp_ns
    with pytest.raises(NoFrame, match="remembered"):
        perception.add_region(box_region(stamp_ns=frame(0).stamp_ns - 2 * PERIOD_NS))


def test_a_clock_set_back_forgets_the_frames_before_it(perception):
    perception.observe(frame(8))
    object_id = perception.add_region(box_region())
    perception.observe(frame(9))
    perception.observe(frame(0))  # the bag starts over
    answer = perception.answer(question(object_id, frames=4))
    assert answer.frame_stamps_ns == (frame(0).stamp_ns,)
