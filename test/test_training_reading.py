# SPDX-License-Identifier: Apache-2.0
"""The stage in which a new language model learns to read: signs say what is true, and it learns from them."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest
import torch
from micro_language import MICRO
from safetensors.torch import load_file

from pixelrefer_ros.training.attributes import teach_attributes
from pixelrefer_ros.training.checkpoints import new_checkpoint, new_network, tokenizer_of
from pixelrefer_ros.training.curriculum import ASKING, COMPARING, READING, SCENE, TELLING, Course, Part
from pixelrefer_ros.training.language import LanguageSettings, losses, train_language
from pixelrefer_ros.training.language_loss import AnswerLoss
from pixelrefer_ros.training.loop import read_progress
from pixelrefer_ros.training.reading import (
    ReadingBatches,
    reading_loss,
    share_right,
    teach_reading,
)
from pixelrefer_ros.training.readings import SIGNS, Readings
from pixelrefer_ros.training.signs import Signs
from pixelrefer_ros.training.stages import PERCEPTION
from pixelrefer_ros.training.text_rows import IGNORED
from pixelrefer_ros.training.world import (
    COLORS,
    OFFERED,
    SHAPES,
    SURFACES,
    cast_scene,
    scene_drafts,
    scene_seeds,
)
from pixelrefer_ros.training.world.splits import SEEN
from pixelrefer_ros.training.world_data import WorldBatches

SETTINGS = LanguageSettings(
    attribute_steps=1,
    attribute_scenes=1,
    frame_steps=1,
    side_steps=1,
    pose_steps=1,
    infusion_steps=1,
    infusion_scenes=1,
    frame_scenes=1,
    reading_steps=2,
    asking_steps=1,
    comparing_steps=1,
    telling_steps=1,
    reading_scenes=1,
    steps=(0, 0),
    sizes=MICRO,
    workers=0,
    validate_every=0,
)


COLOR_WORDS = list(COLORS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reading")
    new_checkpoint(folder, MICRO, seed=0)
    return folder


@pytest.fixture(scope="module")
def network(folder):
    return new_network(folder, seed=0)


def test_a_batch_is_the_same_whoever_measures_it_and_shows_seen_combinations(folder, network):
    one, other = (ReadingBatches(folder, network.config, seed=3, scenes=2)[5] for _ in range(2))
    assert torch.equal(one.facts.named, other.facts.named)
    assert torch.equal(one.rows.ids, other.rows.ids)
    shown = {
        (COLOR_WORDS[color], SURFACES[surface], SHAPES[shape])
        for shape, color, surface in one.facts.named[:, :3].tolist()
    }
    assert shown <= {(c.color, c.surface, c.shape) for c in SEEN}


def test_every_place_for_an_object_has_a_view_of_it(folder, network):
    batch = ReadingBatches(folder, network.config, seed=0, scenes=2)[0]
    places = int((batch.rows.ids == network.config.region_token_id).sum())
    assert places == len(batch.views) * network.config.mask_num
    assert set(batch.views) == set(range(len(batch.facts.named))) == set(range(len(batch.facts.measured)))
    assert batch.facts.measured.isfinite().all()
    assert ((batch.facts.measured[:, :2] >= 0) & (batch.facts.measured[:, :2] < 1)).all()


def test_signs_and_answers_are_of_the_same_objects(folder, network):
    """A question for the category is answered by the words that its one view stands for."""
    batch = ReadingBatches(folder, network.config, seed=0, scenes=6)[1]
    tokenizer = tokenizer_of(folder)
    views = iter(batch.views)
    checked = 0
    for ids, labels in zip(batch.rows.ids, batch.rows.labels, strict=True):
        runs = int((ids == network.config.region_token_id).sum()) // network.config.mask_num
        own = [next(views) for _ in range(runs)]
        answer = b"".join(tokenizer.token_bytes(i) for i in labels[labels != IGNORED].tolist()).decode()
        shape, color, surface = batch.facts.named[own[0], :3].tolist()
        if runs == 1 and answer.startswith("It shows "):
            assert f"{COLOR_WORDS[color]} {SURFACES[surface]} {SHAPES[shape]}" in answer
            checked += 1
    assert checked


def test_the_first_batches_ask_of_few_kinds(folder, network):
    batches = ReadingBatches(folder, network.config, seed=0, scenes=4, steps=100)
    first, second, fourth, last = (batches[number] for number in (1, 20, 60, 99))
    assert set(first.kinds) <= set(READING.parts[0].kinds)
    assert set(second.kinds) <= {*READING.parts[1].kinds, *READING.parts[1].rehearsed}
    assert set(second.kinds) & set(READING.parts[1].kinds)
    assert set(second.kinds) & set(READING.parts[1].rehearsed), "what was learned before is asked again"
    assert {"motion", "watched"} & set(last.kinds)
    assert len(first.facts.named[:, 3:].unique()) == 1, "at first signs say nothing of what is around"
    assert len(fourth.facts.named[:, 3:].unique()) > 1


def test_the_parts_rehearse_only_what_has_been_asked_and_end_with_everything():
    settings = LanguageSettings()
    courses = {
        READING: settings.reading_steps,
        ASKING: settings.asking_steps,
        TELLING: settings.telling_steps,
    }
    assert all(course.steps == steps for course, steps in courses.items())
    assert COMPARING.steps == settings.comparing_steps
    asked: set[str] = set()
    for part in (part for course in courses for part in course.parts):
        assert set(part.rehearsed) <= asked
        asked |= set(part.kinds)
    assert all(set(course.parts[-1].kinds) == OFFERED.keys() for course in (READING, TELLING))


def test_ways_are_first_asked_of_two_frames(folder, network):
    part = next(part for part in ASKING.parts if "motion" in part.kinds)
    number = sum(before.steps for before in ASKING.parts[: ASKING.parts.index(part)])
    batches = ReadingBatches(folder, network.config, seed=0, scenes=4, course=ASKING, steps=ASKING.steps)
    batch = batches[number]
    regions = [
        int((ids == network.config.region_token_id).sum()) // network.config.mask_num
        for ids, kind in zip(batch.rows.ids, batch.kinds, strict=True)
        if kind in part.kinds
    ]
    assert regions
    assert set(regions) == {2}


def test_rights_are_shares_of_answers_and_of_what_is_said_in_lessons():
    result = AnswerLoss(
        torch.zeros(()), torch.tensor([0, 1, 1]), torch.tensor([3, 2, 4]), torch.zeros(2, 0, 1)
    )
    shares = share_right(result, ["color", "color", "checked"])
    assert shares == {"color": 0.5, "checked": 0.75}
    assert (result.right, result.answers, result.tokens) == (1, 3, 9)


def test_tokens_that_say_what_signs_say_are_not_unlike_them(folder, network):
    torch.manual_seed(0)
    signs = Signs(16, network.config.mask_num)
    facts = ReadingBatches(folder, network.config, seed=0, scenes=1)[0].facts
    meant = signs.meaning(facts).detach()[:, None].expand(-1, network.config.mask_num, -1)
    assert float(signs.unlikeness(meant, facts)) == 0
    assert float(signs.unlikeness(meant.mean(dim=0, keepdim=True).expand_as(meant), facts)) == pytest.approx(
        1 - 1 / len(meant), rel=1e-4
    ), "one token for everything is as far off as the signs are spread (n - 1 in the variance)"


def test_perception_teaches_object_tokens_what_the_language_model_reads(tmp_path):
    new_checkpoint(tmp_path, MICRO, seed=0)
    network = new_network(tmp_path, seed=0)
    batch = WorldBatches(tmp_path, network.config, PERCEPTION, seed=0, scenes=1)[0]
    assert len(batch.facts.named) == len(batch.crops)
    for (x, y), crop in zip(batch.facts.measured[:, :2].tolist(), batch.crops, strict=True):
        top, left, bottom, right = crop.box
        height, width = crop.frame_size
        assert left - 2 <= x * width <= right + 2
        assert top - 2 <= y * height <= bottom + 2
    readings = Readings.new(network, seed=0).frozen()
    optimizer = torch.optim.AdamW(network.object_encoder.parameters(), lr=3e-3)
    unlike = []
    for _ in range(30):
        optimizer.zero_grad()
        found = losses(network, batch, bf16=False, readings=readings)
        found["loss"].backward()
        optimizer.step()
        unlike.append(float(found["unlike"]))
    assert unlike[-1] < 0.7 * unlike[0]
    assert "unlike" not in losses(network, batch, bf16=False)


def test_drafts_need_no_pictures_and_are_true_of_their_scene():
    seed = scene_seeds("val", 0, 1)[0]
    drafts = list(scene_drafts(seed, 8, settings=SCENE, kinds=("category",)))
    assert drafts
    objects = cast_scene(seed, SCENE).objects
    for sight, kind, draft in drafts:
        assert (sight.scene.seed, kind) == (seed, "category")
        assert str(objects[draft.objects[0]].combination) in draft.answer


def test_the_language_model_learns_a_fixed_batch(folder):
    network = new_network(folder, seed=0)
    torch.manual_seed(0)
    signs = Signs(network.config.language.hidden_size, network.config.mask_num)
    batch = ReadingBatches(folder, network.config, seed=0, scenes=1)[0]
    optimizer = torch.optim.AdamW([*network.language.parameters(), *signs.parameters()], lr=3e-3)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = reading_loss(network, signs, batch).loss
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_a_stopped_run_goes_on_with_an_encoder_that_still_sees(tmp_path):
    new_checkpoint(tmp_path, MICRO, seed=0)
    state = tmp_path / "training"
    seen = new_network(tmp_path, seed=0)
    assert teach_attributes(seen, state, SETTINGS)
    assert not teach_reading(seen, tmp_path, state, replace(SETTINGS, minutes=1e-9), READING, 2)
    assert read_progress(state) == {"stage": READING.name, "step": 1, "steps": 2}
    again = new_network(tmp_path, seed=0)
    assert teach_reading(again, tmp_path, state, SETTINGS, READING, 2)
    for name, value in seen.vision.state_dict().items():
        assert torch.equal(value, again.vision.state_dict()[name]), name


def test_a_new_model_sees_then_reads_and_signs_are_not_shipped(tmp_path):
    assert train_language(tmp_path, SETTINGS)
    with (tmp_path / "training" / "log.csv").open(encoding="utf-8") as log:
        assert [row["stage"] for row in csv.DictReader(log)] == [
            "attributes",
            "frames",
            "sides",
            "poses",
            "reading",
            "asking",
            "telling",
            "infusion",
        ]
    assert not any("signs" in name for name in load_file(tmp_path / "model.safetensors"))
    assert (tmp_path / "training" / SIGNS).exists(), "for the stage that aligns object tokens with them"


def test_a_batch_whose_scenes_offer_nothing_asks_of_more_scenes(folder, network):
    hard = replace(SCENE, frames=1, objects=(1, 3))
    course = Course("hard", (Part(1, ("largest",), hard),), rate=1.0, flat=0.0)
    batches = ReadingBatches(folder, network.config, seed=0, scenes=1, course=course)
    assert all(batches[number].kinds for number in range(6))
