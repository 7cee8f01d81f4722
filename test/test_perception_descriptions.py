# SPDX-License-Identifier: Apache-2.0
"""When an object is described unasked."""

from __future__ import annotations

from dataclasses import replace

import pytest
from perception_parts import CountingLanguage, box_region, frame, question

from pixelrefer_ros.perception import Perception, PerceptionSettings
from pixelrefer_ros.tracking import StaticTracker
from pixelrefer_ros.types import AnswerStatus


@pytest.fixture
def describing(tiny_model_folder):
    """Perception that describes new objects once, and has seen its first."""
    settings = PerceptionSettings(describe_question="Describe <region>.", max_tokens=3)
    perception = Perception(CountingLanguage(tiny_model_folder), StaticTracker(), settings)
    perception.observe(frame(0))
    perception.add_region(box_region())
    return perception


def set_period(perception, seconds):
    perception.settings = replace(perception.settings, describe_period_s=seconds)


def test_a_new_object_is_described_once_and_again_after_the_period(describing):
    set_period(describing, 0.3)
    assert describing.next_to_describe() is None, "not tracked yet"
    (seen,) = describing.observe(frame(1)).objects
    object_id = seen.track.object_id
    assert describing.next_to_describe() == object_id
    answer = describing.describe(object_id)
    described = describing.scene().objects[0].description
    assert (described.text, described.stamp_ns) == (answer.text, frame(1).stamp_ns)
    assert describing.next_to_describe() is None
    describing.observe(frame(3))
    assert describing.next_to_describe() is None
    describing.observe(frame(4))
    assert describing.next_to_describe() == object_id


def test_a_changed_period_holds_for_what_was_described_before(describing):
    describing.observe(frame(1))
    describing.describe(1)
    describing.observe(frame(20))
    assert describing.next_to_describe() is None, "once only"
    set_period(describing, 0.5)
    assert describing.next_to_describe() == 1
    set_period(describing, 60.0)
    assert describing.next_to_describe() is None


def test_a_description_that_failed_is_tried_again_after_a_second(describing, monkeypatch):
    describing.observe(frame(1))

    def broken(*_: object) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(describing._model, "encode_object", broken)
        assert describing.describe(1).status is AnswerStatus.INTERNAL_ERROR
    describing.observe(frame(10))
    assert describing.next_to_describe() is None
    describing.observe(frame(11))
    assert describing.next_to_describe() == 1


def test_a_correction_is_described_anew(describing):
    describing.observe(frame(1))
    describing.describe(1)
    describing.add_region(box_region(50, object_id=1))
    describing.observe(frame(2))
    assert describing.next_to_describe() == 1


def test_a_description_of_what_was_corrected_meanwhile_is_not_kept(describing, monkeypatch):
    describing.observe(frame(1))
    encode = describing._model.encode_object

    def corrected_meanwhile(*views):
        monkeypatch.setattr(describing._model, "encode_object", encode)
        describing.add_region(box_region(50, object_id=1))
        describing.apply_regions()
        return encode(*views)

    monkeypatch.setattr(describing._model, "encode_object", corrected_meanwhile)
    answer = describing.describe(1)
    assert answer.status is AnswerStatus.CANCELLED and "corrected" in answer.error
    assert describing.scene().objects[0].description is None
    assert describing.next_to_describe() == 1
    assert describing.describe(1).text == describing.scene().objects[0].description.text


def test_a_correction_that_waits_when_a_description_begins_is_what_is_described(describing):
    describing.observe(frame(1))
    describing.add_region(box_region(50, object_id=1))
    describing.describe(1)
    assert describing.scene().objects[0].description is not None
    assert describing._model.masks[0][30, 60] and not describing._model.masks[0][30, 10]
    assert describing.next_to_describe() is None


def test_an_image_that_comes_late_leaves_the_times_seen(describing):
    (before,) = describing.observe(frame(2)).objects
    (seen,) = describing.observe(frame(1)).objects
    assert frame(2).stamp_ns - frame(1).stamp_ns < 1_000_000_000
    assert (seen.first_seen_ns, seen.last_seen_ns) == (before.first_seen_ns, frame(2).stamp_ns)


def test_a_clock_set_back_delays_no_description_and_moves_the_times_seen(describing):
    set_period(describing, 0.5)
    late = 300_000_000_000
    describing.observe(frame(0, first_ns=late))
    describing.describe(1)
    (seen,) = describing.observe(frame(1)).objects  # the bag starts over
    assert (seen.first_seen_ns, seen.last_seen_ns) == (frame(1).stamp_ns,) * 2
    assert describing.next_to_describe() is None
    describing.observe(frame(6))
    assert describing.next_to_describe() == 1
    assert describing.answer(question(1)).tokens > 0
