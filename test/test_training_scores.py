# SPDX-License-Identifier: Apache-2.0
"""Scores of answers and masks: known cases, and the whole evaluation on untrained models."""

from __future__ import annotations

import argparse
import json

import numpy as np
import pytest
import torch

from pixelrefer_ros.errors import CheckpointError, ParameterError
from pixelrefer_ros.model import PixelReferLite, write_tiny_checkpoint
from pixelrefer_ros.tracking import StaticTracker, write_tiny_sam2
from pixelrefer_ros.training import evaluate
from pixelrefer_ros.training.scoring import (
    AnswerScores,
    ask,
    boundary_f,
    jaccard,
    score_shuffled,
    score_system,
    score_tracker,
)
from pixelrefer_ros.training.scoring.answers import answered, look
from pixelrefer_ros.training.scoring.masks import edges
from pixelrefer_ros.training.scoring.tracks import first_frame, region_of
from pixelrefer_ros.training.world import (
    Renderer,
    SceneSettings,
    Sight,
    cast_scene,
    scene_examples,
    scene_seeds,
)

SMALL = SceneSettings(frames=16, size=(320, 240))


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("language"))


@pytest.fixture(scope="module")
def examples():
    seeds = scene_seeds("val", 3, 5)
    return [example for seed in seeds for example in scene_examples(seed, 8, settings=SMALL)]


def square(x: int, y: int, side: int, shape=(200, 200)) -> np.ndarray:
    mask = np.zeros(shape, np.bool_)
    mask[y : y + side, x : x + side] = True
    return mask


def test_j_of_known_masks():
    assert jaccard(square(10, 10, 40), square(10, 10, 40)) == 1.0
    assert jaccard(square(10, 10, 40), square(100, 100, 40)) == 0.0
    assert jaccard(square(0, 0, 20), square(10, 0, 20)) == pytest.approx(200 / 600)
    assert jaccard(square(0, 0, 0), square(0, 0, 0)) == 1.0
    assert jaccard(square(0, 0, 0), square(0, 0, 5)) == 0.0


def test_f_of_known_masks():
    assert boundary_f(square(10, 10, 40), square(10, 10, 40)) == 1.0
    assert boundary_f(square(10, 10, 40), square(120, 120, 40)) == 0.0
    assert boundary_f(square(0, 0, 0), square(0, 0, 0)) == 1.0
    assert boundary_f(square(0, 0, 0), square(50, 50, 5)) == 0.0


def test_f_forgives_an_edge_within_the_tolerance_and_no_further():
    # The tolerance of a 200 x 200 frame is ceil(0.008 * 282.8) = 3 px.
    truth = square(50, 50, 60)
    assert boundary_f(square(53, 50, 60), truth) == 1.0
    moved = boundary_f(square(60, 50, 60), truth)
    # Ten pixels to the side: the two vertical edges, half of the whole edge, are out of reach.
    assert moved == pytest.approx(0.5, abs=0.08)


