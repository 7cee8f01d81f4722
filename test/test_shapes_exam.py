# SPDX-License-Identifier: Apache-2.0
"""The demo's exam on the shapes world: what it asks, when it asks it, and what it counts as right."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "demo"))

from exam import PLAN, VIDEO_FRAMES, Asked, Exam, Step
from scenes import SHAPES, find_shapes

from pixelrefer_ros import model_source
from pixelrefer_ros.model_source import SHIPPED_MODEL, SHIPPED_TRACKER, TINY_RANDOM, embedded_models
from pixelrefer_ros.training.world import EPOCH_NS, KINDS, Renderer, Sight, cast_scene, split_of
from pixelrefer_ros.training.world.course import choose_views
from pixelrefer_ros.types import Answer, AnswerStatus, Question

STEP_NS = 100_000_000
HIDING = Step(("hidden_when",), returned=True)


@pytest.fixture(scope="module")
def exam() -> Exam:
    return Exam(Sight(Renderer(cast_scene(find_shapes(0), SHAPES))))


def stamps(views) -> tuple[int, ...]:
    return tuple(EPOCH_NS + index * STEP_NS for index in views)


def answered(asked: Asked, text: str, views=None) -> Answer:
    looked_at = stamps(asked.draft.views if views is None else views)
    question = Question(asked.draft.question, tuple(asked.draft.objects))
    return Answer(question, AnswerStatus.OK, text, stamp_ns=looked_at[-1], frame_stamps_ns=looked_at)


def questions(exam: Exam, every: int = 3) -> list[Asked]:
    """Everything the exam may ask of a scene, at times all over it."""
    since = dict.fromkeys(exam.in_view(0), 0)
    found = [
        exam.question(step, index, since, index)
        for step in PLAN
        for index in range(0, exam.sight.scene.frames, every)
    ]
    return [asked for asked in found if asked is not None]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_demo_scene_is_a_test_scene_in_which_something_travels_and_something_hides(seed):
    scene = cast_scene(find_shapes(seed), SHAPES)
    sight = Sight(Renderer(scene))
    assert split_of(scene.seed) == "test" and scene.frames >= 60 and len(scene.objects) >= 4
    assert any(thing.motion in ("left", "right", "up", "down") for thing in scene.objects)
    gone = sight.gone(0)
    assert gone.any() and not gone[0] and not gone[-1], "hidden for a while, and back at the end"


def test_the_plan_covers_the_rows_of_the_scores():
    rows = {KINDS[kind].row for step in PLAN for kind in step.kinds}
    assert rows == {kind.row for kind in KINDS.values()}
    assert len(PLAN) >= 10


def test_the_worlds_answer_is_right_and_silence_is_not(exam):
    asked = questions(exam)
    assert len({a.kind for a in asked}) >= 12
    for each in asked:
        assert exam.mark(each, answered(each, each.draft.answer)).right is True
        assert exam.mark(each, answered(each, "")).right is False, "silence is no answer"
        assert exam.mark(each, answered(each, "I like it.")).right is False


WRONG = {
    "category": "It is a white plain heart.",
    "color": "It is pink.",
    "place": "It is at the bottom.",
    "motion": "It grows.",
    "unknowable": "It is very old.",
    "describe_brief": "A large white plain heart at the bottom of the image.",
    "hidden_when": "It was never hidden.",
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_answer_is_wrong(exam, kind):
    asked = [each for each in questions(exam, every=1) if each.kind == kind]
    assert asked
    # None of the scene's objects is what these say.
    assert all(exam.mark(each, answered(each, WRONG[kind])).right is False for each in asked)


def test_yes_and_no_are_told_apart(exam):
    opposite = {"yes": "no", "no": "yes"}
    said = [(each, *each.draft.answer.rstrip(".").rpartition(": ")) for each in questions(exam, every=1)]
    asked = [(each, seen, yes) for each, seen, _, yes in said if yes in opposite]
    assert {yes for _, _, yes in asked} == set(opposite)
    for each, seen, yes in asked:
        assert exam.mark(each, answered(each, f"{seen}: {opposite[yes]}.")).right is False


def test_the_truth_is_that_of_the_image_answered_about_not_of_the_one_asked_at(exam):
    sight = exam.sight
    number = next(n for n, thing in enumerate(sight.scene.objects) if thing.motion == "left")
    early, late = (
        next(i for i in order if sight.recognizable(number, i) and sight.place(number, i))
        for order in (range(sight.scene.frames), range(sight.scene.frames - 1, 0, -1))
    )
    assert sight.place(number, early) != sight.place(number, late)
    asked = exam.question(Step(("place",)), early, {number: 0}, 0)
    then, now = exam.truth(asked, (early,)), exam.truth(asked, (late,))
    assert exam.mark(asked, answered(asked, now.answer, (late,))).right is True
    assert exam.mark(asked, answered(asked, then.answer, (late,))).right is False


def test_an_image_that_leaves_the_truth_unclear_does_not_count(exam):
    sight = exam.sight
    between = [
        (number, index)
        for index in range(sight.scene.frames)
        for number in exam.in_view(index)
        if sight.place(number, index) is None and sight.place(number, 0) is not None
    ]
    number, index = between[0]
    asked = exam.question(Step(("place",)), 0, {number: 0}, 0)
    verdict = exam.mark(asked, answered(asked, asked.draft.answer, (index,)))
    assert verdict.right is None and verdict.reason


def test_an_answer_about_a_hidden_object_is_wrong_even_if_its_words_are_right(exam):
    hidden = int(np.flatnonzero(exam.sight.gone(0))[1])
    asked = exam.question(Step(("category",)), 0, {0: 0}, 0)
    assert exam.mark(asked, answered(asked, asked.draft.answer, (hidden,))).right is False


def test_a_question_without_an_answer_is_wrong(exam):
    asked = exam.question(Step(("category",)), 0, {0: 0}, 0)
    refused = Answer(Question(asked.draft.question, (1,)), AnswerStatus.OBJECT_LOST, error="draw it again")
    verdict = exam.mark(asked, refused)
    assert verdict.right is False and "OBJECT_LOST" in verdict.reason


def hiding_question(exam: Exam) -> Asked:
    found = (exam.question(HIDING, index, {0: 0}, 0) for index in range(exam.sight.scene.frames))
    return next(asked for asked in found if asked is not None)


def test_hiding_is_asked_about_only_once_the_object_is_back(exam):
    asked = hiding_question(exam)
    back = int(np.flatnonzero(exam.sight.gone(0))[-1])
    assert asked.draft.views[-1] > back
    assert "hidden_from" in {fact.slot for fact in asked.draft.facts}
    assert exam.mark(asked, answered(asked, "It was never hidden.")).right is False


def test_who_looked_at_the_hidden_object_is_held_to_what_a_faultless_tracker_saw(exam):
    asked = hiding_question(exam)
    views = np.linspace(asked.draft.views[0], asked.draft.views[-1], VIDEO_FRAMES).round().astype(int)
    assert exam.sight.gone(0)[views].any() and exam.truth(asked, views.tolist()) is None
    assert exam.mark(asked, answered(asked, asked.draft.answer, views)).right is True
    assert exam.mark(asked, answered(asked, "It was never hidden.", views)).right is False


def test_times_that_are_true_of_the_frames_looked_at_are_right_however_short_the_gap(exam):
    asked = hiding_question(exam)
    first, *_, last = asked.draft.views
    back = np.flatnonzero(exam.sight.gone(0))[-1]
    before = max(view for view in asked.draft.views if view < back)
    few = (first, before, last)  # of two steps none is twice the usual one
    assert exam.truth(asked, few) is None
    named = exam.truth(asked, few, plain=False)
    assert f"{(before - first) / 10:.1f} s and {(last - first) / 10:.1f} s" in named.answer
    assert exam.mark(asked, answered(asked, named.answer, few)).right is True
    assert exam.mark(asked, answered(asked, "It was never hidden.", few)).right is False
    elsewhere = named.answer.replace(f"{(before - first) / 10:.1f} s", f"{(last - first) / 10:.1f} s")
    assert exam.mark(asked, answered(asked, elsewhere, few)).right is False


class Robot:
    """The node as the examiner sees it: the scene goes on with every look, and answers come from a rule."""

    def __init__(self, exam: Exam, says) -> None:
        self.exam, self.says = exam, says
        self.index, self.ids, self.asked = -1, [], []

    def list_objects(self):
        self.index = min(self.index + 1, self.exam.sight.scene.frames - 1)
        sec, nanosec = divmod(stamps([self.index])[0], 1_000_000_000)
        return SimpleNamespace(header=SimpleNamespace(stamp=SimpleNamespace(sec=sec, nanosec=nanosec)))

    def add_region(self, region):
        self.ids.append(region)
        return len(self.ids)

    def ask(self, text, object_ids, *, on_text, max_tokens, frames=1, history_s=0.0):
        self.index = min(self.index + 1, self.exam.sight.scene.frames - 1)  # the camera does not wait
        numbers = ["ABCDEFGH".index(self.ids[i - 1].label) for i in object_ids]
        views = (self.index,)
        if frames > 1:
            first = max(self.index - round(history_s * 10), 0)
            views = choose_views(self.exam.sight, tuple(numbers), first, self.index, frames) or views
        self.asked.append(text)
        said = self.says(text, numbers, views)
        on_text(said, 1)
        question = Question(text, tuple(object_ids))
        looked_at = stamps(views)
        return Answer(question, AnswerStatus.OK, said, stamp_ns=looked_at[-1], frame_stamps_ns=looked_at)


def take_exam(exam: Exam, says, monkeypatch) -> list[dict]:
    examiner_module = pytest.importorskip("examiner")
    monkeypatch.setattr(examiner_module, "_PAUSE_S", 0.0)
    monkeypatch.setattr(examiner_module, "_SILENCE_S", 0.5)
    out = io.StringIO()
    examiner = examiner_module.Examiner(Robot(exam, says), exam, scene="shapes", seed=1, out=out)
    examiner.point()
    examiner.examine()
    assert examiner.unasked == []
    return [json.loads(line) for line in out.getvalue().splitlines()]


class OpenExam(Exam):
    """An exam whose questions can be looked up while they are asked."""

    asked: Asked

    def question(self, *arguments) -> Asked | None:
        found = super().question(*arguments)
        self.asked = found or getattr(self, "asked", None)
        return found

    def known(self, _text, _numbers, views) -> str:
        """The truth of the newest question in the images at hand."""
        draft = self.truth(self.asked, views)
        return draft.answer if draft is not None else "I cannot tell."


def test_who_knows_everything_passes_and_who_knows_nothing_does_not(exam, monkeypatch, capsys):
    pytest.importorskip("rclpy")
    opened = OpenExam(exam.sight)
    wise = take_exam(opened, opened.known, monkeypatch)
    counted = [answer["right"] for answer in wise if answer["right"] is not None]
    assert len(counted) >= 10 and len({answer["kind"] for answer in wise}) >= 10
    assert all(counted)
    assert {answer["step"] for answer in wise} == set(range(len(PLAN))), "nothing was left unasked"
    fool = take_exam(exam, lambda *_: "It is a white plain heart.", monkeypatch)
    assert not any(answer["right"] for answer in fool)


def test_the_examiner_points_at_the_object_it_means(exam):
    robot = Robot(exam, lambda *_: "")
    examiner = pytest.importorskip("examiner").Examiner(
        robot, exam, scene="shapes", seed=1, out=io.StringIO()
    )
    examiner.point()
    assert len(robot.ids) == len(exam.in_view(exam.index(robot.ids[0].stamp_ns))) >= 2
    for region in robot.ids:
        number, index = "ABCDEFGH".index(region.label), exam.index(region.stamp_ns)
        mask = exam.sight.renderer.layers(index).visible[number]
        if region.box is None:
            (column, row), *others = region.points.astype(int)
            assert mask[row, column] and not others
        else:
            box = region.box
            inside = mask[box.y : box.y + box.height, box.x : box.x + box.width]
            assert inside.sum() == mask.sum()
            assert inside.any(axis=0)[[0, -1]].all() and inside.any(axis=1)[[0, -1]].all()
    assert {region.box is None for region in robot.ids} == {True, False}


def test_the_printed_table_counts_what_was_marked():
    import run

    base = {"question": "What is <region>?", "objects": ["A"], "text": "A red star.", "status": "OK"}
    base |= {"stamp_ns": 10, "frame_stamps_ns": [10], "truth": "a blue star", "reason": ""}
    rights = [True, True, False, None] + [True] * (len(PLAN) - 4)
    answers = [base | {"step": step, "right": right} for step, right in enumerate(rights)]
    again = [base | {"step": 3, "right": True}]  # asked again, as it could not be marked at first
    *_, last = lines = list(run.marks(answers + again + [{"scene": "cat"}]))
    assert last.strip() == f"{len(PLAN) - 1} of {len(PLAN)} right"
    assert sum("WRONG" in line for line in lines) == 1 and sum("a blue star" in line for line in lines) == 2
    assert list(run.marks([{"scene": "cat"}])) == []
    *_, last = run.marks(answers[:-2])
    assert last.strip() == f"{len(PLAN) - 4} of {len(PLAN) - 3} right; 1 without a clear truth; 2 not asked"


def test_the_table_can_be_printed_when_no_answer_looked_at_an_image():
    import run

    lost = {"question": "What is <region>?", "objects": ["A"], "text": "", "status": "OBJECT_LOST", "step": 0}
    lost |= {"frame_stamps_ns": [], "truth": "a blue star", "reason": "", "right": False}
    *_, last = lines = list(run.marks([lost]))
    assert any("What is A?  OBJECT_LOST" in line for line in lines)
    assert last.strip() == f"0 of 1 right; {len(PLAN) - 1} not asked"


def test_models_that_know_nothing_of_what_is_shown_are_said_to():
    import run

    photographs, shapes = run.PHOTOGRAPHS, run.ShapesScene()
    shipped = (SHIPPED_MODEL, f"models/{SHIPPED_TRACKER}")
    assert "UNTRAINED" in run.caution((TINY_RANDOM, "none"), [shapes])
    for models in (shipped, (shipped[0], "none"), ("a/b", shipped[1])):
        assert "shapes world ONLY" in run.caution(models, [shapes, photographs[0]])
        assert run.caution(models, [shapes]) == ""
    assert run.caution(("a/b", "none"), photographs) == ""


def test_a_model_counts_as_shipped_once_weights_and_card_are_there(tmp_path, monkeypatch):
    monkeypatch.setattr(model_source, "_shipped_folders", lambda: [tmp_path])
    files = [
        tmp_path / name / file
        for name in (SHIPPED_MODEL, SHIPPED_TRACKER)
        for file in ("model.safetensors", "README.md")
    ]
    for file in files:
        assert embedded_models() == (TINY_RANDOM, TINY_RANDOM)
        file.parent.mkdir(exist_ok=True)
        file.touch()
    assert embedded_models() == (SHIPPED_MODEL, SHIPPED_TRACKER)
