# SPDX-License-Identifier: Apache-2.0
"""The stage in which a new language model learns to read: signs say what is true, and it learns from them."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest
import torch
from micro_language import MICRO, SHORTEST
from safetensors.torch import load_file

from pixelrefer_ros.training.attributes import teach_attributes
from pixelrefer_ros.training.checkpoints import new_checkpoint, new_network, tokenizer_of
from pixelrefer_ros.training.language import losses, train_language
from pixelrefer_ros.training.language_loss import AnswerLoss
from pixelrefer_ros.training.loop import read_progress
from pixelrefer_ros.training.reading import (
    STAGE,
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
    LESSONS,
    OFFERED,
    SHAPES,
    SURFACES,
    SceneSettings,
    cast_scene,
    scene_drafts,
    scene_seeds,
)
from pixelrefer_ros.training.world.splits import SEEN
from pixelrefer_ros.training.world_data import WorldBatches

SETTINGS = replace(SHORTEST, reading_steps=2, steps=(0, 0))


COLOR_WORDS = list(COLORS)
CLIP = SceneSettings(size=(320, 240))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reading")
    new_checkpoint(folder, MICRO, seed=0)
    return folder


@pytest.fixture(scope="module")
def network(folder):
    return new_network(folder, seed=0)


def test_a_batch_is_the_same_whoever_measures_it_and_shows_seen_combinations(folder, network):
    one, other = (ReadingBatches(folder, network.config, seed=3, scenes=(1, 1))[5] for _ in range(2))
    assert torch.equal(one.facts.named, other.facts.named)
    assert torch.equal(one.rows.ids, other.rows.ids)
    shown = {
        (COLOR_WORDS[color], SURFACES[surface], SHAPES[shape])
        for shape, color, surface in one.facts.named[:, :3].tolist()
    }
    assert shown <= {(c.color, c.surface, c.shape) for c in SEEN}


def test_every_place_for_an_object_has_a_view_of_it(folder, network):
    batch = ReadingBatches(folder, network.config, seed=0, scenes=(1, 1))[0]
    places = int((batch.rows.ids == network.config.region_token_id).sum())
    assert places == len(batch.views) * network.config.mask_num
    assert set(batch.views) == set(range(len(batch.facts.named))) == set(range(len(batch.facts.measured)))
    assert batch.facts.measured.isfinite().all()
    assert ((batch.facts.measured[:, :2] >= 0) & (batch.facts.measured[:, :2] < 1)).all()


def test_signs_and_answers_are_of_the_same_objects(folder, network):
    """A question for the category is answered by the words that its one view stands for."""
    batch = ReadingBatches(folder, network.config, seed=0, scenes=(12, 0))[1]
    tokenizer = tokenizer_of(folder)
    views = iter(batch.views)
    checked = 0
    for ids, labels in zip(batch.rows.ids, batch.rows.labels, strict=True):
        runs = int((ids == network.config.region_token_id).sum()) // network.config.mask_num
        own = [next(views) for _ in range(runs)]
        answer = b"".join(tokenizer.token_bytes(i) for i in labels[labels != IGNORED].tolist()).decode()
        shape, color, surface = batch.facts.named[own[0], :3].tolist()
        if runs == 1 and answer.startswith(("It shows ", "The object is ")):
            assert f"{COLOR_WORDS[color]} {SURFACES[surface]} {SHAPES[shape]}" in answer
            checked += 1
    assert checked


def test_batches_ask_of_pictures_and_of_videos_and_teach_lessons(folder, network):
    batches = ReadingBatches(folder, network.config, seed=0, scenes=(2, 1))
    kinds = [OFFERED[kind].views for number in range(3) for kind in batches[number].kinds]
    assert {"picture", "video"} <= set(kinds)
    assert {kind for number in range(3) for kind in batches[number].kinds} & LESSONS.keys()
    of_pictures = ReadingBatches(folder, network.config, seed=0, scenes=(2, 0))[0]
    assert not any(OFFERED[kind].views == "video" for kind in of_pictures.kinds)
    assert not of_pictures.times.any()


def test_signs_are_the_language_models_own_words(folder):
    network, tokenizer = new_network(folder, seed=0), tokenizer_of(folder)
    embedding = network.language.model.embed_tokens
    signs = Signs.speaking(embedding, network.config.mask_num, tokenizer)
    facts = ReadingBatches(folder, network.config, seed=0, scenes=(2, 0))[0].facts
    color = COLOR_WORDS[int(facts.named[0, 1])]
    (token, *_) = tokenizer.encode([(f" {color}", False)])
    before = signs.meaning(facts).detach()
    with torch.no_grad():
        embedding.weight[token] += 1.0
    changed = (signs.meaning(facts).detach() - before).abs().amax(dim=1) > 1e-4
    assert changed[0]
    settled = signs.settled().meaning(facts).detach()
    with torch.no_grad():
        embedding.weight[token] -= 1.0
    assert torch.equal(signs.meaning(facts), settled), "settled signs stay when the language model learns on"


def test_saved_signs_say_the_same(folder, network, tmp_path):
    signs = Signs.speaking(network.language.model.embed_tokens, 4, tokenizer_of(folder))
    signs.save(tmp_path / "signs.safetensors")
    loaded = Signs(network.config.language.hidden_size, 4).load(tmp_path / "signs.safetensors")
    facts = ReadingBatches(folder, network.config, seed=0, scenes=(1, 0))[0].facts
    assert torch.equal(signs.meaning(facts), loaded.meaning(facts))


def test_rights_are_shares_of_answers_and_of_what_is_said_in_lessons():
    result = AnswerLoss(
        torch.zeros(()),
        torch.tensor([0, 1, 1]),
        torch.tensor([3, 2, 4]),
        early=torch.zeros(0, 4, 1),
        late=torch.zeros(0, 1),
        rows_of_runs=torch.zeros(0, dtype=torch.long),
    )
    shares = share_right(result, ["color", "color", "checked"])
    assert shares == {"color": 0.5, "checked": 0.75}
    assert (result.right, result.answers, result.tokens) == (1, 3, 9)


def test_perception_teaches_hidden_states_to_tell_of_objects_too(tmp_path):
    new_checkpoint(tmp_path, MICRO, seed=0)
    network = new_network(tmp_path, seed=0)
    batch = WorldBatches(tmp_path, network.config, PERCEPTION, seed=0, scenes=1)[0]
    assert len(batch.facts.named) == len(batch.crops)
    for (x, y), crop in zip(batch.facts.measured[:, :2].tolist(), batch.crops, strict=True):
        top, left, bottom, right = crop.box
        height, width = crop.frame_size
        assert left - 2 <= x * width <= right + 2
        assert top - 2 <= y * height <= bottom + 2
    readings = Readings.new(network, None, seed=0).frozen()
    parameters = [*network.object_encoder.parameters(), *network.language.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=3e-3)
    off = []
    for _ in range(12):
        optimizer.zero_grad()
        found = losses(network, batch, bf16=False, readings=readings)
        found["loss"].backward()
        optimizer.step()
        off.append(float(found["off"]))
    assert off[-1] < 0.8 * off[0]
    assert "off" not in losses(network, batch, bf16=False)


def test_drafts_need_no_pictures_and_are_true_of_their_scene():
    seed = scene_seeds("val", 0, 1)[0]
    drafts = list(scene_drafts(seed, 8, settings=CLIP, kinds=("category",)))
    assert drafts
    objects = cast_scene(seed, CLIP).objects
    for sight, kind, draft in drafts:
        assert (sight.scene.seed, kind) == (seed, "category")
        assert str(objects[draft.objects[0]].combination) in draft.answer


def test_the_language_model_learns_a_fixed_batch(folder):
    network = new_network(folder, seed=0)
    torch.manual_seed(0)
    signs = Signs(network.config.language.hidden_size, network.config.mask_num)
    batch = ReadingBatches(folder, network.config, seed=0, scenes=(1, 0))[0]
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
    assert not teach_reading(seen, tmp_path, state, replace(SETTINGS, minutes=1e-9))
    assert read_progress(state) == {"stage": STAGE, "step": 1, "steps": 2}
    again = new_network(tmp_path, seed=0)
    assert teach_reading(again, tmp_path, state, SETTINGS)
    for name, value in seen.vision.state_dict().items():
        assert torch.equal(value, again.vision.state_dict()[name]), name


def test_a_new_model_sees_then_reads_and_signs_are_not_shipped(tmp_path):
    assert train_language(tmp_path, SETTINGS)
    with (tmp_path / "training" / "log.csv").open(encoding="utf-8") as log:
        assert [row["stage"] for row in csv.DictReader(log)] == [
            "attributes",
            "frames",
            "sides",
            "reading",
            "infusion",
        ]
    assert not any("signs" in name for name in load_file(tmp_path / "model.safetensors"))
    assert (tmp_path / "training" / SIGNS).exists(), "for the stage that aligns object tokens with them"