def test_edges_follow_a_mask_and_not_the_frame():
    assert edges(square(1, 1, 2, (5, 5))).astype(int).tolist() == [
        [1, 1, 1, 0, 0],
        [1, 0, 1, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ]
    assert not edges(np.ones((5, 5), np.bool_)).any()


def test_right_answers_score_everything_and_other_regions_answers_do_not(examples):
    scores = AnswerScores()
    for example in examples:
        scores.add(example, example.answer)
    assert scores.rows
    for row in scores.rows.values():
        assert row.exact == row.truthful == row.complete == 1.0
    assert not scores.wrong


def test_shuffled_regions_leave_chance(model_folder, examples):
    model = PixelReferLite.from_pretrained(model_folder)
    alike = [example for example in examples if example.kind in ("category", "place", "color", "shape")]
    scores, chance = score_shuffled(model, alike)
    asked = sum(row.count for row in chance.rows.values())
    assert asked >= 4
    assert sum(row.count for row in scores.rows.values()) == asked
    assert sum(row.correct for row in chance.rows.values()) < asked / 2


def test_answers_asked_for_together_are_those_of_one_at_a_time(model_folder, examples):
    model = PixelReferLite.from_pretrained(model_folder)
    asked = [(example, look(model, example)) for example in examples[:10]]
    together = {id(example): answer for example, answer in answered(model, iter(asked))}
    assert together == {id(example): ask(model, example) for example in examples[:10]}
    assert len(set(together.values())) > 1


def test_a_view_that_was_looked_at_is_not_looked_at_again(model_folder, examples, monkeypatch):
    model = PixelReferLite.from_pretrained(model_folder)
    pictures = 2 * [example for example in examples if len(example.frames) == 1][:6]
    fresh = [look(model, example) for example in pictures]
    encoded = []
    encode = model.encode_objects
    monkeypatch.setattr(
        model, "encode_objects", lambda rgb, masks, whole: encoded.extend(masks) or encode(rgb, masks, whole)
    )
    seen = {}
    for example, before in zip(pictures, fresh, strict=True):
        for region, own in zip(look(model, example, seen), before, strict=True):
            # Objects encoded together or one by one: another order of summing in float32.
            torch.testing.assert_close(region[0].tokens, own[0].tokens, rtol=1e-4, atol=1e-4)
    views = {(e.scene_seed, e.frame_indices[0], number) for e in pictures for number in e.objects}
    assert len(encoded) == len(seen) == len(views) < sum(len(e.objects) for e in pictures)


def test_an_answer_depends_on_the_regions_it_is_asked_about(model_folder, examples):
    model = PixelReferLite.from_pretrained(model_folder)
    pictures = [example for example in examples if len(example.frames) == 1 and len(example.masks) == 1]
    assert all(ask(model, example) == ask(model, example) for example in pictures[:2])
    assert len({ask(model, example) for example in pictures[:8]}) > 1


def test_a_tracker_that_stands_still_is_scored_by_its_boxes():
    calm = SceneSettings(frames=4, size=(320, 240), objects=(2, 3), occlusion="none", motions=("still",))
    sight = Sight(Renderer(cast_scene(9, calm)))
    tracker = StaticTracker()
    found = first_frame(tracker, sight, "box")
    for number, score in enumerate(found):
        box, area = sight.box(number, 0), int(sight.pixels[0, number])
        assert score == pytest.approx(area / (box.width * box.height))


def test_a_point_prompt_lies_on_the_object():
    for shape in range(6):
        mask = Renderer(cast_scene(shape, SMALL)).layers(0).visible[0]
        column, row = region_of(mask, 1, "point").points[0].astype(int)
        assert mask[row, column]


def test_static_clips_score_between_nothing_and_all():
    class BoxTracker(StaticTracker):
        def prompt(self, frame, regions):
            return super().prompt(frame, [region for region in regions if region.box is not None])

    scores = score_tracker(BoxTracker(), scene_seeds("val", 2, 2), frames=24)
    assert scores.first["point"] == []
    means = [value for values in scores.clips.values() for value in values]
    assert len(means) >= 3
    assert 0.0 < np.mean(means) < 1.0


def test_the_whole_system_is_asked_about_every_recognisable_object(model_folder):
    model = PixelReferLite.from_pretrained(model_folder)
    scores = score_system(model, StaticTracker(), scene_seeds("val", 5, 2), frames=6)
    assert scores.category.count >= 2
    assert scores.unanswered <= scores.category.count


def arguments(*given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    return parser.parse_args(["shapes", *given])


def test_shipped_models_are_named_as_everywhere_else(monkeypatch):
    given = {}
    monkeypatch.setattr(evaluate, "evaluate_shapes", lambda *paths, **_: given.update(paths=paths) or {})
    monkeypatch.setattr(evaluate, "table", lambda _: [])
    evaluate.run(arguments("--model", "pixelrefer-shapes", "--tracker-model", "sam2-shapes"))
    assert [path.name for path in given["paths"]] == ["pixelrefer-shapes", "sam2-shapes"]
    assert all((path / "model.safetensors").is_file() for path in given["paths"])
    with pytest.raises(CheckpointError, match="'no-such-model' does not exist; give a folder, a hub id"):
        evaluate.run(arguments("--model", "no-such-model"))


def test_evaluate_prints_and_writes_every_row(model_folder, tmp_path, capsys):
    tracker = write_tiny_sam2(tmp_path / "tracker")
    report_file = tmp_path / "report" / "scores.json"
    given = f"--model {model_folder} --tracker-model {tracker} --scenes 2 --questions 2 --tracker-frames 4"
    assert evaluate.run(arguments(*given.split(), "--split", "val", "--json", str(report_file))) == 0
    printed = capsys.readouterr().out
    report = json.loads(report_file.read_text())
    for row in (*evaluate.GOALS, *evaluate.TRACKER_GOALS):
        assert row in printed
    assert report["split"] == "val"
    assert set(report["answers"]) == {"seen", "unseen"}
    assert set(report["tracker"]["j_and_f"]) == {"no occluder", "occluder", "full occlusion"}


@pytest.mark.parametrize(
    "given",
    [
        [],
        ["--model", "x", "--scenes", "0"],
        ["--model", "x", "--seed", "-1"],
        ["--model", "x", "--tracker-frames", "1"],
    ],
)
def test_wrong_settings_are_refused_before_anything_is_loaded(given):
    with pytest.raises(ParameterError):
        evaluate.run(arguments(*given))
