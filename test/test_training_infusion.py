# SPDX-License-Identifier: Apache-2.0
"""The stage in which a new language model learns to read what a new object encoder finds in pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from micro_language import SHORTEST, set_progress
from safetensors.torch import load_file

from pixelrefer_ros.training.checkpoints import new_network
from pixelrefer_ros.training.data import Pictures
from pixelrefer_ros.training.infusion import projected_loss, teach_infusion
from pixelrefer_ros.training.infusion_start import begin_infusion, hand_on
from pixelrefer_ros.training.infusion_views import ShownBatches, fused, looked_at, see
from pixelrefer_ros.training.language_loss import view_tokens
from pixelrefer_ros.training.loop import STATE, read_progress
from pixelrefer_ros.training.object_facts import OWN
from pixelrefer_ros.training.question_bank import QuestionBank
from pixelrefer_ros.training.readings import Readings
from pixelrefer_ros.training.world import COLORS, OFFERED, SHAPES, SURFACES, UNSEEN

SETTINGS = replace(SHORTEST, infusion_steps=2, infusion_scenes=3, infusion_batches=3, save_every=1)


@pytest.fixture
def network(micro_folder):
    return new_network(micro_folder, seed=0)


@pytest.fixture
def batches(micro_folder, network):
    return ShownBatches(micro_folder, network.config, seed=3, scenes=3)


def test_a_batch_is_the_same_whoever_draws_it_and_shows_each_object_once(micro_folder, network, batches):
    one, other = batches[2], ShownBatches(micro_folder, network.config, seed=3, scenes=3)[2]
    assert torch.equal(one.asked.facts.named, other.asked.facts.named)
    assert torch.equal(one.asked.rows.ids, other.asked.rows.ids)
    assert all((a == b).all() for a, b in zip(one.frames, other.frames, strict=True))
    facts, count = one.asked.facts, len(one.crops)
    assert len(facts.named) == len(one.own) == len(one.frame_of) == count
    assert set(one.asked.views) == set(range(count)), "no view that nobody asks about"
    assert set(one.frame_of) == set(range(len(one.frames)))
    assert len({(frame, crop.box) for frame, crop in zip(one.frame_of, one.crops, strict=True)}) == count
    for (x, y), crop, own in zip(facts.measured[:, :2].tolist(), one.crops, one.own, strict=True):
        rows, columns = own.view(24, 24).nonzero().float().add(0.5).div(24).mean(dim=0).tolist()
        assert max(abs(columns - x), abs(rows - y)) < 1.5 / 24, "own patches are where the object is"
        top, left, bottom, right = crop.box
        height, width = crop.frame_size
        assert left - 2 <= x * width <= right + 2
        assert top - 2 <= y * height <= bottom + 2


def test_pictures_and_videos_are_asked_about_in_every_kind(batches):
    asked = [kind for number in range(24) for kind in batches[number].asked.kinds]
    assert set(asked) >= set(OFFERED) - {"barely_seen"}, "which few scenes offer"


def test_unseen_combinations_are_shown_to_watch_only(micro_folder, network, batches):
    watched = ShownBatches(micro_folder, network.config, seed=3, scenes=3, split="val")

    def combinations(shown):
        shapes, colors, surfaces = shown.asked.facts.named[:, :OWN].unbind(dim=1)
        rows = zip(shapes.tolist(), colors.tolist(), surfaces.tolist(), strict=True)
        return {(SHAPES[shape], list(COLORS)[color], SURFACES[surface]) for shape, color, surface in rows}

    unseen = {(it.shape, it.color, it.surface) for it in UNSEEN}
    assert not combinations(batches[0]) & unseen
    assert combinations(watched[0]) & unseen
    assert combinations(watched[0]) - unseen


def test_what_is_kept_gives_the_tokens_that_training_goes_on_with(network, batches):
    hand_on(network.object_encoder)  # local infusion says nothing yet
    shown = batches[0]
    pictures = Pictures(frames=shown.frames, crops=shown.crops, frame_of=shown.frame_of)
    with torch.no_grad():
        direct = view_tokens(network, pictures)
        kept = network.object_encoder.feat_linear(fused(network.object_encoder, see(network, shown)).float())
    # Kept in float16, of which the last digit is a two-thousandth.
    assert float((kept - direct).norm() / direct.norm()) < 2e-3


def test_an_encoder_begins_near_to_signs_and_looks_at_its_object(network, batches):
    signs = Readings.new(network, None, seed=0).frozen().signs
    seen = [see(network, batches[number]) for number in range(4)]
    encoder = network.object_encoder

    @torch.no_grad()
    def measure() -> tuple[float, float]:
        tokens = encoder.feat_linear(torch.cat([fused(encoder, of).float() for of in seen]))
        meant = torch.cat([signs.meaning(of.facts) for of in seen])
        unlike = (tokens - meant[:, None]).square().sum(dim=2).mean() / meant.var(dim=0).sum()
        return float(unlike), float(torch.cat([looked_at(encoder, of) for of in seen]).mean())

    before, looked_before = measure()
    begin_infusion(encoder, seen, signs, seed=0, led_steps=100)
    after, looked_after = measure()
    assert after < 0.8 < before, "of these objects: with 1 every token says the mean"
    assert looked_after > 3 * looked_before


def test_answers_are_learned_from_what_is_kept_and_the_rest_stays_as_it_is(network, batches):
    bank = QuestionBank()
    shown = batches[0]
    bank.add(replace(shown.asked, fused=fused(network.object_encoder, see(network, shown))))
    learned = [*network.object_encoder.feat_linear.parameters(), *network.language.model.layers.parameters()]
    optimizer = torch.optim.AdamW(learned, lr=3e-3)
    found = []
    for step in range(25):
        optimizer.zero_grad()
        loss = projected_loss(network, bank.draw(np.random.default_rng(step), 600)).loss
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert found[-1] < 0.9 * found[0]
    infusion = network.object_encoder.fusion_attention_global
    assert all(weight.grad is None for part in (network.vision, infusion) for weight in part.parameters())
    with pytest.raises(ValueError, match="of no pictures"):
        projected_loss(network, shown.asked)


def test_a_run_that_goes_on_between_new_scenes_has_some(micro_folder, tmp_path, network):
    out = tmp_path / "training"
    out.mkdir()
    Readings.new(network, None, seed=0).save(out)
    settings = replace(SETTINGS, infusion_steps=3)
    teach_infusion(network, micro_folder, out, settings)
    set_progress(out, "infusion", 2, 3)
    assert teach_infusion(new_network(micro_folder, seed=1), micro_folder, out, settings)
    assert read_progress(out) == {"stage": "infusion", "step": 3, "steps": 3}


def test_without_signs_there_is_nothing_to_learn(micro_folder, tmp_path, network):
    assert teach_infusion(network, micro_folder, tmp_path / "training", SETTINGS)
    assert read_progress(tmp_path / "training") is None


def test_the_state_holds_what_was_learned_before(micro_folder, tmp_path, network):
    out = tmp_path / "training"
    out.mkdir()
    Readings.new(network, None, seed=0).save(out)
    parts = {"vision": network.vision, "language": network.language, "object_encoder": network.object_encoder}
    before = {
        f"{part}.{name}": value.clone()
        for part, module in parts.items()
        for name, value in module.state_dict().items()
    }
    assert teach_infusion(network, micro_folder, out, SETTINGS)
    assert read_progress(out) == {"stage": "infusion", "step": 2, "steps": 2}
    state = load_file(out / STATE)
    same = {name: torch.equal(state[f"weights/{name}"], value) for name, value in before.items()}
    assert all(same[name] for name in before if name.startswith("vision."))
    assert same["language.model.embed_tokens.weight"], "words have settled"
    assert not same["object_encoder.feat_linear.0.weight"]
    assert not same["language.model.layers.0.mlp.up_proj.weight"]
