# SPDX-License-Identifier: Apache-2.0
"""Scores of answers and masks: known cases, and the whole evaluation on untrained models."""

from __future__ import annotations

import argparse
import itertools
import json
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch

from pixelrefer_ros.errors import CheckpointError, ParameterError
from pixelrefer_ros.model import PixelReferLite, write_tiny_checkpoint
from pixelrefer_ros.model_source import SHIPPED_MODEL, resolve_model
from pixelrefer_ros.tracking import write_tiny_sam2
from pixelrefer_ros.training import evaluate
from pixelrefer_ros.training.scoring import (
    AnswerScores,
    boundary_f,
    jaccard,
    score_answers,
    score_shuffled,
)
from pixelrefer_ros.training.scoring.answers import ASK_ALIKE, answered, look, partners
from pixelrefer_ros.training.scoring.masks import edges
from pixelrefer_ros.training.world import (
    Example,
    SceneSettings,
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


def ask(model: PixelReferLite, example: Example) -> str:
    ((_, answer),) = answered(model, [(example, look(model, example))])
    return answer


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


def test_right_answers_score_everything(examples):
    scores = AnswerScores()
    for example in examples:
        scores.add(example, example.answer)
    assert scores.rows
    for row in scores.rows.values():
        assert row.exact == row.truthful == row.complete == 1.0
    assert not scores.wrong


def test_answers_that_are_true_of_other_regions_score_nothing():
    asked = [e for seed in scene_seeds("val", 3, 12) for e in scene_examples(seed, 12, settings=SMALL)]
    scores = AnswerScores()
    for example, other in itertools.permutations(asked, 2):
        near = any(fact.slot == "hidden_from" for fact in other.facts)  # times within the tolerance are right
        if other.kind == example.kind and not near and not other.facts & (example.facts | example.known):
            scores.add(example, other.answer)
    assert {"category", "attributes", "place", "relation", "comparison", "time"} <= set(scores.rows)
    for row in scores.rows.values():
        assert row.count >= 10
        assert row.exact == row.complete == 0.0
        assert row.truthful < 0.5, "of what is known beside them little is the same"


def right_of(scores: AnswerScores) -> int:
    return sum(row.correct for row in scores.rows.values())


def test_shuffled_regions_ask_every_question_about_a_partner_of_its_kind(model_folder, examples):
    model = PixelReferLite.from_pretrained(model_folder)
    alike = [example for example in examples if example.kind in ("category", "place", "color", "shape")]
    scores, chance = score_shuffled(model, alike)
    asked = sum(row.count for row in chance.rows.values())
    assert asked >= 4
    assert sum(row.count for row in scores.rows.values()) == asked
    assert right_of(chance) < asked / 2


@pytest.fixture(scope="module")
def asked_of_all_kinds() -> list[Example]:
    seeds = scene_seeds("val", 3, 30)
    return [example for seed in seeds for example in scene_examples(seed, 30, settings=SMALL, moments=1)]


def test_a_partner_was_asked_the_same_be_it_in_other_words(asked_of_all_kinds):
    pairs = list(partners(asked_of_all_kinds, np.random.default_rng(0)))
    assert {example.kind for example, _ in pairs} > ASK_ALIKE
    for example, partner in pairs:
        assert partner.kind == example.kind and partner.scene_seed != example.scene_seed
        assert partner.question == example.question or example.kind in ASK_ALIKE
        # So it is what is true of the partner's regions, whether its own question is asked or the other one.
        assert replace(partner, question=example.question).judge(partner.answer).correct


def test_kinds_that_ask_alike_have_a_few_wordings_and_no_yes_or_no(asked_of_all_kinds):
    wordings, slots = defaultdict(set), defaultdict(set)
    for example in asked_of_all_kinds:
        wordings[example.kind].add(example.question)
        slots[example.kind] |= {fact for fact in example.facts if fact.value in ("yes", "no")}
    assert all(len(wordings[kind]) <= 6 and not slots[kind] for kind in ASK_ALIKE)


def test_shuffled_regions_leave_chance_to_a_model_that_answers_by_what_it_sees():
    model = PixelReferLite.from_pretrained(resolve_model(SHIPPED_MODEL))
    kinds = ("category", "place", "color", "shape")
    asked = [
        example
        for seed in scene_seeds("val", 3, 6)
        for example in scene_examples(seed, 4, settings=SMALL, kinds=kinds)
    ]
    own = score_answers(model, asked)
    shuffled, chance = score_shuffled(model, asked)
    assert right_of(own) >= 0.8 * len(asked)
    # It says of a region what a perfect model would, but for some tenth of its answers.
    assert right_of(chance) - 0.15 * len(asked) <= right_of(shuffled) <= right_of(chance) + 0.15 * len(asked)
    assert right_of(shuffled) < right_of(own) / 2


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


def arguments(*given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    return parser.parse_args(["shapes", *given])


@pytest.fixture
def scored(monkeypatch) -> list[tuple]:
    """The models that would be scored, call by call."""
    calls = []
    monkeypatch.setattr(evaluate, "evaluate_shapes", lambda *paths, **_: calls.append(paths) or {})
    monkeypatch.setattr(evaluate, "table", lambda _: [])
    return calls


def test_shipped_models_are_named_as_everywhere_else_and_are_meant_where_none_is_named(scored):
    evaluate.run(arguments("--model", "pixelrefer-shapes", "--tracker-model", "sam2-shapes"))
    evaluate.run(arguments("--seed", "7", "--scenes", "3"))
    for paths in scored:
        assert [path.name for path in paths] == ["pixelrefer-shapes", "sam2-shapes"]
        assert all((path / "model.safetensors").is_file() for path in paths)
    evaluate.run(arguments("--tracker-model", "sam2-shapes"))
    assert scored[2][0] is None, "of the other one nothing is said"
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


@pytest.mark.parametrize("where", ["", "a-file/scores.json"])
def test_a_report_that_could_not_be_written_is_refused_before_the_scoring(where, scored, tmp_path):
    (tmp_path / "a-file").write_text("mine")
    with pytest.raises(ParameterError, match=r"--json .* cannot be written \(.*\): choose another file"):
        evaluate.run(arguments("--json", str(tmp_path / where)))
    assert not scored
    assert (tmp_path / "a-file").read_text() == "mine"


@pytest.mark.parametrize(
    "given",
    [
        ["--model", "x", "--scenes", "0"],
        ["--model", "x", "--seed", "-1"],
        ["--model", "x", "--tracker-frames", "1"],
    ],
)
def test_wrong_settings_are_refused_before_anything_is_loaded(given):
    with pytest.raises(ParameterError):
        evaluate.run(arguments(*given))
